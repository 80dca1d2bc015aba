"""Associative recall: what is shown, what pays, and that only memory answers."""

from __future__ import annotations

import pytest
import torch

from envs.recall import AssociativeRecallVectorEnv
from runs.tasks import RecallTask

PAIRS, QUERIES, KEYS, VALUES = 3, 5, 6, 4


def recall(num_envs: int = 50, **settings) -> AssociativeRecallVectorEnv:
    return AssociativeRecallVectorEnv(num_envs, PAIRS, QUERIES, KEYS, VALUES, **settings)


def test_keys_are_shown_with_values_and_asked_for():
    tasks = recall().sample_tasks(200, torch.Generator().manual_seed(0)).long()
    assert tasks.shape == (200, 1 + 2 * PAIRS + QUERIES, 2)
    for shown, answers in zip(tasks[..., 0].tolist(), tasks[..., 1].tolist(), strict=True):
        keys, values, asked = shown[1 : 1 + 2 * PAIRS : 2], shown[2 : 1 + 2 * PAIRS : 2], shown[1 + 2 * PAIRS :]
        assert shown[0] == 0 and set(answers[: 1 + 2 * PAIRS]) == {-1}
        assert len(set(keys)) == PAIRS and all(1 <= k <= KEYS for k in keys)
        memory = dict(zip(keys, values, strict=True))
        assert set(asked) == set(keys)  # none before all were asked for
        assert [1 + KEYS + v for v in answers[1 + 2 * PAIRS :]] == [memory[key] for key in asked]
    assert tasks[..., 1].max() == VALUES - 1 and tasks[:, 1, 0].unique().numel() == KEYS


@pytest.mark.parametrize("right", [True, False])
def test_only_right_answers_pay(right):
    env = recall(autoreset_mode="Disabled")
    seen, _ = env.reset(seed=0)
    total = torch.zeros(50)
    for t in range(env.horizon):
        assert torch.equal(seen, env.tasks[:, t, 0].long())
        answer = env.tasks[:, t, 1].long().clamp(min=0)
        seen, reward, ended, _, _ = env.step(answer if right else (answer + 1) % VALUES)
        total += reward
    assert ended.all() and (total == (QUERIES if right else 0)).all()
    assert RecallTask(PAIRS, QUERIES, KEYS, VALUES).optimum() == QUERIES


def test_what_the_most_frequent_value_earns():
    """2.597 of 8, the mean largest count of 8 draws from 8: the best answer without keys."""
    env = RecallTask(8, 8, 16).make_env(20_000, device="cpu")
    env.reset(seed=0)
    answers = env.tasks[:, -8:, 1].long()
    counts = torch.nn.functional.one_hot(answers, 8).sum(1)  # (B, 8)
    assert counts.amax(1).float().mean().item() == pytest.approx(2.597, abs=0.02)


def test_rows_that_are_at_different_steps_go_on_by_themselves():
    env = recall(4)
    env.reset(seed=0)
    for _ in range(5):
        env.step(torch.zeros(4, dtype=torch.long))
    env.reset(options={"reset_mask": torch.tensor([True, False, False, True])})
    seen, _, _, _, _ = env.step(torch.zeros(4, dtype=torch.long))
    expected = [env.tasks[b, t, 0] for b, t in enumerate([1, 6, 6, 1])]
    assert torch.equal(seen, torch.stack(expected).long())


def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match="pairs must be at most keys, got 7 and 6"):
        AssociativeRecallVectorEnv(1, 7, 1, 6, 2)
    env = recall(2)
    tasks = env.sample_tasks(2, torch.Generator().manual_seed(0))
    for place, value, message in (((0, 0, 0), 1, "first must be 0"), ((1, 3, 0), 99, "below"), ((1, 9, 1), 9, "-1 or")):
        wrong = tasks.clone()
        wrong[place] = value
        with pytest.raises(ValueError, match=message):
            env.reset(options={"tasks": wrong})

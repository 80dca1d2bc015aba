"""The benchmark's ways compute the same, its counts are right, its report is whole. No test looks at a time."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_runs import learner_for

from envs.fewshot.episodes import Episodes
from envs.rl2 import RL2Observation
from runs.agents import SNAILConfig
from runs.algorithms.learner import RunConfig
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.bench.fewshot import Classifiers, noise_sampler, training_step
from runs.bench.measure import check_agreement, count_flops
from runs.bench.recurrent_ppo import NOT_INSTALLED, RecurrentPPO, bandit
from runs.bench.report import TINY, Report, bench, render
from runs.bench.rollout import RerunAgent, rollout_differences
from runs.bench.training import Repeated
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.tasks import BanditTask
from snail import SNAIL, TC, ActorCritic, Attention, AttentionBlock, OmniglotEmbedding, TCBlock
from snail.minimal import minimal_copy

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def macs(
    batch: int,
    steps: int,
    size_in: int,
    stem: int,
    filters: tuple[int, ...],
    layers: int,
    kv: int,
    size_out: int,
    keys_read: int,
    taps_skipped: bool = True,
) -> int:
    """Multiply-adds of a SNAIL of TC blocks and one attention block, written out by hand for one sequence.

    ``keys_read``: (query, key) pairs that the attention multiplies. ``taps_skipped``: whether products with the zeros
    before the first step are left out.
    """  # fmt: skip
    total, width = steps * size_in * stem, stem
    for f in filters:
        for layer in range(layers):
            past = max(0, steps - 2**layer) if taps_skipped else steps
            total += (steps + past) * width * 2 * f
            width += f
    total += steps * width * 3 * kv + keys_read * 2 * kv + steps * (width + kv) * size_out
    return batch * total


def policy_macs(batch: int, steps: int, keys_read: int, taps_skipped: bool = True, size_out: int = 5) -> int:
    return macs(batch, steps, 7, 32, (32, 32), 3, 32, size_out, keys_read, taps_skipped)


def value_macs(batch: int, steps: int, taps_skipped: bool = True) -> int:
    return macs(batch, steps, 7, 32, (16, 16), 3, 16, 1, steps**2, taps_skipped)


@pytest.fixture(scope="module")
def report() -> Report:
    return bench("all", CPU, repetitions=2, sizes=TINY)


def test_rerunning_an_agent_gives_what_streaming_gives():
    torch.manual_seed(0)
    policy, value = SNAIL.policy(7, 5, 12), SNAIL.value(7, 12)
    agent = ActorCritic(policy, value, 1, 5)
    env = BanditTask(5, 12).make_env(3, CPU)
    for rerun in (
        RerunAgent(agent, policy, value),
        RerunAgent(agent, minimal_copy(policy), minimal_copy(value)),
    ):
        differences = rollout_differences(agent, rerun, env, torch.Generator().manual_seed(0))
        assert set(differences) == {"log-probabilities", "values"}
        assert max(differences.values()) < 1e-5


def test_difference_is_seen():
    torch.manual_seed(0)
    policy, value = SNAIL.policy(7, 5, 4), SNAIL.value(7, 4)
    other = RerunAgent(ActorCritic(policy, value, 1, 5), SNAIL.policy(7, 5, 4), SNAIL.value(7, 4))
    env = BanditTask(5, 4).make_env(3, CPU)
    differences = rollout_differences(ActorCritic(policy, value, 1, 5), other, env, torch.Generator().manual_seed(0))
    assert min(differences.values()) > 1e-2
    with pytest.raises(RunError, match="disagree: log-probabilities"):
        check_agreement(differences)
    with pytest.raises(RunError, match="nan"):
        check_agreement({"values": float("nan")})


def tiny_episodes() -> Episodes:
    return noise_sampler(TINY.few, CPU).sample(TINY.few.episodes, TINY.few.shots, torch.Generator().manual_seed(0))


def test_classifiers_agree_in_logits_and_gradients():
    episodes = tiny_episodes()
    models = Classifiers.build(TINY.few, episodes)
    logits, gradients = [], []
    for model in (models.ours, models.rerun, models.plain):
        out = model.eval()(*episodes.inputs)
        F.cross_entropy(out.flatten(0, 1), episodes.query_y.flatten()).backward()
        logits.append(out)
        gradients.append(model.embedding.blocks[0].weight.grad)
    assert logits[0].std(dim=1).max() > 1e-3  # queries are told apart, or agreement would say little
    assert gradients[0].abs().max() > 1e-5
    for i in (1, 2):
        torch.testing.assert_close(logits[i], logits[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradients[i], gradients[0], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_trains(precision):
    episodes = tiny_episodes()
    models = Classifiers.build(TINY.few, episodes)
    for model in (models.ours, models.rerun, models.plain):
        before = [p.detach().clone() for p in model.parameters()]
        training_step(model, torch.optim.AdamW(model.parameters(), 1e-3), episodes, precision)
        assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_flops_of_a_parallel_forward():
    torch.manual_seed(0)
    model = SNAIL(3, 2, 6, (TC(4), TC(5), Attention(6, 6)), stem=8)
    by_hand = 2 * macs(2, 6, 3, 8, (4, 5), 3, 6, 2, keys_read=36)
    assert count_flops(lambda: model(torch.randn(2, 6, 3))) == by_hand
    without_grad = torch.no_grad()(model)
    assert count_flops(lambda: without_grad(torch.randn(2, 6, 3))) == by_hand


def test_flops_of_a_backward_pass():
    """Each product of the forward has two of its size in the backward: for its weight and for its input."""
    block = TCBlock(3, 6, 4)
    forward = 2 * 2 * sum((6 + 6 - 2**i) * (3 + 4 * i) * 8 for i in range(3))
    assert count_flops(lambda: block(torch.randn(2, 6, 3)).sum().backward()) == 3 * forward


def test_flops_of_attention_with_its_backward():
    block = AttentionBlock(3, 4, 4)
    projection, product = 2 * 6 * 3 * 12, 6 * 6 * 4  # of one sequence
    # dQ, dK, dV and the gradient of the weights, and once more Q K where a kernel did not keep it
    possible = [2 * 2 * (projection + products * product) for products in (6, 7)]
    assert count_flops(lambda: block(torch.randn(2, 6, 3)).sum().backward()) in possible


def test_flops_of_the_image_embedding():
    embedding = OmniglotEmbedding(output_size=7, filters=4)
    images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    by_hand = 2 * 3 * (28**2 * 9 * 4 + (14**2 + 7**2 + 3**2) * 9 * 4 * 4 + 4 * 7)
    assert count_flops(lambda: embedding(images)) == by_hand


def test_flops_of_the_rollout_rows(report):
    T, trials, rerun_trials = TINY.pulls, TINY.trials, TINY.rerun_trials
    streaming = policy_macs(1, T, keys_read=T * (T + 1) // 2) + value_macs(1, T)
    rerunning, plainly = (
        sum(policy_macs(1, t, t * t, skipped) + value_macs(1, t, skipped) for t in range(1, T + 1))
        for skipped in (True, False)
    )
    by_hand = [trials * streaming, rerun_trials * rerunning, rerun_trials * plainly, streaming, plainly]
    assert [row.flops for row in report.benchmarks[0].rows[:5]] == [2 * n for n in by_hand]


def test_flops_of_the_step_rows(report):
    def until(t: int) -> int:
        return policy_macs(TINY.step_trials, t, keys_read=t * (t + 1) // 2)

    n = TINY.steps_timed
    starts = [1, 6 - n]
    assert TINY.step_times == (1, 6)
    assert [row.flops for row in report.benchmarks[1].rows] == [2 * (until(t + n) - until(t)) for t in starts]


def test_flops_of_the_update(report):
    T = TINY.pulls
    learner = learner_for(PPOTraining(steps=1), BanditTask(5, T), SNAILConfig(), TrialTest(), 0, Machine(CPU))
    policy = policy_macs(1, T, 0, size_out=learner.model.policy.output_size)
    products = policy + value_macs(1, T) - T**2 * 2 * 16  # without attention
    forward_only = 2 * T * 7 * 32  # no gradient for the input
    # an attention's backward has four products of the forward's two, and once more Q K where a kernel did not keep it
    possible = [2 * TINY.trials * (3 * products - forward_only + n * T**2 * (32 + 16)) for n in (6, 7)]
    assert report.benchmarks[3].rows[0].flops in possible


@pytest.mark.parametrize("backward", [False, True])
def test_flops_of_an_lstm(backward):
    lstm, x = torch.nn.LSTM(3, 4), torch.randn(6, 2, 3, requires_grad=True)
    forward = 2 * 6 * 2 * 16 * (3 + 4)

    def run() -> None:
        y = lstm(x)[0].sum()
        if backward:
            y.backward()

    assert count_flops(run) == forward * (3 if backward else 1)


def test_rows_follow_from_the_times(report):
    for benchmark in report.benchmarks:
        ours = benchmark.rows[0]
        assert ours.speedup == 1
        assert set(benchmark.peaks) == {"float32", "bfloat16"}
        for row in benchmark.rows:
            assert len(row.seconds) == report.repetitions == 2
            assert row.best_rate == row.units / min(row.seconds)
            assert row.best_flop_rate == row.flops / min(row.seconds)
            ratios = [(ours.units / a) / (row.units / c) for a, c in zip(ours.seconds, row.seconds, strict=True)]
            assert row.speedup == pytest.approx(sum(ratios) / 2)  # the median of two


def test_report_is_rendered_and_kept(report):
    text = render(report)
    names = ["rollout", "step", "training", "update", "fewshot", "fewshot, long"]
    stacks = [f"dense stack, {task}, {p}" for task in ("bandits", "few-shot") for p in ("float32", "bfloat16")]
    control = ["control"] if find_spec("mujoco") else []
    assert [x.name for x in report.benchmarks] == names + stacks + control
    for benchmark in report.benchmarks:
        rows = [row.name for row in benchmark.rows]
        for words in (benchmark.name, benchmark.about, f"{benchmark.unit}/s", *benchmark.notes, *rows):
            assert words in text
    assert torch.__version__ in text and report.device in text and report.date in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["benchmarks"][4]["rows"][0]["units"] == TINY.few.episodes * TINY.few.queries
    assert data["sizes"]["pulls"] == TINY.pulls


def test_one_benchmark_alone_and_without_the_optional_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    alone = bench("rollout", CPU, 1, TINY)
    assert [x.name for x in alone.benchmarks] == ["rollout", "step", "training", "update"]
    assert alone.benchmarks[0].notes == (NOT_INSTALLED,) and NOT_INSTALLED in render(alone)
    assert not any("RecurrentPPO" in row.name for benchmark in alone.benchmarks for row in benchmark.rows)


def test_environments_alone_are_stepped_as_often_as_ours(monkeypatch):
    """Both count the same steps, and both take them."""
    pytest.importorskip("mujoco")
    from runs.bench.control import Loop

    loop, taken = Loop(envs=3, steps=5), []
    loop.reset()
    for i, env in enumerate(loop.envs):
        monkeypatch.setattr(env, "step", lambda action, i=i: taken.append((i, tuple(action))))
    loop.step(None)
    assert [i for i, _ in taken] == [0, 1, 2] * 5 and len(set(taken)) == 15
    (control,) = bench("control", CPU, 1, TINY).benchmarks
    rows = {row.name: row.units for row in control.rows if not row.name.startswith("RecurrentPPO")}
    assert set(rows.values()) == {TINY.control_trials * TINY.control_steps} and "ours: snail" in rows


def test_the_update_phase_can_be_repeated():
    training = PPOTraining(steps=1, batch_size=4)
    run = RunConfig("", "", "", 0, BanditTask(5, 4), SNAILConfig(), training, TrialTest())
    learner = Repeated(training, run, Machine(CPU))

    def changed(act: Callable[[], object]) -> bool:
        before = [p.detach().clone() for p in learner.model.parameters()]
        act()
        return any((p != q).any() for p, q in zip(learner.model.parameters(), before, strict=True))

    assert changed(lambda: learner.update(0))
    assert not changed(learner.improve_again)


def test_the_wrapped_bandit_shows_what_ours_sees():
    env = RL2Observation(gymnasium.make("snail/BernoulliBandit-v0", arms=3, pulls=4))
    agent = ActorCritic(SNAIL.policy(5, 3, 4), None, 1, 3)
    seen, _ = env.reset(seed=0)
    assert seen.tolist() == agent.first_input(torch.zeros(1, dtype=torch.long))[0].tolist()
    for action in (2, 0, 1):
        seen, reward, _, _, info = env.step(np.int64(action))
        parts = [torch.tensor(x) for x in (0, action, reward, info["episode_end"])]
        assert seen.tolist() == agent.encode(*parts).tolist() and seen in env.observation_space


def test_recurrent_ppo_plays_and_learns():
    pytest.importorskip("sb3_contrib")
    other = RecurrentPPO(lambda: bandit(BanditTask(5, 6)), CPU, steps=8)
    assert other.steps == 8 and "8 steps" in other.notes[1]

    def changed(run: Callable[[], object]) -> list[bool]:
        agents = (other._collector, other._learner)
        before = [copy.deepcopy(agent.policy.state_dict()) for agent in agents]
        run()
        return [
            any((p != old[name]).any() for name, p in agent.policy.state_dict().items())
            for agent, old in zip(agents, before, strict=True)
        ]

    assert changed(other.collect) == [False, False]
    assert changed(other.iterate) == [False, True]
    assert other._collector.num_timesteps == other._learner.num_timesteps == 8


def test_recurrent_ppo_has_rows_where_it_is_installed(report):
    pytest.importorskip("sb3_contrib")
    rows = [row for benchmark in report.benchmarks for row in benchmark.rows if "RecurrentPPO" in row.name]
    assert [row.units for row in rows] == [8, 8, 16][: len(rows)]  # the last on two cheetahs
    lstm_and_heads = 2 * 4 * 256 * (7 + 256) + 2 * (256 * 64 + 64 * 64) + 64 * 6
    value_after_the_last = 4 * 256 * (7 + 256) + 256 * 64 + 64 * 64 + 64
    assert rows[0].flops == 2 * (8 * lstm_and_heads + value_after_the_last)


def test_wrong_arguments_are_named():
    with pytest.raises(
        RunError, match=r"what must be one of all, rollout, fewshot, dense-stack, control, scaling, got 'rolout'"
    ):
        bench("rolout")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="repetitions must be at least 1, got 0"):
        bench(repetitions=0)

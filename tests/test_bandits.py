"""Bernoulli bandits: what is particular to them, beside the laws in test_vector_envs.py."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from envs import BernoulliBanditEnv, BernoulliBanditVectorEnv

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]


def test_task_prior_is_uniform_and_independent() -> None:
    bandits = BernoulliBanditVectorEnv(20_000, arms=4)
    tasks = bandits.sample_tasks(20_000, torch.Generator().manual_seed(0))
    assert tasks.shape == (20_000, 4) and tasks.dtype == torch.float32
    p = tasks.flatten().double().sort().values
    distance = (p - torch.arange(len(p)) / len(p)).abs().max().item()
    assert distance < 1.63 / len(p) ** 0.5  # Kolmogorov-Smirnov at 1 percent
    correlation = torch.corrcoef(tasks.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / 20_000**0.5


def test_sampling_tasks_leaves_the_environment_alone() -> None:
    rewards = []
    for sample in (False, True):
        bandits = BernoulliBanditVectorEnv(64)
        bandits.reset(seed=0)
        if sample:
            bandits.sample_tasks(10, torch.Generator().manual_seed(0))
        rewards.append(bandits.step([0] * 64)[1])
    assert torch.equal(*rewards)


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_rewards_come_at_the_rate_of_the_pulled_arm(chance: float) -> None:
    num_envs, pulls = 2000, 10
    bandits = BernoulliBanditVectorEnv(num_envs, arms=3, pulls=pulls)
    tasks = torch.full((num_envs, 3), 1 - chance)
    tasks[:, 1] = chance
    bandits.reset(seed=0, options={"tasks": tasks})
    actions = torch.ones(num_envs, dtype=torch.int64)
    rewards = torch.stack([bandits.step(actions)[1] for _ in range(pulls)])  # (N, B)
    assert set(rewards.unique().tolist()) <= {0.0, 1.0}
    error = (chance * (1 - chance) / rewards.numel()) ** 0.5
    assert abs(rewards.mean().item() - chance) <= 4 * error
    # Pulls of one arm are independent: given p, the number of successes in a row is binomial.
    variance = pulls * chance * (1 - chance)
    assert rewards.sum(0).var().item() == pytest.approx(variance, rel=0.2, abs=1e-9)


def test_each_action_pulls_its_own_arm() -> None:
    bandits = BernoulliBanditVectorEnv(5, arms=5, pulls=100)
    bandits.reset(seed=0, options={"tasks": torch.eye(5)})
    for shift in range(5):
        actions = (torch.arange(5) + shift) % 5
        assert bandits.step(actions)[1].tolist() == [float(shift == 0)] * 5


def test_given_tasks_are_copied_and_stay_for_one_trial() -> None:
    bandits = BernoulliBanditVectorEnv(3, arms=2, pulls=2)
    given = np.array([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]])  # numpy float64 is accepted
    bandits.reset(seed=0, options={"tasks": given})
    given[:] = 0.5
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]])
    for _ in range(2):
        assert torch.equal(bandits.tasks, expected)
        bandits.step([0, 0, 0])
    bandits.step([0, 0, 0])  # autoreset
    assert not torch.isclose(bandits.tasks, expected).any()


def test_given_tasks_with_a_mask_go_to_the_masked_rows() -> None:
    bandits = BernoulliBanditVectorEnv(3, arms=2)
    bandits.reset(seed=0)
    before = bandits.tasks
    kept = before.clone()
    bandits.reset(options={"tasks": torch.ones(3, 2), "reset_mask": [False, True, False]})
    assert torch.equal(bandits.tasks, torch.stack([kept[0], torch.ones(2), kept[2]]))
    assert torch.equal(before, kept)  # tasks handed out are never written to


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (torch.full((2, 3), 1.5), "between 0 and 1, got 1.5 to 1.5"),
        (torch.full((2, 3), -0.5), "between 0 and 1"),
        (torch.full((2, 3), torch.nan), "between 0 and 1"),
        (torch.zeros(3, 2), r"shape \(2, 3\), got \(3, 2\)"),
    ],
)
def test_impossible_tasks_are_refused(tasks: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BernoulliBanditVectorEnv(2, arms=3).reset(options={"tasks": tasks})


@pytest.mark.parametrize("name", ["num_envs", "arms", "pulls"])
def test_counts_below_one_are_refused(name: str) -> None:
    counts = {"num_envs": 1, "arms": 1, "pulls": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        BernoulliBanditVectorEnv(counts["num_envs"], counts["arms"], counts["pulls"])


def test_attributes() -> None:
    bandits = BernoulliBanditVectorEnv(2, arms=7, pulls=13)
    assert (bandits.horizon, bandits.num_actions, bandits.num_observations) == (13, 7, 1)
    assert bandits.device == torch.device("cpu")
    with pytest.raises(ResetNeeded):
        _ = bandits.tasks


def test_single_bandit_plays_a_given_task() -> None:
    bandit = BernoulliBanditEnv(arms=2, pulls=3)
    observation, info = bandit.reset(seed=0, options={"task": [0.0, 1.0]})
    assert observation == 0 and info == {"episode_end": True}
    assert bandit.step(np.int64(1))[1:] == (1.0, False, False, {"episode_end": True})
    assert bandit.step(np.int64(0))[1:] == (0.0, False, False, {"episode_end": True})
    assert bandit.step(np.int64(1))[1:] == (1.0, True, False, {"episode_end": True})
    with pytest.raises(ResetNeeded, match="ended after 3 steps"):
        bandit.step(np.int64(0))


def test_single_bandit_takes_its_randomness_from_np_random() -> None:
    bandit = BernoulliBanditEnv()
    tasks = []
    for _ in range(2):
        bandit.np_random = np.random.default_rng(7)
        bandit.reset()
        tasks.append(bandit.trials.tasks)
    assert torch.equal(*tasks)
    bandit.reset()
    assert not torch.equal(bandit.trials.tasks, tasks[0])


def test_arguments_pass_through_the_registry() -> None:
    bandit = gymnasium.make("snail/BernoulliBandit-v0", arms=3, pulls=4)
    assert bandit.action_space == gymnasium.spaces.Discrete(3)
    bandits = gymnasium.make_vec("snail/BernoulliBandit-v0", num_envs=6, arms=3, pulls=4, autoreset_mode="Disabled")
    assert isinstance(bandits, BernoulliBanditVectorEnv)
    assert (bandits.num_envs, bandits.num_actions, bandits.horizon) == (6, 3, 4)
    assert bandits.metadata["autoreset_mode"] is AutoresetMode.DISABLED


@pytest.mark.parametrize("device", DEVICES)
def test_device(device: str) -> None:
    bandits = BernoulliBanditVectorEnv(8, device=device)
    observations, info = bandits.reset(seed=0)
    outputs = [*bandits.step(torch.zeros(8, dtype=torch.int64, device=device))[:4], observations]
    tensors = [*outputs, info["episode_end"], bandits.tasks]
    assert {t.device.type for t in tensors} == {torch.device(device).type}


@cuda
def test_steps_do_not_wait_for_the_device() -> None:
    bandits = BernoulliBanditVectorEnv(64, pulls=3, device="cuda")
    bandits.reset(seed=0)
    actions = torch.zeros(64, dtype=torch.int64, device="cuda")
    for mixed in (False, True):
        if mixed:
            bandits.step(actions)
            bandits.reset(options={"reset_mask": torch.arange(64) < 32})
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(10):
                bandits.step(actions)
        finally:
            torch.cuda.set_sync_debug_mode("default")

"""Laws of every registered environment: an environment joins by being registered under ``snail/``."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from torch import Tensor

import envs
from envs import TrialVectorEnv

IDS = sorted(name for name in gymnasium.registry if name.startswith("snail/"))
B = 6


@pytest.fixture(params=IDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def make(name: str, num_envs: int = B, **kwargs: Any) -> TrialVectorEnv:
    trials = gymnasium.make_vec(name, num_envs=num_envs, **kwargs)
    assert isinstance(trials, TrialVectorEnv)
    return trials


def random_actions(trials: TrialVectorEnv, steps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(trials.num_actions, (steps, trials.num_envs), generator=generator)  # (T, B)


def roll(trials: TrialVectorEnv, actions: Tensor, seed: int | None = 0) -> list[Tensor]:
    """Observations, rewards, terminated, truncated and episode ends from a reset on, each (T, B)."""
    trials.reset(seed=seed)
    steps = []
    for a in actions:
        *results, info = trials.step(a)
        steps.append([*results, info["episode_end"]])
    return [torch.stack(results) for results in zip(*steps, strict=True)]


def test_something_is_registered() -> None:
    assert "snail/BernoulliBandit-v0" in IDS


def test_registering_again_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    envs.register()
    assert dict(gymnasium.registry) == before


@pytest.mark.slow
def test_names_are_found_without_an_import(name: str) -> None:
    code = f"""
import sys, gymnasium
gymnasium.make_vec("envs:{name}", num_envs=2).reset(seed=0)
assert not {{"PIL", "matplotlib", "snail", "baselines", "runs"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_single_env_passes_gymnasiums_checks(name: str) -> None:
    check_env(gymnasium.make(name).unwrapped)


def test_single_env_is_deterministic(name: str) -> None:
    runs = []
    for _ in range(2):
        env = gymnasium.make(name)
        env.action_space.seed(0)
        run: list[Any] = [env.reset(seed=3)]
        for _ in range(2 * env.get_wrapper_attr("horizon")):
            run.append(env.step(env.action_space.sample()))
            if run[-1][2]:
                run.append(env.reset())
        runs.append(run)
    assert runs[0] == runs[1]


def test_single_env_ends_at_the_horizon_and_refuses_unknown_options(name: str) -> None:
    env = gymnasium.make(name)
    env.reset(seed=0)
    horizon = env.get_wrapper_attr("horizon")
    terminated = [env.step(env.action_space.sample())[2] for _ in range(horizon)]
    assert terminated == [False] * (horizon - 1) + [True]
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    with pytest.raises(ValueError, match="got \\['tasks'\\]"):
        env.reset(options={"tasks": None})


def test_shapes_types_and_spaces(name: str) -> None:
    trials = make(name)
    assert trials.single_observation_space == gymnasium.spaces.Discrete(trials.num_observations)
    assert trials.single_action_space == gymnasium.spaces.Discrete(trials.num_actions)
    assert trials.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, info = trials.reset(seed=0)
    assert trials.observation_space.contains(observations.numpy())
    assert info["episode_end"].tolist() == [True] * B
    assert trials.tasks.shape == (B, *trials.task_shape) and trials.tasks.dtype == torch.float32
    for actions in random_actions(trials, 2 * trials.horizon + 2):
        assert trials.action_space.contains(actions.numpy())
        observations, rewards, terminated, truncated, info = trials.step(actions)
        assert observations.dtype == torch.int64
        assert trials.observation_space.contains(observations.numpy())
        assert rewards.shape == (B,) and rewards.dtype == torch.float32 and rewards.isfinite().all()
        for flag in (terminated, truncated, info["episode_end"]):
            assert flag.shape == (B,) and flag.dtype == torch.bool
        assert not truncated.any()


def test_single_and_vector_env_share_their_spaces(name: str) -> None:
    env, trials = gymnasium.make(name), make(name)
    assert env.observation_space == trials.single_observation_space
    assert env.action_space == trials.single_action_space


def test_seeds_determine_everything(name: str) -> None:
    first, second = make(name), make(name)
    actions = random_actions(first, 2 * first.horizon + 1)
    runs = [roll(first, actions), roll(second, actions), roll(first, actions)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
    first.reset(seed=0)
    tasks = first.tasks
    first.reset(seed=1)
    other = first.tasks
    first.reset()
    assert not torch.equal(tasks, other) and not torch.equal(other, first.tasks)


def test_unseeded_environments_differ(name: str) -> None:
    first, second = make(name), make(name)
    first.reset()
    second.reset()
    assert not torch.equal(first.tasks, second.tasks)


def test_tasks_differ_between_rows_and_stay_during_a_trial(name: str) -> None:
    trials = make(name)
    trials.reset(seed=0)
    tasks = trials.tasks.clone()
    assert len(tasks.flatten(1).unique(dim=0)) == B
    for actions in random_actions(trials, trials.horizon):
        trials.step(actions)
        assert torch.equal(trials.tasks, tasks)


def test_next_step_autoreset(name: str) -> None:
    trials = make(name)
    period = trials.horizon + 1  # the step after the end is a reset
    _, rewards, terminated, _, _ = roll(trials, random_actions(trials, 3 * period))
    ends = torch.arange(1, 3 * period + 1) % period == trials.horizon
    assert torch.equal(terminated, ends[:, None].expand(-1, B))
    assert (rewards[period - 1 :: period] == 0).all()

    trials.reset(seed=0)
    for actions in random_actions(trials, trials.horizon):
        trials.step(actions)
    tasks = trials.tasks
    observations, _, _, _, info = trials.step([0] * B)
    assert (trials.tasks != tasks).flatten(1).any(1).all()
    assert (observations == trials.start_observation).all() and info["episode_end"].all()


def test_the_action_of_a_reset_step_is_ignored(name: str) -> None:
    trials = make(name)
    actions = random_actions(trials, 2 * trials.horizon + 1)
    changed = actions.clone()
    changed[trials.horizon] = (actions[trials.horizon] + 1) % trials.num_actions
    assert all(torch.equal(a, b) for a, b in zip(roll(trials, actions), roll(trials, changed), strict=True))


def test_inner_episodes_end_and_restart_on_time(name: str) -> None:
    trials = make(name)
    observations, _, _, _, ends = roll(trials, random_actions(trials, trials.horizon))
    expected = torch.arange(1, trials.horizon + 1) % trials.episode_length == 0
    assert torch.equal(ends, expected[:, None].expand(-1, B))
    assert (observations[expected] == trials.start_observation).all()


def test_disabled_autoreset_refuses_to_go_on(name: str) -> None:
    trials = make(name, autoreset_mode=AutoresetMode.DISABLED)
    *_, terminated, _, _ = roll(trials, random_actions(trials, trials.horizon))
    assert terminated[-1].all() and not terminated[:-1].any()
    with pytest.raises(ResetNeeded, match=f"6 of 6 trials have ended after {trials.horizon} steps"):
        trials.step([0] * B)
    mask = torch.arange(B) > 0
    trials.reset(options={"reset_mask": mask})
    with pytest.raises(ResetNeeded, match="1 of 6 trials"):
        trials.step([0] * B)
    trials.reset(options={"reset_mask": ~mask})
    trials.step([0] * B)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_reset_mask_resets_the_masked_rows_only(name: str, kind: Any) -> None:
    trials = make(name)
    steps = trials.horizon // 2
    observations, *_ = roll(trials, random_actions(trials, steps))
    tasks = trials.tasks
    mask = [True, False, False, True, False, False]
    rows = torch.tensor(mask)
    after, info = trials.reset(options={"reset_mask": kind(mask)})
    assert (after[rows] == trials.start_observation).all()
    assert torch.equal(after[~rows], observations[-1][~rows])
    assert info["episode_end"][rows].all()
    assert (info["episode_end"][~rows] == (steps % trials.episode_length == 0)).all()
    assert torch.equal(trials.tasks[~rows], tasks[~rows])
    assert (trials.tasks != tasks)[rows].flatten(1).any(1).all()


def test_rows_at_different_times_keep_their_own_clocks(name: str) -> None:
    trials = make(name)
    period = trials.horizon + 1
    clock = torch.zeros(B, dtype=torch.int64)
    trials.reset(seed=0)
    for t, actions in enumerate(random_actions(trials, 3 * period)):
        if t in (2, trials.horizon - 1, period + 3):
            mask = torch.arange(B) % 3 == t % 3
            trials.reset(options={"reset_mask": mask})
            clock[mask] = 0
        tasks = trials.tasks
        observations, rewards, terminated, _, info = trials.step(actions)
        clock = (clock + 1) % period
        fresh = clock == 0
        opens = clock % trials.episode_length == 0
        assert torch.equal(terminated, clock == trials.horizon)
        assert torch.equal(info["episode_end"], opens)
        assert (observations[opens] == trials.start_observation).all()
        assert (rewards[fresh] == 0).all()
        assert torch.equal((trials.tasks != tasks).flatten(1).any(1), fresh)


def test_what_one_row_does_changes_no_other_row(name: str) -> None:
    trials = make(name)
    actions = random_actions(trials, 2 * trials.horizon + 1)
    changed = actions.clone()
    changed[:, 2] = (actions[:, 2] + 1) % trials.num_actions
    others = torch.arange(B) != 2
    for a, b in zip(roll(trials, actions), roll(trials, changed), strict=True):
        assert torch.equal(a[:, others], b[:, others])


def test_given_tasks_are_used(name: str) -> None:
    trials = make(name)
    tasks = trials.sample_tasks(B, torch.Generator().manual_seed(5))
    assert torch.equal(tasks, trials.sample_tasks(B, torch.Generator().manual_seed(5)))
    actions = random_actions(trials, trials.horizon)
    trials.reset(seed=0, options={"tasks": tasks})
    assert torch.equal(trials.tasks, tasks)
    rewards = torch.stack([trials.step(a)[1] for a in actions])
    trials.reset(seed=0, options={"tasks": tasks})
    assert torch.equal(rewards, torch.stack([trials.step(a)[1] for a in actions]))


def test_results_belong_to_the_caller(name: str) -> None:
    trials = make(name)
    actions = random_actions(trials, trials.horizon)
    expected = roll(trials, actions)
    trials.reset(seed=0)[0].fill_(-1)
    for t, a in enumerate(actions):
        observations, rewards, terminated, truncated, info = trials.step(a)
        results = (observations, rewards, terminated, truncated, info["episode_end"])
        for result, value in zip(results, expected, strict=True):
            assert torch.equal(result, value[t])
            result.fill_(1)


def test_misuse_is_refused_and_changes_nothing(name: str) -> None:
    trials = make(name)
    with pytest.raises(ResetNeeded):
        trials.step([0] * B)
    with pytest.raises(ResetNeeded):
        trials.reset(options={"reset_mask": torch.arange(B) == 0})
    trials.reset(seed=0)
    bad_actions: list[tuple[list[float], type[Exception], str]] = [
        ([0] * (B + 1), ValueError, r"shape \(6,\), got \(7,\)"),
        ([0.0] * B, TypeError, "integers"),
        ([True] * B, TypeError, "integers"),
        ([trials.num_actions] * B, ValueError, "actions must be between 0 and"),
        ([-1] * B, ValueError, "actions must be between 0 and"),
    ]
    for bad, error, message in bad_actions:
        with pytest.raises(error, match=message):
            trials.step(bad)
    bad_options: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"task": None}, ValueError, "got \\['task'\\]"),
        ({"reset_mask": torch.ones(B + 1, dtype=torch.bool)}, ValueError, "shape"),
        ({"reset_mask": torch.ones(B)}, TypeError, "bool"),
        ({"reset_mask": torch.zeros(B, dtype=torch.bool)}, ValueError, "at least one True"),
        ({"tasks": torch.zeros(B, 1, 1, 1, 1)}, ValueError, "tasks must have shape"),
    ]
    for options, error, message in bad_options:
        with pytest.raises(error, match=message):
            trials.reset(seed=1, options=options)
    actions = random_actions(trials, trials.horizon)
    after = torch.stack([trials.step(a)[1] for a in actions])
    assert torch.equal(after, roll(trials, actions)[1])
    with pytest.raises(ValueError, match="SAME_STEP"):
        make(name, autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.slow
def test_single_and_vector_env_pay_a_random_player_the_same(name: str) -> None:
    trials = make(name, num_envs=2000)
    actions = random_actions(trials, trials.horizon)
    many = roll(trials, actions)[1].sum(0).double()  # (B,)
    env = gymnasium.make(name)
    env.action_space.seed(0)
    env.reset(seed=0)
    single = []
    for _ in range(200):
        single.append(sum(float(env.step(env.action_space.sample())[1]) for _ in range(trials.horizon)))
        env.reset()
    few = torch.tensor(single, dtype=torch.float64)
    error = (many.var() / len(many) + few.var() / len(few)).sqrt()
    assert (many.mean() - few.mean()).abs() < 4 * error


def test_gymnasiums_own_vector_env_takes_the_single_env(name: str) -> None:
    vector = gymnasium.make_vec(name, num_envs=2, vectorization_mode="sync")
    assert isinstance(vector, gymnasium.vector.SyncVectorEnv)
    vector.reset(seed=0)
    horizon = vector.get_attr("horizon")[0]
    terminated = [vector.step(vector.action_space.sample())[2].tolist() for _ in range(horizon + 1)]
    assert terminated == [[False] * 2] * (horizon - 1) + [[True] * 2, [False] * 2]


def test_numpy_agents_can_use_the_vector_env_as_it_is(name: str) -> None:
    trials = make(name)
    trials.reset(seed=0)
    trials.action_space.seed(0)
    observations, rewards, terminated, truncated, _ = trials.step(trials.action_space.sample())
    arrays = [np.asarray(x) for x in (observations, rewards, terminated, truncated)]
    assert [a.dtype for a in arrays] == [np.int64, np.float32, np.bool_, np.bool_]


def test_gymnasiums_wrappers_convert_to_numpy(name: str) -> None:
    pytest.importorskip("array_api_compat", reason="needs gymnasium[array-api]")
    from gymnasium.wrappers.vector import ArrayConversion, RecordEpisodeStatistics

    trials = make(name)
    vector = RecordEpisodeStatistics(ArrayConversion(trials, env_xp=torch, target_xp=np))
    observations, _ = vector.reset(seed=0)
    assert isinstance(observations, np.ndarray)
    vector.action_space.seed(0)
    returns = np.zeros(B)
    for _ in range(trials.horizon):
        observations, rewards, terminated, truncated, info = vector.step(vector.action_space.sample())
        assert all(isinstance(x, np.ndarray) for x in (observations, rewards, terminated, truncated))
        returns += rewards
    assert terminated.all()
    np.testing.assert_allclose(info["episode"]["r"], returns, rtol=1e-5)
    assert (info["episode"]["l"] == trials.horizon).all()
    mask = np.arange(B) < 2
    vector.reset(options={"reset_mask": mask})

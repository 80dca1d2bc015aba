"""Trials of Gymnasium environments: stepping, tasks, masks of episodes of unequal length, and what can go wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from tiny_runs import CPU, STEPS, assert_same_run, go, untimed_metrics

from envs.gym_trials import EnvironmentFailed, GymTrialVectorEnv
from runs.agents import AGENTS, SNAILConfig
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.returns import generalized_advantages
from runs.algorithms.rollout import rollout
from runs.algorithms.trpo import TRPOTraining
from runs.catalogue import CATALOGUE, RunConfig
from runs.cli import run
from runs.tasks import ControlTask, GymnasiumTask
from runs.training import build_learner

EPISODES, LONGEST = 3, 6


class RandomEnd(gymnasium.Env):
    """Episodes end by chance; the task is a number, which is shown, and paid for actions near it."""

    observation_space = Box(-10, 10, (2,), np.float64)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self):
        self.tasks, self.steps = [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if options and options.get("new_task"):
            self.tasks.append(self.np_random.uniform(-1, 1))
        self.steps = 0
        return np.array([self.tasks[-1], 0.0]), {}

    def step(self, action):
        self.steps += 1
        reward = 1 - abs(float(action[0]) - self.tasks[-1])
        ended = bool(self.np_random.random() < 0.3)
        return np.array([self.tasks[-1], self.steps]), reward, ended, False, {"score": self.steps}


@dataclass(frozen=True)
class RandomEndTask(GymnasiumTask):
    def make(self):
        return RandomEnd()


TASK = RandomEndTask("random end", episodes=EPISODES, max_steps=LONGEST)


def config(training, agent="gru", task=TASK) -> RunConfig:
    model = replace(AGENTS[agent], hidden_size=8) if agent == "gru" else SNAILConfig(width=0.1)
    return RunConfig("bandit/n10-k5", agent, "smoke", 0, task, model, training, TrialTest(20))


PPO = PPOTraining(STEPS, batch_size=8, minibatches=2, gae_lambda=0.9, discount=0.95)


def played(num_envs: int, processes: int):
    env = GymTrialVectorEnv(RandomEnd, num_envs, EPISODES, LONGEST, processes)
    observations, info = env.reset(seed=3)
    found = [(observations, torch.zeros(num_envs), info["episode_end"])]
    numbers = torch.Generator().manual_seed(1)
    for _ in range(env.horizon):
        actions = torch.rand(num_envs, 2, generator=numbers) * 2 - 1
        observations, rewards, _, _, info = env.step(actions)
        found.append((observations, rewards, info["episode_end"], info["valid"]))
    tasks, numbers = env.tasks, (env.episode_returns, env.episode_scores)
    env.close()
    return tasks, found, numbers


def test_it_steps_as_single_environments_do():
    """Written out with one environment a trial, whose task is drawn once and whose episodes follow each other."""
    tasks, found, (returns, scores) = played(5, processes=1)
    numbers = torch.Generator().manual_seed(1)
    actions = [torch.rand(5, 2, generator=numbers) * 2 - 1 for _ in range(EPISODES * LONGEST)]
    for b in range(5):
        env = RandomEnd()
        observation, _ = env.reset(seed=int(tasks[b, 0]), options={"new_task": True})
        torch.testing.assert_close(found[0][0][b], torch.tensor(observation, dtype=torch.float32))
        t = 0
        for episode in range(EPISODES):
            total = 0.0
            for step in range(1, LONGEST + 1):
                observation, reward, ended, _, _ = env.step(actions[t][b].numpy())
                total += reward
                ended = ended or step == LONGEST
                if ended and episode + 1 < EPISODES:
                    observation, _ = env.reset()
                t += 1
                seen, paid, end, valid = (x[b] for x in found[t])
                torch.testing.assert_close(seen, torch.tensor(observation, dtype=torch.float32))
                assert paid.item() == pytest.approx(reward, abs=1e-6)
                assert (bool(end), bool(valid)) == (ended, True)
                if ended:
                    break
            assert returns[b, episode].item() == pytest.approx(total, abs=1e-5)
            assert scores[b, episode].item() == pytest.approx((step + 1) / 2)  # of 1 .. step
        assert len(env.tasks) == 1
        for x in found[t + 1 :]:
            assert not x[3][b] and x[1][b] == 0


def test_processes_give_the_same(monkeypatch):
    one, two = played(5, processes=1), played(5, processes=2)
    assert torch.equal(one[0], two[0])
    for a, b in zip(one[1], two[1], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(one[2], two[2], strict=True))


@pytest.fixture
def learner():
    return build_learner(config(PPO), CPU)


def test_advantages_are_those_of_each_trial_alone(learner):
    """Nothing after a trial's last step counts."""
    trials = learner._play()
    assert trials.valid is not None and 0 < trials.valid.float().mean() < 1
    assert (trials.valid.long().diff(dim=1) <= 0).all()  # idle only at the end
    values = learner.model(trials.inputs)[1].detach()
    batch, mismatch = learner._compute_advantages(trials, 0.9)
    assert mismatch < 1e-5 and batch.valid is trials.valid
    values = torch.where(trials.valid, values, 0.0)  # the normaliser is still the identity
    whole = generalized_advantages(trials.rewards, values, 0.95, 0.9)
    for b in range(8):
        n = int(trials.valid[b].sum())
        alone = generalized_advantages(trials.rewards[b : b + 1, :n], values[b : b + 1, :n], 0.95, 0.9)[0]
        torch.testing.assert_close(whole[b, :n], alone)
    for t in range(batch.advantages.shape[1]):
        valid = trials.valid[:, t]
        if valid.sum() > 1:
            column = whole[valid, t]
            expected = (column - column.mean()) / (column.std(correction=0) + 1e-8)
            torch.testing.assert_close(batch.advantages[valid, t], expected, atol=1e-4, rtol=1e-4)
        assert (batch.advantages[~valid, t] == 0).all()


@pytest.mark.parametrize("training", [PPO, TRPOTraining(STEPS, batch_size=8, minibatches=2)], ids=["ppo", "trpo"])
def test_what_comes_after_a_trial_changes_nothing(training):
    """Whatever stands there: the same step of the weights."""
    found = []
    for garbage in (0.0, 7.0):
        learner = build_learner(config(training, "snail"), CPU)
        batch, _ = learner._compute_advantages(learner._play(), 0.9)
        outside = ~batch.valid
        assert outside.any()
        spoiled = replace(
            batch,
            inputs=batch.inputs + garbage * outside[..., None],
            targets=batch.targets + garbage * outside,
            log_probs=batch.log_probs + garbage * outside,
            predictable=batch.predictable + garbage * outside,
        )
        logs = learner.improve(spoiled, 1.0)
        found.append(([p.detach().clone() for p in learner.model.parameters()], logs))
    for a, b in zip(*(weights for weights, _ in found), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    for name in set(found[0][1]) - {"step_scale"}:
        torch.testing.assert_close(found[0][1][name], found[1][1][name], atol=1e-5, rtol=1e-4)


def test_episodes_are_measured_apart(learner):
    results = {m.name: m.mean for m in learner.evaluate(lambda *_: None)}
    parts = [results[f"return_episode{e + 1}"] for e in range(EPISODES)]
    assert sum(parts) == pytest.approx(results["return"], abs=1e-5)


def test_it_learns_and_a_resumed_run_is_the_same(tmp_path):
    """Every batch starts from seeds, so that there is no state of environments to keep."""
    from runs.system.errors import Paused

    go(config(PPO), tmp_path / "whole")
    with pytest.raises(Paused):
        go(config(PPO), tmp_path / "paused", until=3)
    go(config(PPO), tmp_path / "paused", resume=True)
    assert_same_run(tmp_path / "paused", tmp_path / "whole")
    line = untimed_metrics(tmp_path / "whole")[-1]
    assert {f"train/return_episode{e + 1}" for e in range(EPISODES)} <= set(line)


@pytest.mark.parametrize("squash", [False, True])
def test_a_loaded_agent_acts_and_is_drawn(tmp_path, squash):
    """As in the rollout, though the environment gets what is fitted to its space."""
    import runs
    from runs.results.attention_plots import draw

    own = config(PPO, "snail", replace(TASK, squash=squash))
    go(own, tmp_path)
    agent, learner = runs.load(tmp_path), build_learner(own, CPU)
    learner.model.load_state_dict(agent.model.state_dict())
    env = TASK.make_env(4, "cpu")
    trials = rollout(learner.model, env, torch.Generator().manual_seed(5))
    observation, _ = env.reset(options={"tasks": trials.tasks})
    generator = torch.Generator().manual_seed(5)
    action, state = agent.act(observation, generator=generator)
    for t in range(env.horizon):
        assert torch.equal(action, agent.model.actions.to_environment(trials.actions[:, t]))
        assert action.abs().max() <= 1
        observation, reward, _, _, info = env.step(action)
        assert torch.equal(reward, trials.rewards[:, t])
        if t + 1 < env.horizon:
            action, state = agent.act(observation, state, action, reward, info["episode_end"], generator)
    pytest.importorskip("matplotlib")
    maps = learner.attention_maps(0)
    assert len(maps.actions) == len(maps.rewards) == maps.layers[0].shape[-1] <= env.horizon
    assert draw(maps, "a trial", tmp_path / "attention")[0].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_policy_finds_the_action_that_is_asked_for():
    training = replace(PPO, steps=60, batch_size=64, learning_rate=1e-2, entropy_coef=0.0)
    learner = build_learner(config(training), CPU)
    first = learner.update(0)["return_episode1"].item()
    for step in range(1, 60):
        logs = learner.update(step)
    assert logs["return_episode1"].item() > first + 0.5


# ----- what can go wrong


def failing(what: str, made: list) -> gymnasium.Env:
    """Not the first, which is only looked at."""
    env = RandomEnd()
    step, first = env.step, not made and multiprocessing.parent_process() is None
    made.append(env)

    def broken(action):
        observation, reward, *others = step(action)
        if first:
            return observation, reward, *others
        if what == "nan":
            observation = observation * np.nan
        elif what == "reward":
            reward = float("inf")
        elif what == "raises":
            raise RuntimeError("the arm\nbroke")
        elif what == "dies" and env.tasks:
            os.kill(os.getpid(), signal.SIGKILL)
        return observation, reward, *others

    env.step = broken
    return env


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "an environment's observation is not finite"),
        ("reward", "an environment's reward is not finite"),
        ("raises", "an environment failed: RuntimeError: the arm broke; fix it and continue with --resume"),
    ],
)
def test_a_failing_environment_is_one_line(what, message):
    env = GymTrialVectorEnv(partial(failing, what, []), 2, 1, 3)
    env.reset()
    with pytest.raises(EnvironmentFailed, match=message):
        env.step(torch.zeros(2, 2))
    env.close()


def test_an_action_that_is_not_finite_is_not_blamed_on_the_environment():
    env = GymTrialVectorEnv(RandomEnd, 2, 1, 3)
    env.reset()
    with pytest.raises(EnvironmentFailed, match=r"^an action of the agent is not finite; try a smaller"):
        env.step(torch.tensor([[0.0, 0.0], [0.0, float("nan")]]))
    env.close()


@pytest.mark.slow
def test_a_process_that_dies_is_one_line():
    env = GymTrialVectorEnv(partial(failing, "dies", []), 4, 1, 3, processes=2)
    env.reset()
    with pytest.raises(EnvironmentFailed, match=r"an environment process died .*; continue with --resume"):
        env.step(torch.zeros(4, 2))
    env.close()


class Spaces(gymnasium.Env):
    def __init__(self, observations, actions):
        self.observation_space, self.action_space = observations, actions


class Outside(RandomEnd):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation + 100, info


class Unseeded(RandomEnd):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


@pytest.mark.parametrize("make", [Outside, Unseeded])
def test_gymnasiums_checker_is_asked(make):
    with pytest.raises(EnvironmentFailed, match=r"fails gymnasium.utils.env_checker.check_env, \w+: .*reset"):
        GymTrialVectorEnv(make, 2, 1, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(gymnasium.make, "Nothing-v0"), "the environment cannot be made: .*Nothing"),
        (partial(Spaces, Dict(x=Discrete(2)), Discrete(2)), "the observation space Dict.* is not supported: wrap"),
        (partial(Spaces, Discrete(2), Box(-np.inf, np.inf, (1,))), "the action space Box.* is not supported: wrap"),
        (partial(Spaces, Discrete(2), gymnasium.spaces.MultiDiscrete([2, 2])), "the action space MultiDiscrete"),
    ],
)
def test_environments_that_cannot_be_used_are_named(make, message):
    with pytest.raises(EnvironmentFailed, match=message):
        GymTrialVectorEnv(make, 2, 1, 3)


def test_an_unknown_environment_on_the_command_line(capsys, tmp_path):
    words = ["train", "control/cheetah-direction/gru", "--budget", "smoke", "--tracker", "none"]
    assert run([*words, "--task.env", "Nothing-v0", "--results", str(tmp_path)]) == 2
    assert "`Nothing` doesn't exist" in capsys.readouterr().err


# ----- locomotion


@pytest.mark.parametrize("env", ["HalfCheetah-v5", "Ant-v5"])
@pytest.mark.parametrize("goal", ["direction", "velocity"])
def test_locomotion_pays_for_the_task(env, goal):
    pytest.importorskip("mujoco")
    shown, hidden = (ControlTask(env, goal=goal, show_task=shows).make() for shows in (True, False))
    tasks = set()
    for seed in range(8):
        observation, _ = shown.reset(seed=seed, options={"new_task": True})
        same, _ = hidden.reset(seed=seed, options={"new_task": True})
        task = observation[-1]
        assert np.array_equal(observation[:-1], same)
        tasks.add(task)
        shown.action_space.seed(seed)
        action = shown.action_space.sample()
        after, reward, *_, info = shown.step(action)
        _, also, *_ = hidden.step(action)
        v, cost = info["x_velocity"], (0.05 if env == "HalfCheetah-v5" else 0.005) * np.square(action).sum()
        alive = 0.0 if env == "HalfCheetah-v5" else 0.05
        expected = (task * v if goal == "direction" else -abs(v - task)) - cost + alive
        assert reward == also == pytest.approx(expected, abs=1e-7) and after[-1] == task  # costs are float32
        assert info["score"] == pytest.approx(task * v if goal == "direction" else abs(v - task))
        again, _ = shown.reset()
        assert again[-1] == task  # stays for the next episode
    assert tasks <= {-1.0, 1.0} if goal == "direction" else len(tasks) == 8 and min(tasks) >= 0
    assert len(tasks) > 1


def test_the_catalogue_has_locomotion():
    names = {
        f"control/{a}-{g}{t}" for a in ("cheetah", "ant") for g in ("direction", "velocity") for t in ("", "-told")
    }
    assert names <= set(CATALOGUE)

"""Tuning: the best setting on other tasks than the reported is the one that is measured, and the record tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny_runs import learner_for
from torch import Tensor

import runs.training
from envs.trials import TrialVectorEnv
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.tuning import Tuner, Tuning
from runs.catalogue import find
from runs.results.folder import RunFolder
from runs.system.deadline import Deadline
from runs.system.errors import OutOfTime
from runs.system.machine import Machine, stream_seed
from runs.tasks import BanditTask
from runs.training import build_learner, train

pytestmark = pytest.mark.slow

CPU = Machine(torch.device("cpu"))
PLAYED: list[Tensor] = []


@dataclass(frozen=True)
class Constant:
    """Always pulls one arm."""

    arm: int = 0

    def grid(self) -> tuple[Constant, ...]:
        return tuple(Constant(arm) for arm in range(3))

    def play(self, env: TrialVectorEnv, generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        PLAYED.append(tasks)
        env.reset(options={"tasks": tasks})
        arm = torch.full((env.num_envs,), self.arm)
        return torch.stack([env.step(arm)[1] for _ in range(env.horizon)], dim=1)


@dataclass(frozen=True)
class LastArmPays(BanditTask):
    """Arms of chances 0, 0 and 1, or so."""

    def make_env(self, num_envs, device, episodes=None):
        env = super().make_env(num_envs, device, episodes)
        draw = env.sample_tasks
        env.sample_tasks = lambda n, generator: draw(n, generator) * 0.1 + torch.tensor([0.0, 0.0, 0.9])
        return env


@pytest.fixture(autouse=True)
def nothing_played():
    PLAYED.clear()


def tuner(method=None, **training) -> Tuner:
    training = Tuning(**training)
    return learner_for(training, LastArmPays(3, 4), method or Constant(), TrialTest(trials=50), 7, CPU)


def test_the_best_setting_is_measured():
    learner = tuner(trials=40)
    means = [learner.update(step)["return"].item() for step in range(learner.steps)]
    assert learner.chosen == Constant(2) and means[2] > 3 > 1 > max(means[:2])
    (found,) = learner.evaluate(lambda done, of: None)
    assert found.metric == "return" and 3.5 < found.mean <= 4 and found.n == 50
    details = learner.details()
    assert details["chosen"]["arm"] == 2 and [t["return"] for t in details["tried"]] == means


def test_settings_share_tasks_that_are_not_those_of_the_test():
    learner = tuner(trials=40)
    for step in range(learner.steps):
        learner.update(step)
    tuned = list(PLAYED)
    PLAYED.clear()
    learner.evaluate(lambda done, of: None)
    assert len(tuned) == 3 and all(torch.equal(tuned[0], t) for t in tuned)
    tested = torch.cat(PLAYED)
    assert not (tuned[0][:, None] == tested).all(-1).any()
    again = tuner(trials=40)
    again.update(0)
    assert torch.equal(PLAYED[-1], tuned[0])


def test_without_tuning_the_setting_is_as_given():
    learner = tuner(Constant(1), trials=0)
    assert learner.steps == 1
    learner.update(0)
    assert learner.chosen == Constant(1) and learner.details() == {} and learner.units(0) == 0


def test_ties_go_to_the_first():
    learner = tuner(trials=40)
    learner.model.mean[:] = 1.0
    assert learner.chosen == Constant(0)


def test_too_few_trials_are_refused():
    with pytest.raises(ValueError, match="trials must not be negative, got -1"):
        tuner(trials=-1)


@pytest.mark.parametrize("experiment", ["bandit/n10-k5", "mdp/n10"])
def test_every_method_of_the_catalogue_is_measured(experiment, tmp_path, monkeypatch):
    e = find(experiment)
    methods = [agent for agent in e.agents if e.algorithms(agent) == ("tuning",)]
    assert len(methods) >= 8
    returns, task_sets = {}, set()
    for agent in methods:
        config = e.config(agent, budget="smoke")
        config = replace(config, training=Tuning(trials=20), test=TrialTest(trials=100))
        record = train(config, RunFolder(tmp_path / agent), CPU, tracker="none", quiet=True)
        returns[agent] = record["results"][0]["mean"]
        task_sets.add(record["results"][0]["task_set"])
        grid = config.model.grid()
        assert record["steps"] == len(grid) and ("chosen" in record) == (len(grid) > 1)
        assert record["parameters"] == 0
    assert len(task_sets) == 1
    assert returns["random"] < min(r for agent, r in returns.items() if agent != "random")


def test_tuning_is_resumed_where_it_stopped(tmp_path):
    config = replace(find("bandit/n10-k5").config("ucb1", budget="smoke"), test=TrialTest(trials=100))
    whole = train(config, RunFolder(tmp_path / "whole"), CPU, tracker="none", quiet=True)
    folder = RunFolder(tmp_path / "pieces")
    for _ in range(3):
        with pytest.raises(OutOfTime):
            train(config, folder, CPU, tracker="none", quiet=True, resume=True, deadline=Deadline(0.0))
    record = train(config, folder, CPU, tracker="none", quiet=True, resume=True)
    for key in ("results", "chosen", "tried", "env_steps"):
        assert record[key] == whole[key]


def test_evaluating_again_needs_no_tuning(tmp_path):
    config = replace(find("bandit/n10-k5").config("ucb1", budget="smoke"), test=TrialTest(trials=100))
    folder = RunFolder(Path(tmp_path))
    record = train(config, folder, CPU, tracker="none", quiet=True)
    learner = build_learner(config, CPU)
    runs.training.load_model(learner, folder, config)
    (found,) = learner.evaluate(lambda done, of: None)
    assert found.mean == record["results"][0]["mean"]
    assert stream_seed(config.test.seed, "test tasks") != stream_seed(config.seed, "tuning tasks")

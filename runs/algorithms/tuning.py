"""Tuning of classical agents: their setting, if any, is selected on other tasks than the test tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from baselines.classical_agent import ClassicalAgent
from runs.algorithms.learner import Measurement, RunConfig, Training
from runs.algorithms.meta_rl import TrialTest
from runs.config.serialization import to_dict
from runs.system.machine import Machine, stream_seed
from runs.tasks import Task, TrialTask


@dataclass(frozen=True)
class Tuning(Training):
    """Select a classical agent's setting by mean return, as in RL^2."""

    trials: int = 1000
    """Trials of each candidate setting, on the same tasks; 0: no tuning."""

    def learner(self, run: RunConfig, machine: Machine) -> Tuner:
        """The learner that tunes and tests the run's agent."""
        return Tuner(self, run, machine)


class Returns(nn.Module):
    """The mean return of every setting tried so far; untried settings are never selected."""

    mean: Tensor

    def __init__(self, settings: int):
        super().__init__()
        self.register_buffer("mean", torch.full((settings,), -torch.inf, dtype=torch.float64))


class Tuner:
    """Tries the settings of a method, one per update, and tests the best on the frozen test tasks."""

    unit = "env step"
    validations = 0

    def __init__(self, training: Tuning, run: RunConfig, machine: Machine):
        task, test = cast(TrialTask, run.task), cast(TrialTest, run.test)
        method = cast(ClassicalAgent, run.model)
        machine.group.require_single_process("classical methods are not trained by gradients")
        if training.trials < 0:
            raise ValueError(f"trials must not be negative, got {training.trials}")
        if test.trials < 2:
            raise ValueError(f"an interval needs at least 2 trials, got {test.trials}")
        self.training, self.task, self.test, self.seed, self.machine = training, task, test, run.seed, machine
        self.settings = method.grid() if training.trials else (method,)
        self.steps = len(self.settings)
        self.model = Returns(self.steps)

    @property
    def chosen(self) -> ClassicalAgent:
        """The setting with the largest mean so far; the first if several are equal."""
        return self.settings[int(self.model.mean.argmax())]

    def update(self, step: int) -> dict[str, Tensor]:
        """Try setting number ``step``; a single setting need not be tried."""
        mean = torch.zeros((), dtype=torch.float64)
        if self.steps > 1:
            env = self.task.make_env(self.training.trials, self.machine.device)
            tasks = torch.Generator().manual_seed(stream_seed(self.seed, "tuning tasks"))
            env.reset(seed=stream_seed(self.seed, "tuning rewards"))
            generator = self.machine.generator(stream_seed(self.seed, "tuning actions"))
            played = env.sample_tasks(self.training.trials, tasks).to(self.machine.device)
            mean = self.settings[step].play(env, generator, played).sum(1).double().mean().cpu()
        self.model.mean[step] = mean
        return {"return": mean}

    def units(self, step: int) -> int:
        """Environment steps per setting."""
        return 0 if self.steps == 1 else self.training.trials * self.task.make_env(1, "cpu").horizon

    def validate(self) -> dict[str, float]:
        """Nothing to validate."""
        return {}

    def evaluate(self, progress: Any) -> list[Measurement]:
        """Total reward of a trial with the chosen setting, on the frozen test tasks."""
        return self.test.measure(self.task, self.machine, self.chosen.play, progress)

    def test_on(self, task: Task) -> None:
        """Test on another task; the method is the same for all of a kind."""
        self.task = cast(TrialTask, task)

    def attention_maps(self, seed: int) -> None:
        """Classical agents have no attention."""

    def details(self) -> dict[str, Any]:
        """The selected setting and the candidates."""
        if self.steps == 1:
            return {}
        tried = [
            {"setting": to_dict(s), "return": r} for s, r in zip(self.settings, self.model.mean.tolist(), strict=True)
        ]
        return {"chosen": to_dict(self.chosen), "tried": tried}

    def state_dict(self) -> dict[str, Any]:
        """The mean returns so far."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.load_weights(state)

    def load_weights(self, state: dict[str, Any]) -> None:
        """Restore the weights that testing needs, from any device."""
        self.model.load_state_dict(state["model"])

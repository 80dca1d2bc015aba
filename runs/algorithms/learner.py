"""The interface of learners: one update at a time, a state that can be saved, and a test at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Protocol

from torch import Tensor, nn

from baselines.classical_agent import ClassicalAgent
from runs.agents import AnyAgentConfig, FewShotAgent, TrialAgent
from runs.algorithms.attention_maps import AttentionMaps
from runs.config.serialization import options_of
from runs.system.machine import Machine
from runs.tasks import Task


@dataclass(frozen=True)
class Measurement:
    """One measured number: the mean of ``n`` independent trials or episodes."""

    metric: str
    mean: float
    ci95: float
    n: int
    task_set: str
    shots: int | None = None
    samples: Tensor | None = field(default=None, repr=False, compare=False)
    """(n,) the samples behind the mean, in the order of the task set, for paired comparisons."""

    @property
    def name(self) -> str:
        """``metric``, with the number of shots if there is one."""
        return self.name_of(self.metric, self.shots)

    @staticmethod
    def name_of(metric: str, shots: int | None) -> str:
        """The name of the number in `samples.npz` and in comparisons."""
        return metric if shots is None else f"{metric}_{shots}shot"

    def record(self) -> dict[str, Any]:
        """Its entry in a record."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "samples"}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def of(cls, metric: str, samples: Tensor, task_set: str, shots: int | None = None) -> Measurement:
        """Mean and the half-width of its normal 95% interval over ``samples`` (n,)."""
        if len(samples) < 2:
            raise ValueError(f"an interval needs at least 2 samples, got {len(samples)}")
        samples = samples.double().cpu()
        half = 1.96 * samples.std() / len(samples) ** 0.5
        return cls(metric, samples.mean().item(), half.item(), len(samples), task_set, shots, samples)


class Learner(Protocol):
    """Trains and tests an agent on a task."""

    steps: int
    """Number of updates."""
    unit: str
    """Unit of the throughput."""
    validations: int
    """Number of validation passes."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained and tested."""

    def update(self, step: int) -> dict[str, Tensor]:
        """Update number ``step``; returns scalars to log, on any device, to be averaged over processes."""

    def units(self, step: int) -> int:
        """Number of units that update number ``step`` processes."""

    def validate(self) -> dict[str, float]:
        """Scalars to log, measured on tasks for validation."""

    def evaluate(self, progress: Any) -> list[Measurement]:
        """The numbers to report, on the frozen test tasks. ``progress`` is called with (done, total)."""

    def test_on(self, task: Task) -> None:
        """Test on another task than that of the training; ValueError if the shapes do not fit."""

    def attention_maps(self, seed: int) -> AttentionMaps | None:
        """Attention maps of the tested weights on a task that is not a test task; None without attention."""

    def details(self) -> dict[str, Any]:
        """Additional entries of the record."""

    def state_dict(self) -> dict[str, Any]:
        """The state for an exact resume: tensors, numbers, strings, and containers of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""

    def load_weights(self, state: dict[str, Any]) -> None:
        """Restore the weights that testing needs, from any device."""


class Training(ABC):
    """A training algorithm, or the tuning of a classical agent. A subclass is a frozen dataclass of its settings."""

    @abstractmethod
    def learner(self, run: RunConfig, machine: Machine) -> Learner:
        """The learner that trains and tests the run's agent.

        Raises:
            ValueError: if the task or the data do not support the settings.
        """


class Test(ABC):  # noqa: B024  # each kind of learner has its own kind of test
    """The test behind the reported numbers. A subclass is a frozen dataclass of its settings."""


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that determines its numbers, except the device."""

    experiment: str
    """Name in the catalogue."""
    agent: str
    """Name of the agent."""
    budget: str
    """How much training: full, demo, short or smoke."""
    seed: int
    """Seed of the initial weights and of everything drawn in training."""
    task: Annotated[Task, options_of(Task)]
    """The task."""
    model: Annotated[AnyAgentConfig, options_of(FewShotAgent, TrialAgent, ClassicalAgent)]
    """The agent."""
    training: Annotated[Training, options_of(Training)]
    """The training algorithm."""
    test: Annotated[Test, options_of(Test)]
    """The test."""

"""Classical agents, which act in trials without training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from envs.trials import TrialVectorEnv


class ClassicalAgent(ABC):
    """A classical agent with its setting. A subclass is a frozen dataclass of plain values that defines `play`."""

    def grid(self) -> Sequence[ClassicalAgent]:
        """The settings to tune over; only this one if there is nothing to tune."""
        return (self,)

    @abstractmethod
    def play(self, env: TrialVectorEnv, generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """Play one trial in every row of ``env``, on new tasks or on the given ones.

        Args:
            env: B trials of T steps; rewards are drawn with its own generator.
            generator: source of the method's own randomness, on the environment's device.
            tasks: (B, ...) as the environment's ``tasks``.

        Returns:
            (B, T) float32 rewards.
        """

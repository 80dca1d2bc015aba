"""What is learned: task configurations that build their own environments and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from baselines.bayes_optimal import bayes_optimal_value, feasible
from envs.bandits import BernoulliBanditVectorEnv
from envs.fewshot import ImageClasses, load_classes
from envs.trials import TrialVectorEnv


@dataclass(frozen=True)
class BanditTask:
    """Bernoulli bandits with uniform success probabilities; one trial is ``pulls`` pulls on one bandit."""

    arms: int
    """Arms K."""
    pulls: int
    """Pulls N in one trial."""

    def make_env(self, num_envs: int, device: torch.device | str) -> TrialVectorEnv:
        """So many bandits at once."""
        return BernoulliBanditVectorEnv(num_envs, self.arms, self.pulls, device=device, autoreset_mode="Disabled")

    def limit(self) -> float | None:
        """Expected total reward of the best possible agent, or None where computing it takes too long."""
        return bayes_optimal_value(self.pulls, self.arms) if feasible(self.pulls, self.arms) else None


@dataclass(frozen=True)
class FewShotTask:
    """N-way K-shot classification of images."""

    data: Literal["omniglot", "glyphs"]
    """Where the classes come from."""
    ways: int
    """Classes in an episode."""
    shots: tuple[int, ...]
    """Examples of each class: every training step draws one of these."""
    test_shots: tuple[int, ...]
    """Shots that are evaluated, each giving one number."""

    def limit(self) -> float | None:
        """Perfect accuracy."""
        return 1.0

    def load(self, split: str, data_root: Path | None) -> ImageClasses:
        """The classes of one split; fetched first if they are nowhere to be found."""
        return load_classes(self.data, split, root=data_root, download=True)


Task = BanditTask | FewShotTask

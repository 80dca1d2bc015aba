"""RecurrentPPO of Stable-Baselines3-contrib on the same bandits, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import torch

from envs.rl2 import RL2Observation
from runs.tasks import BanditTask

NOT_INSTALLED = "RecurrentPPO was not measured; to measure it, too: pip install -e '.[bench]'"


class RecurrentPPO:
    """The library's agent with the library's defaults: an LSTM each for policy and value, on one environment.

    Args:
        task: the bandits.
        device: where its networks are.
        steps: environment steps of an iteration; None: the library's default.

    Attributes:
        name: the agent and its version.
        notes: what it is and sees, in lines.
        steps: environment steps of an iteration.

    Raises:
        ModuleNotFoundError: where it is not installed.
    """

    def __init__(self, task: BanditTask, device: torch.device, steps: int | None = None):
        library: Any = importlib.import_module("sb3_contrib")

        def agent() -> Any:
            env = gymnasium.make("snail/BernoulliBandit-v0", arms=task.arms, pulls=task.pulls)
            settings = {} if steps is None else {"n_steps": steps}
            return library.RecurrentPPO("MlpLstmPolicy", RL2Observation(env), device=device, **settings)

        self._learner, self._collector = agent(), agent()
        self._collector.train = lambda: None
        self.steps: int = self._learner.n_steps
        self.name = "RecurrentPPO"
        version, epochs = library.__version__, self._learner.n_epochs
        self.notes = (
            f"RecurrentPPO is that of sb3-contrib {version} with its defaults: MlpLstmPolicy, one environment,",
            f"{self.steps} steps and {epochs} epochs an iteration; it sees the previous action and reward, "
            "as ours does.",
        )

    @classmethod
    def if_installed(cls, task: BanditTask, device: torch.device, steps: int | None = None) -> RecurrentPPO | None:
        """The agent, or None."""
        try:
            return cls(task, device, steps)
        except ModuleNotFoundError:
            return None

    def collect(self) -> None:
        """Play one iteration's steps, with log-probabilities and values, and learn nothing."""
        self._collector.learn(self.steps, reset_num_timesteps=False)

    def iterate(self) -> None:
        """One iteration: play and learn."""
        self._learner.learn(self.steps, reset_num_timesteps=False)

"""RecurrentPPO of Stable-Baselines3-contrib on the same environments, if it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium
import torch

from envs.rl2 import RL2Observation
from runs.tasks import BanditTask

Make = Callable[[], gymnasium.Env[Any, Any]]

NOT_INSTALLED = "RecurrentPPO was not measured; to include it: pip install -e '.[bench]'"


def bandit(task: BanditTask) -> RL2Observation:
    """A bandit whose observation has the previous action and reward, as for our agents."""
    return RL2Observation(gymnasium.make("snail/BernoulliBandit-v0", arms=task.arms, pulls=task.pulls))


class RecurrentPPO:
    """The library's agent with its defaults: separate LSTMs for policy and value.

    Args:
        make: builds an environment with the agent's observations.
        device: device of its networks.
        steps: steps per iteration in each environment; None: the library's default.
        envs: parallel environments in this process.

    Attributes:
        name: the agent and its version.
        notes: lines that describe it.
        steps: total environment steps per iteration.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """

    def __init__(self, make: Make, device: torch.device, steps: int | None = None, envs: int = 1):
        library: Any = importlib.import_module("sb3_contrib")
        vector: Any = importlib.import_module("stable_baselines3.common.env_util")
        logger: Any = importlib.import_module("stable_baselines3.common.logger")

        def agent() -> Any:
            settings = {} if steps is None else {"n_steps": steps}
            env = vector.make_vec_env(make, n_envs=envs)
            learner = library.RecurrentPPO("MlpLstmPolicy", env, device=device, **settings)
            learner.set_logger(logger.Logger(None, []))  # by default it leaves an empty folder in /tmp
            return learner

        self._learner, self._collector = agent(), agent()
        self._collector.train = lambda: None
        self.steps: int = envs * self._learner.n_steps
        self.name = "RecurrentPPO"
        version, epochs = library.__version__, self._learner.n_epochs
        self.notes = (
            f"RecurrentPPO is that of sb3-contrib {version} with its defaults: MlpLstmPolicy,",
            f"{self._learner.n_steps} steps of {envs} environment{'s'[: envs > 1]} and {epochs} epochs an iteration.",
        )

    @classmethod
    def if_installed(
        cls, make: Make, device: torch.device, steps: int | None = None, envs: int = 1
    ) -> RecurrentPPO | None:
        """The agent, or None."""
        try:
            return cls(make, device, steps, envs)
        except ModuleNotFoundError:
            return None

    def collect(self) -> None:
        """Play one iteration's steps, with log-probabilities and values, without learning."""
        self._collector.learn(self.steps, reset_num_timesteps=False)

    def iterate(self) -> None:
        """One iteration: play and learn."""
        self._learner.learn(self.steps, reset_num_timesteps=False)

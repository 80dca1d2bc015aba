"""RL^2's input for agents of other libraries: observation, previous action, reward and end flag."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, flatdim, flatten

Input = npt.NDArray[np.float32]


class RL2Observation(gymnasium.Wrapper[Input, np.int64, Any, np.int64]):
    """Gives the input of `snail.actor_critic.ActorCritic`, so that any recurrent agent can learn across inner episodes.

    The observation is one vector (Duan et al. 2016, arXiv:1611.02779, section 2.2): the wrapped environment's,
    one-hot if it is discrete and omitted if it is constant; the previous action, one-hot; the previous
    reward; and 1 where an inner episode has just ended. At the start of a trial that is action 0, reward 0 and flag 1.

    Args:
        env: a single environment with discrete actions. ``info["episode_end"]`` marks the ends of inner episodes.

    Raises:
        ValueError: for other actions, or observations that are neither `Discrete` nor `Box`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        actions, observations = env.action_space, env.observation_space
        if not isinstance(actions, Discrete) or not isinstance(observations, (Discrete, Box)):
            raise ValueError(f"needs discrete actions and flat observations, got {actions} and {observations}")
        self._actions, self._observations = actions, observations
        self._shown = not (isinstance(observations, Discrete) and observations.n == 1)
        size = flatdim(observations) * self._shown + int(actions.n) + 2
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)

    def _input(self, observation: Any, action: int, reward: float, info: dict[str, Any]) -> Input:
        parts = [flatten(self._observations, observation)] if self._shown else []
        last = [reward, float(info.get("episode_end", False))]
        return np.concatenate([*parts, flatten(self._actions, np.int64(action)), last]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Input, dict[str, Any]]:
        """A new trial."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._input(observation, int(self._actions.start), 0.0, {"episode_end": True}), info

    def step(self, action: np.int64) -> tuple[Input, float, bool, bool, dict[str, Any]]:
        """One step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._input(observation, int(action), float(reward), info), float(reward), terminated, truncated, info

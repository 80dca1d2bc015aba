"""Locomotion with a hidden task: the cheetah and the ant of Finn et al. 2017 (arXiv:1703.03400, section 5.3).

Gymnasium's MuJoCo environments, an extra: ``pip install 'snail-suite[control]'``. A task is a direction, forwards or
backwards, or a target velocity; only the reward reveals it.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

Goal = Literal["direction", "velocity"]
GOALS: tuple[Goal, ...] = ("direction", "velocity")
FASTEST = {"HalfCheetah-v5": 2.0, "Ant-v5": 3.0}
"""Target velocities are drawn between 0 and these, in metres per second."""
CONTROL_COST = {"HalfCheetah-v5": 0.05, "Ant-v5": 0.005}
ALIVE = {"HalfCheetah-v5": 0.0, "Ant-v5": 0.05}


class Locomotion(gymnasium.Wrapper[npt.NDArray[np.float64], Any, Any, Any]):
    """Replaces the reward by one for a direction or a velocity.

    direction: ``d v - c |a|^2 + alive`` with d = 1 or -1; velocity: ``-|v - g| - c |a|^2 + alive`` with g uniform. v is
    the velocity along x. ``info["score"]`` is v d, or the error |v - g|.

    Args:
        env_id: HalfCheetah-v5 or Ant-v5.
        goal: the kind of task.
        show_task: whether the task is appended to the observation, for an upper bound.
    """

    def __init__(self, env_id: str, goal: Goal, show_task: bool = False):
        # unwrapped: the trial ends the episode, before its own limit of 1000 steps
        super().__init__(gymnasium.make(env_id, camera_name="track").unwrapped)
        self._goal, self._show_task, self._task = goal, show_task, 1.0
        self._fastest, self._cost, self._alive = FASTEST[env_id], CONTROL_COST[env_id], ALIVE[env_id]
        size = self.env.observation_space.shape[0]  # type: ignore[index]
        self.observation_space = Box(-np.inf, np.inf, (size + show_task,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Start an episode; with ``options["new_task"]`` on a new task, drawn with the environment's own generator."""
        new = (options or {}).get("new_task", False)
        observation, info = self.env.reset(seed=seed)
        if new:
            rng = self.env.unwrapped.np_random
            self._task = float(rng.choice([-1.0, 1.0]) if self._goal == "direction" else rng.uniform(0, self._fastest))
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[npt.NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step."""
        observation, _, terminated, truncated, info = self.env.step(action)
        velocity = float(info["x_velocity"])
        if self._goal == "direction":
            score = earned = self._task * velocity
        else:
            score = abs(velocity - self._task)
            earned = -score
        reward = earned - self._cost * float(np.square(action).sum()) + self._alive
        return self._shown(observation), reward, terminated, truncated, info | {"score": score}

    def _shown(self, observation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.append(observation, self._task) if self._show_task else observation

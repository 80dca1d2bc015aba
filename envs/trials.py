"""Batched meta-RL task families: many trials at once, as tensors on any device.

A *trial* is a number of inner episodes of fixed length on one task. One
Gymnasium episode is one trial: ``reset`` samples new tasks, and inner episodes restart automatically,
announced by ``info["episode_end"]``. The agent is expected to keep its memory across them (Duan et al., 2016,
"RL^2: Fast reinforcement learning via slow reinforcement learning", arXiv:1611.02779, section 2.2).

`TrialVectorEnv` holds everything that task families share. A family defines how tasks are sampled and what one
step does. `TrialEnv` turns a family into a single `gymnasium.Env`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor


def require_positive(**counts: int) -> None:
    """Raise ``ValueError("pulls must be at least 1, got 0")`` for the first of the named counts below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


class TrialVectorEnv(VectorEnv[Tensor, Tensor, Tensor], ABC):
    """Base of batched task families with discrete observations and actions. B stands for ``num_envs``.

    ``step`` never makes the host wait for the device. All randomness comes from one `torch.Generator` on the
    device, which ``reset(seed=...)`` seeds; how many numbers a step draws does not depend on actions, so the actions
    of one row cannot affect another.

    A task is one row of one float tensor (for several quantities: stacked in its last axis), so that task
    sets can be stored, hashed and restored by ``reset(options={"tasks": ...})``.

    A subclass defines `sample_tasks` and `transition`; `check_tasks`, if not every tensor of that shape is valid, and
    `start_observation`, if it is not 0.

    Args:
        num_envs: Rows B, each its own trial on its own task.
        num_observations: Observations are the integers below it.
        num_actions: Actions are the integers below it.
        episodes: Inner episodes in one trial.
        episode_length: Steps in one inner episode.
        task_shape: Shape of one task; ``tasks`` is (B, *task_shape).
        device: Where all tensors live.
        autoreset_mode: ``NEXT_STEP`` (the step after the end of a trial ignores the action and starts a new
            trial with reward 0) or ``DISABLED`` (stepping past the end raises `gymnasium.error.ResetNeeded`),
            or their values, ``"NextStep"`` and ``"Disabled"``.

    Attributes:
        horizon: Steps in one trial, ``episodes * episode_length``.
        tasks: (B, *task_shape) float32, the current tasks. Hidden from agents; for oracles and evaluation.
            Never written in place, so a reference kept across resets keeps its values.

    Raises:
        ValueError: If a count is below 1, or for ``AutoresetMode.SAME_STEP``.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    start_observation: int = 0

    def __init__(
        self,
        num_envs: int,
        *,
        num_observations: int,
        num_actions: int,
        episodes: int,
        episode_length: int,
        task_shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        require_positive(
            num_envs=num_envs,
            num_observations=num_observations,
            num_actions=num_actions,
            episodes=episodes,
            episode_length=episode_length,
        )
        autoreset_mode = AutoresetMode(autoreset_mode)
        if autoreset_mode is AutoresetMode.SAME_STEP:
            raise ValueError("autoreset_mode must be NEXT_STEP or DISABLED, got SAME_STEP")
        self.num_envs = num_envs
        self.num_observations = num_observations
        self.num_actions = num_actions
        self.episode_length = episode_length
        self.horizon = episodes * episode_length
        self.task_shape = task_shape
        self.device = torch.device(device)
        self.autoreset_mode = autoreset_mode
        self.metadata = {**self.metadata, "autoreset_mode": autoreset_mode}

        self.single_observation_space = Discrete(num_observations)
        self.single_action_space = Discrete(num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.generator = torch.Generator(self.device)
        self.generator.seed()  # a new Generator always starts from the same seed; unseeded runs should differ
        self._tasks: Tensor | None = None  # unset before the first reset
        self._observations = torch.full((num_envs,), self.start_observation, device=self.device)
        # Steps taken in the current trial, per row. Lengths are fixed, so the host can count them
        # itself, and nothing has to be read back from the device to know which rows have ended.
        self._clock = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def sample_tasks(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` tasks, (n, *task_shape) float32 on the generator's device, without using them."""

    def check_tasks(self, tasks: Tensor) -> None:
        """Raise `ValueError` if ``tasks`` (B, *task_shape) are not valid; by default all are."""

    @abstractmethod
    def transition(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step on ``self.tasks``, with randomness from ``self.generator`` only.

        Args:
            observations: (B,) int64, current observations.
            actions: (B,) int64.

        Returns:
            rewards: (B,) float32.
            next_observations: (B,) int64; ignored after the last step of an inner episode.
        """

    @property
    def tasks(self) -> Tensor:
        """Current tasks, (B, *task_shape) float32."""
        if self._tasks is None:
            raise ResetNeeded("no tasks yet: call reset() first")
        return self._tasks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start new trials, on newly sampled tasks unless ``options`` give them.

        Args:
            seed: Seeds all later randomness; by default the generator continues.
            options: May hold ``"reset_mask"`` (B,) bool, the rows to reset (default all; the others continue as
                they are), and ``"tasks"`` (B, *task_shape), tasks to use in place of sampled ones.

        Returns:
            observations: (B,) int64.
            info: ``"episode_end"`` (B,) bool, as in `step`.

        Raises:
            ValueError: For an unknown option, or a mask or tasks of wrong shape or values.
            TypeError: For a mask that is not bool.
            ResetNeeded: If the very first reset is for some rows only.
        """
        options = options or {}
        if unknown := sorted(options.keys() - {"reset_mask", "tasks"}):
            raise ValueError(f"options must be among 'reset_mask' and 'tasks', got {unknown}")
        mask = self._as_mask(options.get("reset_mask"))
        tasks = self._as_tasks(options.get("tasks"))
        if self._tasks is None and not mask.all():
            raise ResetNeeded("the first reset() must reset every row, got a reset_mask with False in it")
        super().reset(seed=seed)
        if seed is not None:
            self.generator.manual_seed(seed)
        self._start_trials(mask, tasks)
        self._observations = self._fill(self._observations, mask, self.start_observation)
        return self._observations.clone(), {"episode_end": self._flags(self._at_episode_start())}

    def step(self, actions: Tensor | npt.ArrayLike) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take one step in every row.

        The trial's length is part of the task and known to the agent in principle, so its end is a
        termination: there is no value beyond it to bootstrap from.

        Args:
            actions: (B,) integers below ``num_actions``. Their range is checked if they are on the CPU;
                reading them back from another device would stall it.

        Returns:
            observations: (B,) int64; where an inner episode has ended, the start of the next.
            rewards: (B,) float32.
            terminated: (B,) bool, the trial has ended.
            truncated: (B,) bool, always False.
            info: ``"episode_end"`` (B,) bool, RL^2's flag: the observation starts an inner episode, because
                the previous one has ended with this step or because the trial is new.

        Raises:
            ResetNeeded: Before the first reset, and, with autoreset disabled, after the end of a trial.
            ValueError: For actions of wrong shape or out of range.
            TypeError: For actions that are not integers.
        """
        if self._tasks is None:
            raise ResetNeeded("step() was called before reset()")
        ended = self._clock == self.horizon  # (B,)
        if ended.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise ResetNeeded(
                f"{ended.sum()} of {self.num_envs} trials have ended after {self.horizon} steps; "
                'reset them first, for example with reset(options={"reset_mask": terminated})'
            )
        rewards, observations = self.transition(self._observations, self._as_actions(actions))
        self._clock += 1
        if ended.any():
            self._start_trials(ended)
            rewards = self._fill(rewards, ended, 0.0)
        episode_end = self._at_episode_start()
        self._observations = self._fill(observations, episode_end, self.start_observation)
        return (
            self._observations.clone(),  # the caller may modify the returned tensors
            rewards,
            self._flags(self._clock == self.horizon),
            torch.zeros(self.num_envs, dtype=torch.bool, device=self.device),
            {"episode_end": self._flags(episode_end)},
        )

    def _start_trials(self, mask: npt.NDArray[np.bool_], tasks: Tensor | None = None) -> None:
        """Reset step counters and tasks of the masked rows; tasks are rows of ``tasks`` (B, *task_shape) or sampled."""
        self._clock[mask] = 0
        if mask.all():
            self._tasks = self.sample_tasks(self.num_envs, self.generator) if tasks is None else tasks
        else:
            rows = self._to_device(np.flatnonzero(mask))  # (R,)
            new = self.sample_tasks(len(rows), self.generator) if tasks is None else tasks[rows]
            self._tasks = self.tasks.index_copy(0, rows, new)

    def _at_episode_start(self) -> npt.NDArray[np.bool_]:
        return self._clock % self.episode_length == 0

    def _fill(self, values: Tensor, mask: npt.NDArray[np.bool_], value: float) -> Tensor:
        """``values`` (B,) with ``value`` in the masked rows; no transfers when all rows are at the same step."""
        if mask.all():
            return torch.full_like(values, value)
        return values.masked_fill(self._to_device(mask), value) if mask.any() else values

    def _flags(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        """``mask`` (B,) on the device; no transfers when all rows are at the same step."""
        if mask.all() or not mask.any():
            return torch.full((self.num_envs,), bool(mask[0]), device=self.device)
        return self._to_device(mask)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        # A blocking copy would wait for everything queued on the device.
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _as_actions(self, actions: Tensor | npt.ArrayLike) -> Tensor:
        actions = torch.as_tensor(actions)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), got {tuple(actions.shape)}")
        if actions.dtype.is_floating_point or actions.dtype.is_complex or actions.dtype == torch.bool:
            raise TypeError(f"actions must be integers, got {actions.dtype}")
        if actions.device.type == "cpu" and not ((actions >= 0) & (actions < self.num_actions)).all():
            raise ValueError(
                f"actions must be between 0 and {self.num_actions - 1}, "
                f"got {int(actions.min())} to {int(actions.max())}"
            )
        return actions.to(self.device, torch.int64, non_blocking=True)

    def _as_mask(self, mask: Tensor | npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        mask = torch.as_tensor(mask)
        if mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask must have shape ({self.num_envs},), got {tuple(mask.shape)}")
        if mask.dtype != torch.bool:
            raise TypeError(f"reset_mask must be bool, got {mask.dtype}")
        rows: npt.NDArray[np.bool_] = mask.cpu().numpy()
        if not rows.any():
            raise ValueError("reset_mask must have at least one True, got none")
        return rows

    def _as_tasks(self, tasks: Tensor | npt.ArrayLike | None) -> Tensor | None:
        if tasks is None:
            return None
        # Always a copy: the caller may modify its tensor later.
        tasks = torch.as_tensor(tasks).to(self.device, torch.float32, copy=True)
        if tasks.shape != (self.num_envs, *self.task_shape):
            expected = (self.num_envs, *self.task_shape)
            raise ValueError(f"tasks must have shape {expected}, got {tuple(tasks.shape)}")
        self.check_tasks(tasks)
        return tasks


class TrialEnv(gymnasium.Env[np.int64, np.int64]):
    """A `TrialVectorEnv` of one row as a single environment with numpy and Python values.

    All randomness derives from ``np_random``: each reset draws the seed of that trial from it.
    ``reset(options={"task": ...})`` takes one task, (*task_shape).

    Args:
        trials: An environment with ``num_envs=1`` and autoreset disabled.

    Raises:
        ValueError: If it is not.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, trials: TrialVectorEnv) -> None:
        if trials.num_envs != 1 or trials.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f"trials must have num_envs 1 and autoreset_mode DISABLED, "
                f"got {trials.num_envs} and {trials.autoreset_mode.name}"
            )
        self.trials = trials
        self.horizon = trials.horizon
        self.observation_space = trials.single_observation_space
        self.action_space = trials.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Start a new trial; returns the observation and ``{"episode_end": True}``."""
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(options.keys() - {"task"}):
            raise ValueError(f"the only option is 'task', got {unknown}")
        batched = {"tasks": torch.as_tensor(options["task"])[None]} if "task" in options else None
        trial_seed = int(self.np_random.integers(2**63))
        observations, info = self.trials.reset(seed=trial_seed, options=batched)
        return np.int64(observations.item()), {"episode_end": bool(info["episode_end"])}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Take one step; see `TrialVectorEnv.step` for the meaning of each value and the errors."""
        observations, rewards, terminated, truncated, info = self.trials.step([action])
        return (
            np.int64(observations.item()),
            rewards.item(),
            bool(terminated),
            bool(truncated),
            {"episode_end": bool(info["episode_end"])},
        )

"""Batches of trials of any Gymnasium environment, stepped in worker processes, as tensors.

A trial is several episodes on one task. The environment draws the task when it is reset with a ``seed`` and
``options={"new_task": True}``, from its own ``np_random``; a plain ``reset()`` starts the next episode on it. Episodes
end when the environment ends them, or after ``max_steps``. Trials that finish before others idle:
their steps are not *valid*, and are masked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import Error as GymnasiumError
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from torch import Tensor

from envs.trials import require_positive

Make = Callable[[], gymnasium.Env[Any, Any]]
MOST_SEEDS = 2**24
"""Tasks are seeds below this number, which float32 represents exactly."""


class EnvironmentFailed(Exception):
    """An environment is not supported or has failed: one line with what to do."""


class Bundle(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[Any]]):
    """Several trials stepped sequentially in one process.

    Everything that a step returns is packed into the observation, so that Gymnasium's shared memory carries it:
    (k, D + 4), the observation, ``info["score"]``, the reward, whether an episode has just ended, and whether the step
    was valid.

    Args:
        make: builds one environment.
        size: trials k.
        first: index of the first of them in the batch.
        episodes: episodes per trial.
        max_steps: maximum length of an episode.
    """

    def __init__(self, make: Make, size: int, first: int, episodes: int, max_steps: int):
        self.envs = [make() for _ in range(size)]
        self._first, self._episodes, self._max_steps = first, episodes, max_steps
        space, actions = self.envs[0].observation_space, self.envs[0].action_space
        self._width = observation_size(space)
        self.observation_space = Box(-np.inf, np.inf, (size, self._width + 4), np.float32)
        if isinstance(actions, Discrete):
            self.action_space = MultiDiscrete([actions.n] * size)
        else:
            assert isinstance(actions, Box)
            low, high = (np.broadcast_to(end, (size, *actions.shape)) for end in (actions.low, actions.high))
            self.action_space = Box(low, high, dtype=np.float32)
        self._episode, self._step = [0] * size, [0] * size  # per trial

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start new trials on the tasks ``options["seeds"]``, given for all bundles."""
        assert options is not None
        self._episode, self._step = [0] * len(self.envs), [0] * len(self.envs)
        rows = self._rows()
        for k, env in enumerate(self.envs):
            task = int(options["seeds"][self._first + k])
            rows[k, : self._width] = np.ravel(env.reset(seed=task, options={"new_task": True})[0])
        rows[:, -2:] = 1.0
        return rows, {}

    def step(self, action: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Step every trial that is not finished."""
        rows = self._rows()
        outcomes = [(0.0, 0.0, 0.0, 0.0)] * len(self.envs)
        for k, env in enumerate(self.envs):
            if self._episode[k] == self._episodes:
                continue
            observation, reward, terminated, truncated, info = env.step(action[k])
            self._step[k] += 1
            ended = terminated or truncated or self._step[k] == self._max_steps
            if ended:
                self._episode[k] += 1
                self._step[k] = 0
                if self._episode[k] < self._episodes:
                    observation, _ = env.reset()
            rows[k, : self._width] = np.ravel(observation)
            outcomes[k] = info.get("score", 0.0), float(reward), ended, 1.0
        rows[:, -4:] = outcomes
        return rows, 0.0, False, False, {}

    def _rows(self) -> npt.NDArray[np.float32]:
        return np.zeros(self.observation_space.shape, np.float32)  # type: ignore[arg-type]

    def close(self) -> None:
        """Close all."""
        for env in self.envs:
            env.close()


def observation_size(space: gymnasium.Space[Any]) -> int:
    """Numbers in an observation; a discrete one has one."""
    return int(np.prod(space.shape, dtype=np.int64)) if isinstance(space, Box) else 1


def check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    """Raise EnvironmentFailed for spaces that the policies do not support."""
    for what, space in (("observation", env.observation_space), ("action", env.action_space)):
        fits = isinstance(space, Discrete) and int(space.start) == 0
        if isinstance(space, Box):
            fits = np.issubdtype(space.dtype, np.number) and (what == "observation" or space.is_bounded())
        if not fits:
            raise EnvironmentFailed(
                f"the {what} space {space} is not supported: wrap the environment so that it is Discrete from 0 or "
                "Box, actions bounded (gymnasium.wrappers.FlattenObservation, TransformAction)"
            )


def check_behaviour(env: gymnasium.Env[Any, Any]) -> None:
    """Raise EnvironmentFailed if Gymnasium's own checker finds a fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(OnNewTasks(env), skip_render_check=True, skip_close_check=True)
    except Exception as e:  # anything that the environment may raise
        words = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise EnvironmentFailed(f"the environment fails gymnasium.utils.env_checker.check_env, {words}") from e


class OnNewTasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws a new task at every reset: the checker does not pass the options for it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset to a new task."""
        return self.env.reset(seed=seed, options={**(options or {}), "new_task": True})


class GymTrialVectorEnv:
    """Trials of a Gymnasium environment with the interface of `envs.trials.TrialVectorEnv`.

    Args:
        make: builds one environment; sent to the processes, so it must be picklable.
        num_envs: trials B.
        episodes: episodes per trial.
        max_steps: maximum length of an episode.
        processes: number of worker processes; 1: this one.
        device: device of the tensors.

    Attributes:
        horizon: steps T of the longest trial.

    Raises:
        EnvironmentFailed: if it cannot be built, its spaces are not supported or Gymnasium's checker finds a fault.
    """

    def __init__(
        self,
        make: Make,
        num_envs: int,
        episodes: int,
        max_steps: int,
        processes: int = 1,
        device: torch.device | str = "cpu",
    ):
        require_positive(num_envs=num_envs, episodes=episodes, max_steps=max_steps)
        self.num_envs, self.episodes, self.episode_length = num_envs, episodes, max_steps
        self.horizon = episodes * max_steps
        self.device = torch.device(device)
        self.generator = torch.Generator()  # of tasks: on the host, where they are used
        self.generator.seed()
        try:
            probe = make()
        except (GymnasiumError, ImportError) as e:
            raise EnvironmentFailed(f"the environment cannot be made: {' '.join(str(e).split())}") from e
        check_spaces(probe)
        check_behaviour(probe)
        self.single_observation_space, self.single_action_space = probe.observation_space, probe.action_space
        probe.close()
        sizes = [len(part) for part in np.array_split(np.arange(num_envs), min(processes, num_envs))]
        firsts = np.cumsum([0, *sizes[:-1]])
        bundles = [partial(Bundle, make, max(sizes), int(f), episodes, max_steps) for f in firsts]
        self._sizes = sizes
        # (W, k): the trials of each bundle; the last trial is repeated to fill up the bundles
        self._rows_of = np.minimum(firsts[:, None] + np.arange(max(sizes)), (firsts + sizes - 1)[:, None])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about spaces, which does not matter here
            self._vector: VectorEnv[Any, Any, Any] = (
                AsyncVectorEnv(bundles, context="spawn", daemon=True, copy=False)
                if len(bundles) > 1
                else SyncVectorEnv(bundles, copy=False)
            )
        self.tasks = torch.zeros(num_envs, 1, device=self.device)
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._outcomes: list[Tensor] = []  # (B, 4) each: score, reward, end and validity of every step since the reset

    @property
    def episode_returns(self) -> Tensor:
        """(B, episodes) rewards of every episode since the reset."""
        return self._episode_sums()[..., 1]

    @property
    def episode_scores(self) -> Tensor:
        """(B, episodes) means over steps of ``info["score"]``, the environment's own metric."""
        sums = self._episode_sums()
        return sums[..., 0] / sums[..., 3].clamp(min=1)

    def _episode_sums(self) -> Tensor:
        """(B, episodes, 4); steps that are not valid hold zeros."""
        outcomes = torch.stack(self._outcomes, dim=1)  # (B, T, 4)
        ends = outcomes[..., 2:3]
        episode = (ends.cumsum(1) - ends).long().clamp(max=self.episodes - 1)  # (B, T, 1)
        sums = outcomes.new_zeros(self.num_envs, self.episodes, 4)
        return sums.scatter_add(1, episode.expand_as(outcomes), outcomes)

    def sample_tasks(self, n: int, generator: torch.Generator) -> Tensor:
        """Seeds of ``n`` tasks: (n, 1) whole float32 numbers."""
        return torch.randint(MOST_SEEDS, (n, 1), generator=generator, device=generator.device).float()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """New trials, on newly drawn tasks or on ``options["tasks"]`` (B, 1).

        Returns:
            observations: (B,) integers or (B, D); info: ``episode_end`` (B,), True.
        """
        if seed is not None:
            self.generator.manual_seed(seed)
        tasks = (options or {}).get("tasks")
        self.tasks = self.sample_tasks(self.num_envs, self.generator) if tasks is None else tasks.cpu()
        seeds = self.tasks[:, 0].long().tolist()
        seeds += [0] * max(0, max(self._sizes) - min(self._sizes))  # of trials that only fill the last bundles
        self._outcomes = []
        rows = self._call(lambda: self._vector.reset(options={"seeds": seeds})[0])
        self.tasks = self.tasks.to(self.device)
        return self._read(rows)[0], {"episode_end": torch.ones_like(rows[:, 0], dtype=torch.bool)}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One step of every trial.

        Args:
            actions: (B,) integers or (B, D).

        Returns:
            observations (B,) or (B, D), where an episode has ended the first of the next; rewards (B,); two times
            (B,) False, since ``valid`` marks the end of a trial; and info: ``episode_end`` (B,) whether one has just
            ended, and ``valid`` (B,) whether the step counts.

        Raises:
            EnvironmentFailed: if an environment or its process fails, or an action,
                observation or reward is not finite.
        """
        sent = actions.cpu().numpy()
        if not np.isfinite(sent).all():  # or the environment would be blamed for what it makes of it
            raise EnvironmentFailed("an action of the agent is not finite; try a smaller --training.learning-rate")
        rows = self._call(lambda: self._vector.step(sent[self._rows_of])[0])
        observations, rewards = self._read(rows)
        info = {"episode_end": rows[:, -2] > 0, "valid": rows[:, -1] > 0}
        self._outcomes.append(rows[:, -4:])
        return observations, rewards, self._never, self._never, info

    def close(self) -> None:
        """Stop the worker processes at once."""
        if isinstance(self._vector, AsyncVectorEnv):
            for process in self._vector.processes:
                process.kill()  # they hold no state to be kept
            self._vector.closed = True
        else:
            self._vector.close()

    def _call(self, work: Callable[[], npt.NDArray[np.float32]]) -> Tensor:
        """Results of all bundles, (B, D + 4), without the trials that only fill them."""
        try:
            found = work()  # (W, k, D + 4)
        except (EOFError, OSError, GymnasiumError) as e:
            raise EnvironmentFailed(f"an environment process died ({type(e).__name__}); continue with --resume") from e
        except Exception as e:
            words = " ".join(f"{type(e).__name__}: {e}".split())
            raise EnvironmentFailed(f"an environment failed: {words[:300]}; fix it and continue with --resume") from e
        rows = np.concatenate([part[:size] for part, size in zip(found, self._sizes, strict=True)])
        if not np.isfinite(rows).all():
            what = "reward" if np.isfinite(rows[:, :-4]).all() else "observation"
            raise EnvironmentFailed(f"an environment's {what} is not finite; fix it and continue with --resume")
        return torch.from_numpy(rows).to(self.device)

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and rewards."""
        discrete = isinstance(self.single_observation_space, Discrete)
        return rows[:, 0].long() if discrete else rows[:, :-4], rows[:, -3]

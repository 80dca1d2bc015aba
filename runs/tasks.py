"""What is learned: task configurations that build their own environments and data."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import gymnasium
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from baselines.bayes_optimal import bayes_optimal_value, feasible
from baselines.planning import value_iteration
from envs.bandits import BernoulliBanditVectorEnv
from envs.control import Goal, Locomotion
from envs.fewshot.datasets.base import ImageClasses
from envs.fewshot.datasets.registry import load_classes
from envs.gym_trials import GymTrialVectorEnv, observation_size
from envs.mdps import TabularMDPVectorEnv
from envs.recall import AssociativeRecallVectorEnv
from envs.trials import TrialVectorEnv
from runs.agents.embeddings import OMNIGLOT_EMBEDDING, EmbeddingConfig
from runs.config.serialization import options_of
from snail.actions import ActionHead, Gaussian
from snail.observations import RunningNormalizer


class Task(ABC):  # noqa: B024  # what a task must have is said by the trainings that it is for
    """The task. A subclass is a frozen dataclass of its settings."""

    def optimum(self) -> float | None:
        """What no agent can pass in expectation, in units of the metric; None where it is not known."""
        return None


class TrialTask(Task):
    """A family of tasks to act in, one trial each."""

    tested_at_once: int = 4000
    """Test trials that are played at once; another number draws other rewards."""
    one_process: bool = False
    """Whether a run of it cannot be shared among processes."""
    score: str = ""
    """What the environment tells besides rewards; empty: nothing."""

    @property
    def horizon(self) -> int:
        """Steps of the longest trial."""
        return self.make_env(1, "cpu").horizon

    def encodings(self, env: Any) -> tuple[int | RunningNormalizer, int | ActionHead]:
        """How observations are encoded, and the distribution of actions; numbers: so many discrete ones."""
        return env.num_observations, env.num_actions

    @abstractmethod
    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """So many trials at once, of so many inner episodes; None: the task's own number.

        Its ``autoreset_mode`` is "Disabled": the caller resets.
        """

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Mean rewards of what was done, for training only.

        Args:
            tasks: (B, ...), as in `envs.trials.TrialVectorEnv.tasks`.
            observations: (B, T) integers.
            actions: (B, T) integers.

        Returns:
            (B, T).

        Raises:
            ValueError: if the task cannot tell.
        """
        raise ValueError(f"{type(self).__name__} cannot tell expected rewards; give --training.no-expected-rewards")

    privileged_size: int = 0
    """Channels F of `privileged`; 0: the task tells nothing."""

    def privileged(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """What a critic may be told of the task in training, and no agent sees: tasks, (B, T) -> (B, T, F)."""
        raise ValueError(f"{type(self).__name__} tells a critic nothing; give --training.no-privileged-critic")


@dataclass(frozen=True)
class BanditTask(TrialTask):
    """Bernoulli bandits with uniform success probabilities; one trial is ``pulls`` pulls on one bandit."""

    arms: int
    """Arms K."""
    pulls: int
    """Pulls N in one trial."""

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """So many bandits at once, of so many pulls if not of ``pulls``."""
        return BernoulliBanditVectorEnv(
            num_envs, self.arms, episodes or self.pulls, device=device, autoreset_mode="Disabled"
        )

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """The success probabilities of the arms pulled."""
        return tasks.gather(1, actions)

    @property
    def privileged_size(self) -> int:  # type: ignore[override]
        """As many as arms, and one."""
        return self.arms + 1

    def privileged(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """Success probabilities of all arms, and that of the best: (B, T, K + 1)."""
        told = torch.cat([tasks, tasks.amax(1, keepdim=True)], dim=1)  # (B, K + 1)
        return told[:, None].expand(-1, observations.shape[1], -1)

    def optimum(self) -> float | None:
        """Expected total reward of the best possible agent, or None where computing it takes too long."""
        return bayes_optimal_value(self.pulls, self.arms) if feasible(self.pulls, self.arms) else None


@dataclass(frozen=True)
class MDPTask(TrialTask):
    """Random tabular MDPs; one trial is ``episodes`` episodes in one MDP."""

    episodes: int
    """Episodes N in one trial."""
    states: int = 10
    """States S."""
    actions: int = 5
    """Actions A."""
    episode_length: int = 10
    """Steps H in one episode."""

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """So many MDPs at once, of so many episodes if not of ``episodes``."""
        return TabularMDPVectorEnv(
            num_envs,
            self.states,
            self.actions,
            episodes or self.episodes,
            self.episode_length,
            device=device,
            autoreset_mode="Disabled",
        )

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Mean rewards of states and actions."""
        rows = torch.arange(len(tasks), device=tasks.device)[:, None]
        return tasks[rows, observations, actions, -1]

    @property
    def privileged_size(self) -> int:  # type: ignore[override]
        """Two for each action, and one."""
        return 2 * self.actions + 1

    def privileged(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """What can still be earned in the episode and what is earned now by each action, and by an episode: per step.

        (B, T, 2 A + 1): optimal values of the actions in the present state, by value iteration, their mean rewards,
        and the optimal value of an episode; values divided by the length of an episode.
        """
        q = value_iteration(tasks[..., :-1], tasks[..., -1], self.episode_length)  # (B, H, S, A)
        steps = torch.arange(observations.shape[1], device=tasks.device) % self.episode_length
        rows = torch.arange(len(tasks), device=tasks.device)[:, None]
        values, means = q[rows, steps, observations], tasks[rows, observations, :, -1]  # (B, T, A)
        episode = q[:, 0, 0].amax(-1)[:, None, None].expand(-1, len(steps), 1)  # (B, T, 1)
        return torch.cat([values / self.episode_length, means, episode / self.episode_length], dim=-1)

    def optimum(self) -> float | None:
        """Not known exactly: the expectation over MDPs of what an oracle collects has no closed form."""
        return None


@dataclass(frozen=True)
class RecallTask(TrialTask):
    """Multi-query associative recall; see `envs.recall`."""

    pairs: int
    """Keys with their values in a trial."""
    queries: int
    """Keys that are asked for."""
    keys: int = 16
    """Different keys."""
    values: int = 8
    """Different values."""

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """So many trials at once."""
        return AssociativeRecallVectorEnv(
            num_envs, self.pairs, self.queries, self.keys, self.values, device=device, autoreset_mode="Disabled"
        )

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """The rewards themselves, in which there is no chance."""
        return (actions == tasks[..., 1]).float()

    def optimum(self) -> float:
        """A perfect memory answers every query."""
        return float(self.queries)


@dataclass(frozen=True)
class GymnasiumTask(TrialTask):
    """Any Gymnasium environment with flat observations and discrete or continuous actions; see `envs.gym_trials`.

    A subclass may override ``make``, to wrap the environment or to build one that is not registered.
    """

    env: str
    """Registered id, also as MODULE:ID."""
    episodes: int = 2
    """Episodes of a trial, on one task."""
    max_steps: int = 200
    """Steps after which an episode ends in any case."""
    squash: bool = False
    """Squash continuous actions into the space by tanh instead of clipping them."""

    tested_at_once: ClassVar[int] = 100  # type: ignore[misc]
    one_process: ClassVar[bool] = True  # type: ignore[misc]

    @property
    def horizon(self) -> int:
        """Told without an environment, whose package need not be installed."""
        return self.episodes * self.max_steps

    def make(self) -> gymnasium.Env[Any, Any]:
        """One environment, which draws a new task when it is reset with ``options={"new_task": True}``."""
        return gymnasium.make(self.env, disable_env_checker=True)

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> Any:
        """So many trials at once, in as many processes as this one may use threads.

        Raises:
            EnvironmentFailed: if it cannot be built, or its spaces are not supported.
        """
        processes = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
        return GymTrialVectorEnv(self.make, num_envs, episodes or self.episodes, self.max_steps, processes, device)

    def encodings(self, env: Any) -> tuple[int | RunningNormalizer, int | ActionHead]:
        """Running moments for `Box` observations, a Gaussian for `Box` actions."""
        seen, actions = env.single_observation_space, env.single_action_space
        observations = int(seen.n) if isinstance(seen, Discrete) else RunningNormalizer(observation_size(seen))
        if isinstance(actions, Discrete):
            return observations, int(actions.n)
        low, high = (torch.as_tensor(end).flatten() for end in (actions.low, actions.high))
        return observations, Gaussian(low, high, self.squash)


@dataclass(frozen=True)
class ControlTask(GymnasiumTask):
    """Locomotion with a hidden task; see `envs.control`."""

    goal: Goal = "direction"
    """direction: forwards or backwards; velocity: one to keep."""
    told: bool = False
    """Show the task in the observation: for a ceiling."""

    @property
    def score(self) -> str:  # type: ignore[override]
        """The velocity in the right direction, or the velocity's error."""
        return "velocity" if self.goal == "direction" else "velocity_error"

    def make(self) -> gymnasium.Env[Any, Any]:
        """The wrapped environment."""
        return Locomotion(self.env, self.goal, self.told)


@dataclass(frozen=True)
class FewShotTask(Task):
    """N-way K-shot classification of images."""

    data: str
    """Data set: omniglot, glyphs, mini-imagenet, or one that an extension registers."""
    ways: int
    """Classes in an episode."""
    shots: tuple[int, ...]
    """Examples of each class: every training step draws one of these."""
    test_shots: tuple[int, ...]
    """Shots that are evaluated, each giving one number."""
    embedding: Annotated[EmbeddingConfig, options_of(EmbeddingConfig)] = OMNIGLOT_EMBEDDING
    """The image embedding."""

    def optimum(self) -> float | None:
        """Perfect accuracy."""
        return 1.0

    def load(self, split: str, data_root: Path | None) -> ImageClasses:
        """The classes of one split; fetched first if they are nowhere to be found."""
        return load_classes(self.data, split, root=data_root, download=True)

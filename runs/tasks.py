"""Tasks: configurations that build environments and data."""

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
from baselines.beliefs import (
    bandit_belief,
    bandit_belief_size,
    bandit_posterior_means,
    mdp_belief,
    mdp_belief_size,
    mdp_posterior_means,
)
from baselines.planning import optimal_value, value_iteration
from envs.bandits import BernoulliBanditVectorEnv
from envs.control import Goal, Locomotion
from envs.fewshot.datasets.base import ImageClasses
from envs.fewshot.datasets.registry import load_classes
from envs.gym_trials import GymTrialVectorEnv, observation_size
from envs.mdps import TabularMDPVectorEnv
from envs.recall import AssociativeRecallVectorEnv
from envs.trials import TrialVectorEnv
from runs.agents.embeddings import OMNIGLOT_EMBEDDING, EmbeddingConfig
from runs.config.serialization import options_of, renamed
from snail.actions import ActionHead, Gaussian
from snail.observations import RunningNormalizer


class Task(ABC):  # noqa: B024  # each kind of training requires its own kind of task
    """The task. A subclass is a frozen dataclass of its settings."""

    def optimum(self) -> float | None:
        """Upper bound for every agent's expected result, in units of the metric; None if unknown."""
        return None


class TrialTask(Task):
    """A family of reinforcement-learning tasks, with one trial per task."""

    tested_at_once: int = 4000
    """Test trials played at once; another number would draw other rewards."""
    one_process: bool = False
    """Whether a run cannot be distributed over processes."""
    score: str = ""
    """Name of the environment's own metric besides the reward; empty: none."""

    @property
    def horizon(self) -> int:
        """Steps of the longest trial."""
        return self.make_env(1, "cpu").horizon

    def encodings(self, env: Any) -> tuple[int | RunningNormalizer, int | ActionHead]:
        """The encoder of observations and the distribution of actions, or the numbers of discrete ones."""
        return env.num_observations, env.num_actions

    @abstractmethod
    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """Build a batch of trials, with this number of inner episodes; None: the task's own number.

        ``autoreset_mode`` is "Disabled": the caller resets.
        """

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Expected rewards of the actions taken, for training only.

        Args:
            tasks: (B, ...), as in `envs.trials.TrialVectorEnv.tasks`.
            observations: (B, T) integers.
            actions: (B, T) integers.

        Returns:
            (B, T).

        Raises:
            ValueError: if the task does not know them.
        """
        raise ValueError(f"{type(self).__name__} has no expected rewards; give --training.no-expected-rewards")

    def regrets(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """What the actions lose in expectation, to one who knows the task and acts optimally afterwards.

            V*(s) - Q*(s, a), at least 0

        Arguments, result and error are those of `expected_rewards`.
        """
        raise ValueError(f"{type(self).__name__} has no regrets; give --training.no-regrets")

    privileged_size: int = 0
    """Channels F of `privileged`; 0: no privileged information."""

    def privileged(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """Privileged task information for the critic, hidden from agents: tasks, (B, T) -> (B, T, F)."""
        raise ValueError(f"{type(self).__name__} has no privileged information; give --training.no-privileged-critic")

    belief_size: int = 0
    """Channels F of `belief`; 0: it has none."""

    def belief(self, tasks: Tensor, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Features of belief states and the hidden task, for a critic without memory: see `baselines.beliefs`.

        Args:
            tasks: (B, ...), as in `envs.trials.TrialVectorEnv.tasks`.
            observations: (B, T) integers.
            actions: (B, T) integers.
            rewards: (B, T) of these actions.

        Returns:
            (B, T, F), before each action.

        Raises:
            ValueError: if the task has no such features.
        """
        raise ValueError(f"{type(self).__name__} has no belief states; give --training.no-belief-critic")

    def posterior_rewards(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Expected rewards of all actions given the trial so far, by Bayes' rule.

        Args:
            observations: (B, T) integers.
            actions: (B, T) integers.
            rewards: (B, T) of these actions.

        Returns:
            (B, T, A), before each action.

        Raises:
            ValueError: if the task has no such rule.
        """
        raise ValueError(f"{type(self).__name__} has no posterior rewards; give --training.no-posterior-rewards")


@dataclass(frozen=True)
class BanditTask(TrialTask):
    """Bernoulli bandits with uniform success probabilities; one trial is ``pulls`` pulls on one bandit."""

    arms: int
    """Arms K."""
    pulls: int
    """Pulls N in one trial."""

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """Build a batch of bandits, with this number of pulls; None: ``pulls``."""
        return BernoulliBanditVectorEnv(
            num_envs, self.arms, episodes or self.pulls, device=device, autoreset_mode="Disabled"
        )

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """The success probabilities of the arms pulled."""
        return tasks.gather(1, actions)

    def regrets(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """How much less the arms pulled pay than the best one."""
        return tasks.amax(1, keepdim=True) - tasks.gather(1, actions)

    @property
    def privileged_size(self) -> int:  # type: ignore[override]
        """The number of arms plus one."""
        return self.arms + 1

    def privileged(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """Success probabilities of all arms, and that of the best: (B, T, K + 1)."""
        told = torch.cat([tasks, tasks.amax(1, keepdim=True)], dim=1)  # (B, K + 1)
        return told[:, None].expand(-1, observations.shape[1], -1)

    @property
    def belief_size(self) -> int:  # type: ignore[override]
        """Channels of the belief states of bandits."""
        return bandit_belief_size(self.arms)

    def belief(self, tasks: Tensor, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Pulls and posterior means of the arms, and their success probabilities."""
        return bandit_belief(tasks, actions, rewards)

    def posterior_rewards(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Posterior means of the success probabilities."""
        return bandit_posterior_means(actions, rewards, self.arms)

    def optimum(self) -> float | None:
        """Expected total reward of the Bayes-optimal agent, or None if it is infeasible to compute."""
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
        """Build a batch of MDPs, with this number of episodes; None: ``episodes``."""
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
        """Mean rewards of the visited states and actions."""
        rows = torch.arange(len(tasks), device=tasks.device)[:, None]
        return tasks[rows, observations, actions, -1]

    def regrets(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """By value iteration, for the rest of each episode."""
        q = self._optimal(tasks, observations)
        return q.amax(-1) - q.gather(-1, actions[..., None])[..., 0]

    def _optimal(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """Optimal values of all actions at each step: (B, T, A)."""
        q = value_iteration(tasks[..., :-1], tasks[..., -1], self.episode_length)  # (B, H, S, A)
        steps = torch.arange(observations.shape[1], device=tasks.device) % self.episode_length
        return q[torch.arange(len(tasks), device=tasks.device)[:, None], steps, observations]

    @property
    def privileged_size(self) -> int:  # type: ignore[override]
        """Two channels per action, and one more."""
        return 2 * self.actions + 1

    def privileged(self, tasks: Tensor, observations: Tensor) -> Tensor:
        """Optimal values and mean rewards of all actions, and the optimal value of an episode.

        (B, T, 2 A + 1): optimal values of the actions in the current state, by value iteration, their mean rewards,
        and the optimal value of an episode; values are divided by the length of an episode.
        """
        values, rows = self._optimal(tasks, observations), torch.arange(len(tasks), device=tasks.device)[:, None]
        means = tasks[rows, observations, :, -1]  # (B, T, A)
        episode = optimal_value(tasks, self.episode_length)[:, None, None].expand(*observations.shape, 1)
        return torch.cat([values / self.episode_length, means, episode / self.episode_length], dim=-1)

    @property
    def belief_size(self) -> int:  # type: ignore[override]
        """Channels of the belief states of MDPs."""
        return mdp_belief_size(self.actions)

    def belief(self, tasks: Tensor, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Values of plans in the real and in the mean MDP of the posterior, and visits."""
        return mdp_belief(tasks, observations, actions, rewards, self.episode_length)

    def posterior_rewards(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Posterior means of the mean rewards in the current state."""
        return mdp_posterior_means(observations, actions, rewards, self.states, self.actions)

    def optimum(self) -> float | None:
        """Unknown: the oracle's expected return over random MDPs has no closed form."""
        return None


@dataclass(frozen=True)
class RecallTask(TrialTask):
    """Multi-query associative recall; see `envs.recall`."""

    pairs: int
    """Pairs of keys and values per trial."""
    queries: int
    """Queries per trial."""
    keys: int = 16
    """Different keys."""
    values: int = 8
    """Different values."""

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> TrialVectorEnv:
        """Build a batch of trials."""
        return AssociativeRecallVectorEnv(
            num_envs, self.pairs, self.queries, self.keys, self.values, device=device, autoreset_mode="Disabled"
        )

    def expected_rewards(self, tasks: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """The rewards themselves, which are deterministic."""
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
    """Episodes per trial, on one task."""
    max_steps: int = 200
    """Maximum length of an episode."""
    squash: bool = False
    """Squash continuous actions into the space by tanh instead of clipping them."""

    tested_at_once: ClassVar[int] = 100  # type: ignore[misc]
    one_process: ClassVar[bool] = True  # type: ignore[misc]

    @property
    def horizon(self) -> int:
        """Computed without building the environment, whose package may be missing."""
        return self.episodes * self.max_steps

    def make(self) -> gymnasium.Env[Any, Any]:
        """Build one environment, which draws a new task when reset with ``options={"new_task": True}``."""
        return gymnasium.make(self.env, disable_env_checker=True)

    def make_env(self, num_envs: int, device: torch.device | str, episodes: int | None = None) -> Any:
        """Build a batch of trials, stepped in as many processes as this one may use threads.

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
    """direction: forwards or backwards; velocity: a target velocity."""
    show_task: bool = renamed("told", False)
    """Put the task into the observation, for an upper bound."""

    @property
    def score(self) -> str:  # type: ignore[override]
        """The velocity in the right direction, or the error of the velocity."""
        return "velocity" if self.goal == "direction" else "velocity_error"

    def make(self) -> gymnasium.Env[Any, Any]:
        """The wrapped environment."""
        return Locomotion(self.env, self.goal, self.show_task)


@dataclass(frozen=True)
class FewShotTask(Task):
    """N-way K-shot classification of images."""

    data: str
    """Data set: omniglot, glyphs, mini-imagenet, or one that an extension registers."""
    ways: int
    """Classes per episode."""
    shots: tuple[int, ...]
    """Support images per class: every update draws one of these numbers."""
    test_shots: tuple[int, ...]
    """Numbers of shots that are tested, each separately."""
    embedding: Annotated[EmbeddingConfig, options_of(EmbeddingConfig)] = OMNIGLOT_EMBEDDING
    """The image embedding."""

    def optimum(self) -> float | None:
        """Perfect accuracy."""
        return 1.0

    def load(self, split: str, data_root: Path | None) -> ImageClasses:
        """The classes of one split; downloaded first if they are not found."""
        return load_classes(self.data, split, root=data_root, download=True)

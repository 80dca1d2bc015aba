"""Values of all actions in belief states, for policy improvement by lookahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines.beliefs import bandit_expected_best, bandit_posterior_means, pulls_and_wins
from baselines.mdp_values import MDPPlans, MDPValueNetwork, mdp_plans
from baselines.regret_network import RegretNetwork
from runs.algorithms.passes import TrialBatch
from runs.tasks import BanditTask, MDPTask, TrialTask

STEPS_AT_ONCE = 65_536
"""Arms times steps per evaluation of the lookahead, which bounds memory."""


@dataclass(frozen=True)
class Beliefs(TrialBatch):
    """Belief states of trials; a subclass adds what its network reads.

    means: (B, T, A) posterior mean rewards of all actions.
    rewards: (B, T, A) what the policy maximises: they, or minus the expected regrets.
    """

    means: Tensor
    rewards: Tensor


class BeliefValues(ABC):
    """Action values of one kind of task: what is known exactly, and a network that learns the rest from trials."""

    network: nn.Module
    examples: type[TrialBatch]
    """What the network is fitted to."""
    name: str = "expected_return"
    """Of the sum of `Beliefs.rewards` of a trial in the logs."""
    sign: float = 1.0
    """Of the number of that name."""

    @abstractmethod
    def beliefs(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> Beliefs:
        """The belief states before each step of trials: (B, T) each."""

    @abstractmethod
    def action_values(self, beliefs: Any) -> Tensor:
        """Expected sum of `Beliefs.rewards` from each step to the end, after each action: (B, T, A)."""

    @abstractmethod
    def to_fit(self, beliefs: Any, actions: Tensor, returns: Tensor) -> TrialBatch:
        """Examples of all states.

        Args:
            beliefs: of B trials.
            actions: (B, T) taken.
            returns: (B, T) estimates of the policy's value in each state.
        """

    @abstractmethod
    def errors(self, examples: Any) -> Tensor:
        """(M,) differences between the network and the examples."""


def chosen(x: Tensor, actions: Tensor) -> Tensor:
    """Entries of the actions taken: (..., A), (...) -> (...)."""
    return x.gather(-1, actions[..., None])[..., 0]


@dataclass(frozen=True)
class BanditBeliefs(Beliefs):
    """The counts of Bernoulli bandits.

    pulls, wins: (B, N, K) before each pull.
    left: (B, N) pulls that are left.
    """

    pulls: Tensor
    wins: Tensor
    left: Tensor


@dataclass(frozen=True)
class BanditExamples(TrialBatch):
    """pulls, wins: (M, K) of each arm so far. left: (M,) pulls that are left. regrets: (M,) to go."""

    pulls: Tensor
    wins: Tensor
    left: Tensor
    regrets: Tensor


class BanditValues(BeliefValues):
    """Minus regrets of Bernoulli bandits, by one step of lookahead: Bayes' rule says how likely each outcome is.

        Q(s, a) = E[p_a | s] - E[max p | s] - E[R(s')]        where s' follows arm a in state s

    R, the expected regret to go, is a network.
    """

    network: RegretNetwork
    examples = BanditExamples
    name, sign = "regret", -1.0

    def __init__(self, arms: int, pulls: int):
        self.arms, self.network = arms, RegretNetwork(pulls)

    def beliefs(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> BanditBeliefs:
        """Counts, and what they say of the arms."""
        means = bandit_posterior_means(actions, rewards, self.arms)
        best = bandit_expected_best(actions, rewards, self.arms)
        left = torch.arange(actions.shape[1], 0, -1, dtype=rewards.dtype, device=rewards.device)
        counts = pulls_and_wins(actions, rewards, self.arms)
        return BanditBeliefs(means, means - best[..., None], *counts, left.expand(rewards.shape))

    def action_values(self, beliefs: BanditBeliefs) -> Tensor:
        """Minus the regret of each arm now and later."""
        at_once = max(1, STEPS_AT_ONCE // beliefs.pulls[0].numel())
        parts = map(beliefs.rows, torch.arange(len(beliefs), device=beliefs.pulls.device).split(at_once))
        return beliefs.rewards - torch.cat([self.network.after_pulls(b.pulls, b.wins, b.left) for b in parts])

    def to_fit(self, beliefs: BanditBeliefs, actions: Tensor, returns: Tensor) -> BanditExamples:
        """The regret to go in each state."""
        fields = (beliefs.pulls, beliefs.wins, beliefs.left, -returns)
        return BanditExamples(*(x.flatten(0, 1) for x in fields))

    def errors(self, examples: BanditExamples) -> Tensor:
        """Of the regret to go."""
        return self.network(examples.pulls, examples.wins, examples.left) - examples.regrets


@dataclass(frozen=True)
class MDPBeliefs(Beliefs):
    """Plans in tabular MDPs, see `baselines.mdp_values.MDPPlans`."""

    of_actions: Tensor
    of_states: Tensor
    planned: Tensor


@dataclass(frozen=True)
class MDPExamples(TrialBatch):
    """The plans of M states, the actions taken (M,), and estimates of their values (M,)."""

    of_actions: Tensor
    of_states: Tensor
    planned: Tensor
    actions: Tensor
    values: Tensor


class MDPValues(BeliefValues):
    """Rewards of tabular MDPs: plans with what is known, corrected by a network.

    Args:
        episodes: inner episodes of a trial.
        sizes: states, actions, and steps of an inner episode.
    """

    network: MDPValueNetwork
    examples = MDPExamples

    def __init__(self, episodes: int, sizes: tuple[int, int, int]):
        self.sizes, self.network = sizes, MDPValueNetwork(episodes)

    def beliefs(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> MDPBeliefs:
        """Plans before each step."""
        plans: MDPPlans = mdp_plans(observations, actions, rewards, *self.sizes)
        return MDPBeliefs(plans.means, plans.means, plans.of_actions, plans.of_states, plans.planned)

    def action_values(self, beliefs: MDPBeliefs) -> Tensor:
        """By the network."""
        return self.network(beliefs.of_actions, beliefs.of_states, beliefs.planned)

    def to_fit(self, beliefs: MDPBeliefs, actions: Tensor, returns: Tensor) -> MDPExamples:
        """The expected reward of each action taken, and the value of the next state."""
        later = torch.cat([returns[:, 1:], torch.zeros_like(returns[:, :1])], dim=1)
        values = chosen(beliefs.rewards, actions) + later
        fields = (beliefs.of_actions, beliefs.of_states, beliefs.planned, actions, values)
        return MDPExamples(*(x.flatten(0, 1) for x in fields))

    def errors(self, examples: MDPExamples) -> Tensor:
        """Of the values of the actions taken, in units of the network's scale."""
        values = self.network(examples.of_actions, examples.of_states, examples.planned)
        return (chosen(values, examples.actions) - examples.values) / self.network.scale


def belief_values(task: TrialTask) -> Callable[[], BeliefValues]:
    """What builds the values of a task's actions.

    Raises:
        ValueError: if none are known of such tasks.
    """
    if isinstance(task, BanditTask):
        return lambda: BanditValues(task.arms, task.pulls)
    if isinstance(task, MDPTask):
        return lambda: MDPValues(task.episodes, (task.states, task.actions, task.episode_length))
    kind = type(task).__name__
    raise ValueError(f"lookahead needs belief states of bandits or MDPs, not of {kind}; give --algorithm ppo")

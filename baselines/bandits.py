"""Classical methods for Bernoulli bandits with a uniform prior: those that RL^2 is compared with.

The set, the settings to tune over and the prior counts are those of Duan et al. (2016), "RL^2: Fast reinforcement
learning via slow reinforcement learning", arXiv:1611.02779, section 3.1; beside it stands the finite-horizon index,
which knows when the trial ends.

All are index methods: each arm gets a number from what the trial has brought so far, and an arm of the largest
number is pulled, any of them with equal probability. With s successes and f failures of an arm, its chance is
Beta(s + 1, f + 1), with mean (s + 1) / (s + f + 2): as if every arm started with one success and one failure.

    method = UCB1(c=0.2)
    rewards = method.play(env, generator)  # (B, T)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import log

import torch
from torch import Tensor

from baselines.classical_agent import ClassicalAgent
from baselines.gittins import FiniteHorizonTables, finite_horizon_indices, gittins_indices
from envs.trials import TrialVectorEnv, require_positive

TENTHS = tuple(i / 10 for i in range(11))
"""0, 0.1, .., 1: where RL^2 looks for the best c and epsilon."""


@dataclass(frozen=True)
class Trials:
    """The state of B trials of one length: all that an agent sees.

    successes: (B, K) int64, of each arm so far; failures: (B, K) int64.
    pulls_left: how many pulls are still to be made in each trial; pulls: how many there are in all.
    """

    successes: Tensor
    failures: Tensor
    pulls_left: int
    pulls: int

    @property
    def mean(self) -> Tensor:
        """Posterior mean of the arms' chances, (s + 1) / (s + f + 2) as (B, K) float32."""
        return (self.successes + 1) / (self.successes + self.failures + 2)


class BanditMethod(ClassicalAgent):
    """One method with its setting. A subclass is a frozen dataclass of numbers that defines `index`."""

    @classmethod
    def grid(cls) -> tuple[BanditMethod, ...]:
        """The settings to choose from by tuning: RL^2's; a single one where there is nothing to tune."""
        return (cls(),)

    @abstractmethod
    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """Index of each arm, (B, K) float32; the arm with the largest is pulled."""

    def choose(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """The arms to pull, (B,) int64: those of the largest index, ties broken uniformly."""
        index = self.index(trials, generator)  # (B, K)
        noise = torch.rand(index.shape, generator=generator, device=index.device)
        return torch.where(index == index.amax(1, keepdim=True), noise, -1.0).argmax(1)  # (B,)

    def play(self, env: TrialVectorEnv, generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """Play one trial in every row of a bandit, on new tasks or on the given ones.

        Args:
            env: B bandits of K arms; its rewards are drawn with its own generator.
            generator: Source of the method's own randomness, on the environment's device, and of another seed: the
                numbers that drew the chances of success would otherwise be those that break the first ties.
            tasks: (B, K) chances of success.

        Returns:
            (B, T) float32 rewards.

        Raises:
            ValueError: If the environment is more than a bandit, that is if it has something to observe, or if its
                generator has the same seed.
        """
        if env.num_observations != 1:
            raise ValueError(f"a bandit has 1 observation, got an environment with {env.num_observations}")
        if (seed := generator.initial_seed()) == env.generator.initial_seed():
            raise ValueError(f"generator and environment must have different seeds, got {seed} for both")
        env.reset(options=None if tasks is None else {"tasks": tasks})
        successes, failures = torch.zeros(2, env.num_envs, env.num_actions, dtype=torch.int64, device=env.device)
        rewards = torch.empty(env.horizon, env.num_envs, device=env.device)  # time-major, as it is written
        for t in range(env.horizon):
            action = self.choose(Trials(successes, failures, env.horizon - t, env.horizon), generator)  # (B,)
            _, rewards[t], _, _, _ = env.step(action)
            won = rewards[t].long()
            successes.scatter_add_(1, action[:, None], won[:, None])
            failures.scatter_add_(1, action[:, None], 1 - won[:, None])
        return rewards.T


@dataclass(frozen=True)
class Random(BanditMethod):
    """Every arm is as good as any other."""

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """0 for all."""
        return torch.zeros_like(trials.mean)


@dataclass(frozen=True)
class Greedy(BanditMethod):
    """The arm that has the largest posterior mean, (s + 1) / (s + f + 2)."""

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """The posterior mean."""
        return trials.mean


@dataclass(frozen=True)
class EpsilonGreedy(BanditMethod):
    """With probability epsilon any arm, otherwise the greedy one (Sutton & Barto, 1998, section 2.2)."""

    epsilon: float = 0.1
    """Probability to explore: to pull any of the arms, the greedy one included."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")

    @classmethod
    def grid(cls) -> tuple[BanditMethod, ...]:
        """epsilon = 0, 0.1, .., 1."""
        return tuple(cls(epsilon) for epsilon in TENTHS)

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """The posterior mean, or 0 for all arms of a trial that explores."""
        mean = trials.mean  # (B, K)
        explores = torch.rand(len(mean), 1, generator=generator, device=mean.device) < self.epsilon  # (B, 1)
        return mean.masked_fill(explores, 0.0)


@dataclass(frozen=True)
class UCB1(BanditMethod):
    """The largest upper confidence bound (Auer, Cesa-Bianchi & Fischer, 2002, "Finite-time analysis of the
    multiarmed bandit problem"), with a factor as in Audibert & Munos (2011):

        index = mean + c sqrt(2 log t / n)

    t = 1, 2, .. counts the pulls, the one to be made included; n = s + f + 2 and mean = (s + 1) / n count one
    success and one failure of each arm before the first.
    """

    c: float = 1.0
    """Width of the confidence bound; 1 is the original, 0 is greedy."""

    def __post_init__(self) -> None:
        if self.c < 0:
            raise ValueError(f"c must be at least 0, got {self.c}")

    @classmethod
    def grid(cls) -> tuple[BanditMethod, ...]:
        """c = 0, 0.1, .., 1."""
        return tuple(cls(c) for c in TENTHS)

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """mean + c sqrt(2 log t / n)."""
        n = trials.successes + trials.failures + 2  # (B, K)
        t = trials.pulls - trials.pulls_left + 1
        return trials.mean + self.c * (2 * log(t) / n).sqrt()


@dataclass(frozen=True)
class Thompson(BanditMethod):
    """Probability matching: each arm with the probability that it is the best (Thompson, 1933, "On the likelihood that
    one unknown probability exceeds another in view of the evidence of two samples"), by a draw of all chances:

        index ~ Beta(s + 1, f + 1)
    """

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """One draw from the posterior."""
        return _posterior_draw(trials, generator)


@dataclass(frozen=True)
class OptimisticThompson(BanditMethod):
    """RL^2's optimistic Thompson sampling: of several posterior samples of all arms, use the most probable.

        index = X^j,  j = argmax over j = 1, .., k of  prod_i (X^j_i)^s_i (1 - X^j_i)^f_i,
        X^1, .., X^k independent draws of all arms' chances from the posterior

    The product over arms i is the posterior density, up to a factor. This follows RL^2's description literally, that
    it "samples N times from the posterior, and takes the one with the highest probability", and reproduces their
    results. The method cited there (May, Korda, Lee & Leslie, 2012, "Optimistic Bayesian sampling in
    contextual-bandit problems") is another, index = max(X, mean).
    """

    samples: int = 20
    """Draws k; 1 is Thompson sampling."""

    def __post_init__(self) -> None:
        require_positive(samples=self.samples)

    @classmethod
    def grid(cls) -> tuple[BanditMethod, ...]:
        """samples = 1, 2, .., 20."""
        return tuple(cls(samples) for samples in range(1, 21))

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """The most probable of the samples."""
        likeliest = _posterior_draw(trials, generator)  # (B, K)
        largest = _log_density(trials, likeliest)  # (B, 1)
        for _ in range(self.samples - 1):
            draw = _posterior_draw(trials, generator)
            density = _log_density(trials, draw)
            likeliest = torch.where(density > largest, draw, likeliest)
            largest = torch.maximum(density, largest)
        return likeliest


@dataclass(frozen=True)
class Gittins(BanditMethod):
    """Gittins' index: optimal if rewards are discounted and the trial never ends; see `baselines.gittins`."""

    discount: float = 0.99
    """Weight of the next reward relative to the present one; 1 / (1 - discount) pulls are looked ahead."""

    def __post_init__(self) -> None:
        if not 0 < self.discount < 1:
            raise ValueError(f"discount must be between 0 and 1, got {self.discount}")

    @classmethod
    def grid(cls) -> tuple[BanditMethod, ...]:
        """discount = 0.9, 0.99, 0.999, 0.9999."""
        return tuple(cls(discount) for discount in (0.9, 0.99, 0.999, 0.9999))

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """The discounted index, from its table."""
        table = _gittins_indices(trials.pulls, self.discount, trials.successes.device)
        return table[trials.successes, trials.failures]


@dataclass(frozen=True)
class FiniteHorizonGittins(BanditMethod):
    """The finite-horizon index: the value of an arm given the number of remaining pulls; see `baselines.gittins`."""

    def index(self, trials: Trials, generator: torch.Generator) -> Tensor:
        """The index for the pulls that are left, from its table."""
        tables = _finite_horizon_indices(trials.pulls, trials.successes.device)
        return tables.at(trials.pulls_left)[trials.successes, trials.failures]


@lru_cache(maxsize=16)
def _gittins_indices(pulls: int, discount: float, device: torch.device) -> Tensor:
    """The table on the given device: copied once, not at every pull."""
    return gittins_indices(pulls, discount).to(device)


@lru_cache(maxsize=4)
def _finite_horizon_indices(pulls: int, device: torch.device) -> FiniteHorizonTables:
    """The tables on the given device."""
    return finite_horizon_indices(pulls).to(device)


def _posterior_draw(trials: Trials, generator: torch.Generator) -> Tensor:
    """One draw from Beta(s + 1, f + 1) for each arm, (B, K) float32: X / (X + Y) of Gamma(s + 1) and Gamma(f + 1)."""
    # torch.distributions calls this function too, but takes no generator.
    x = torch._standard_gamma((trials.successes + 1).float(), generator)
    y = torch._standard_gamma((trials.failures + 1).float(), generator)
    return x / (x + y)


def _log_density(trials: Trials, chances: Tensor) -> Tensor:
    """Logarithm of the posterior density of chances (B, K), up to a constant of each trial: (B, 1)."""
    # 0 log 0 = 0: a chance may have been rounded to 0 or 1
    densities = torch.xlogy(trials.successes, chances) + torch.xlogy(trials.failures, 1 - chances)  # (B, K)
    return densities.sum(1, keepdim=True)

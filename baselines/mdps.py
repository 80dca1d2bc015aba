"""Classical learners for random tabular MDPs, thousands of trials at once.

These are what RL^2 is compared with (Duan et al., 2016, "RL^2: Fast reinforcement learning via slow reinforcement
learning", arXiv:1611.02779, section 3.2 and table 2): every learner keeps statistics of what it has seen in its
trial, makes a plan for H steps at the start of each inner episode, and follows it to the episode's end.

Most of them are Bayesian. With n(s, a) rewards of sum R(s, a) seen so far and n(s, a, s') transitions, the priors
mu ~ N(m, 1) on mean rewards (noise of variance 1) and P ~ Dirichlet(1, .., 1) lead to the posterior

    mu(s, a) ~ N((m + R(s, a)) / (1 + n(s, a)), 1 / (1 + n(s, a)))
    P(. | s, a) ~ Dirichlet(1 + n(s, a, 1), .., 1 + n(s, a, S))

(Gelman et al., 2013, "Bayesian data analysis", sections 2.5 and 3.4). ``prior_mean`` is m. The MDPs of
`envs.mdps.TabularMDPVectorEnv` are drawn with m = 1; RL^2's own comparison has m = 0, the default of the code that
it ran, https://github.com/iosband/TabulaRL.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.classical_agent import ClassicalAgent
from baselines.planning import extended_value_iteration, value_iteration
from envs.trials import TrialVectorEnv, require_positive

SCALES = tuple(10 ** (i / 5 - 4) for i in range(21))
"""RL^2's choices of scale: 21 from 0.0001 to 1, at equal ratios."""


@dataclass
class Statistics:
    """What has been seen in B trials so far, and the MDPs that it was seen in."""

    transitions: Tensor
    """(B, S, A, S) times that each transition was seen."""
    visits: Tensor
    """(B, S, A) rewards seen. More than transitions: an inner episode's last step shows no next state."""
    reward_sums: Tensor
    """(B, S, A) sums of these rewards."""
    tasks: Tensor | None = None
    """(B, S, A, S + 1) the MDPs themselves, for `Oracle` alone."""

    @classmethod
    def none(cls, tasks: Tensor) -> Statistics:
        """Nothing seen yet."""
        B, S, A, _ = tasks.shape
        return cls(tasks.new_zeros(B, S, A, S), tasks.new_zeros(B, S, A), tasks.new_zeros(B, S, A), tasks)

    def add(self, states: Tensor, actions: Tensor, rewards: Tensor, next_states: Tensor | None) -> None:
        """Count one step of each trial: (B,) each; ``next_states`` are None at the end of an inner episode."""
        rows = torch.arange(len(states), device=states.device)
        self.visits[rows, states, actions] += 1
        self.reward_sums[rows, states, actions] += rewards
        if next_states is not None:
            self.transitions[rows, states, actions, next_states] += 1

    def mean_chances(self) -> Tensor:
        """(B, S, A, S) posterior means of the transition probabilities."""
        counts = 1 + self.transitions
        return counts / counts.sum(-1, keepdim=True)

    def mean_rewards(self, prior_mean: float) -> Tensor:
        """(B, S, A) posterior means of the mean rewards."""
        return (prior_mean + self.reward_sums) / (1 + self.visits)

    def sample(self, prior_mean: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """MDPs drawn from the posterior: (B, S, A, S) transition probabilities and (B, S, A) mean rewards."""
        # normalised Gamma variables are Dirichlet distributed
        weights = torch._standard_gamma(1 + self.transitions, generator=generator)
        noise = torch.randn(self.visits.shape, generator=generator, device=self.visits.device)
        rewards = self.mean_rewards(prior_mean) + noise / (1 + self.visits).sqrt()
        return weights / weights.sum(-1, keepdim=True), rewards


class MDPMethod(ClassicalAgent):
    """A learner that acts in unknown MDPs."""

    @abstractmethod
    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Decide on one inner episode at its start.

        Args:
            seen: What was seen in the trials so far.
            horizon: Steps H of an inner episode.
            generator: Source of all randomness, on the device of ``seen``.

        Returns:
            (B, H, S) int64, the action for each step and state. As no step comes twice in an episode, random
            entries do the same as an action drawn when it is taken.
        """

    def grid(self) -> tuple[MDPMethod, ...]:
        """Settings to choose from by tuning: those of RL^2, or this one alone if there is nothing to tune."""
        return (self,)

    def play(self, env: TrialVectorEnv, generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """Play one trial in every row of ``env``.

        Args:
            env: Random tabular MDPs. Rewards and transitions come from its own generator, so results repeat if
                it was seeded, by ``env.reset(seed=...)`` before.
            generator: Source of the method's randomness, on the device of ``env``.
            tasks: (B, S, A, S + 1) MDPs to play; sampled by ``env`` if left out.

        Returns:
            (B, T) float32 rewards.

        Raises:
            ValueError: If ``env`` has no tabular MDPs, or ``tasks`` are not its tasks.
        """
        S, A, H = env.num_observations, env.num_actions, env.episode_length
        if env.task_shape != (S, A, S + 1):
            raise ValueError(f"tasks of env must have shape {(S, A, S + 1)}, got {env.task_shape}")
        states, _ = env.reset() if tasks is None else env.reset(options={"tasks": tasks})  # (B,)
        seen = Statistics.none(env.tasks)
        rows = torch.arange(env.num_envs, device=env.device)
        collected = []
        for _ in range(env.horizon // H):
            policy = self.plan(seen, H, generator)  # (B, H, S)
            for h in range(H):
                actions = policy[rows, h, states]  # (B,)
                next_states, rewards, _, _, _ = env.step(actions)
                # after the last step env shows the start of the next episode, which is not a transition of the MDP
                seen.add(states, actions, rewards, next_states if h < H - 1 else None)
                collected.append(rewards)
                states = next_states
        return torch.stack(collected, dim=1)  # (B, T)


@dataclass(frozen=True)
class RandomPolicy(MDPMethod):
    """Every action uniformly at random."""

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Draw every action."""
        B, S, A = seen.visits.shape
        return torch.randint(A, (B, horizon, S), generator=generator, device=seen.visits.device)


@dataclass(frozen=True)
class GreedyPolicy(MDPMethod):
    """Optimal actions in the mean MDP of the posterior, as if it were the true one:

        P(s' | s, a) = (1 + n(s, a, s')) / (S + sum_s'' n(s, a, s'')),    r(s, a) = (m + R(s, a)) / (1 + n(s, a))

    Certainty equivalence; the baseline of Duan et al. (2016), whose code gives the prior next to no weight.
    """

    prior_mean: float = 1.0
    """Prior mean m of the mean rewards."""

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Solve the mean MDP."""
        return _best(value_iteration(seen.mean_chances(), seen.mean_rewards(self.prior_mean), horizon), generator)


@dataclass(frozen=True)
class EpsilonGreedyPolicy(MDPMethod):
    """`GreedyPolicy`, but with probability epsilon each action is a uniformly random one instead."""

    epsilon: float = 0.1
    """Probability of a random action."""
    prior_mean: float = 1.0
    """Prior mean m of the mean rewards."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")

    def grid(self) -> tuple[MDPMethod, ...]:
        """Epsilon 0.1, 0.2, .., 1."""
        return tuple(replace(self, epsilon=i / 10) for i in range(1, 11))

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Solve the mean MDP, and explore."""
        greedy = GreedyPolicy(self.prior_mean).plan(seen, horizon, generator)  # (B, H, S)
        random = RandomPolicy().plan(seen, horizon, generator)
        explore = torch.rand(greedy.shape, generator=generator, device=greedy.device) < self.epsilon
        return torch.where(explore, random, greedy)


@dataclass(frozen=True)
class PSRL(MDPMethod):
    """Posterior sampling: optimal actions in one MDP drawn from the posterior at the start of each episode.

    Source: Strens (2000), "A Bayesian framework for reinforcement learning", ICML; Osband, Russo and Van Roy
    (2013), "(More) efficient reinforcement learning via posterior sampling", NeurIPS.
    """

    prior_mean: float = 1.0
    """Prior mean m of the mean rewards."""

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Draw an MDP and solve it."""
        return _best(value_iteration(*seen.sample(self.prior_mean, generator), horizon), generator)


@dataclass(frozen=True)
class OPSRL(MDPMethod):
    """Optimistic posterior sampling: K MDPs are drawn and solved, each on its own, and the best promise counts:

        action_h(s) = argmax_a max_k Q_h^k(s, a)

    Source: ``OptimisticPSRL`` of TabulaRL, which RL^2 ran: the code of Osband and Van Roy (2017), "Why is posterior
    sampling better than optimism for reinforcement learning?", ICML. The maximum is over the values of whole
    solutions, not taken again at every step of one value iteration.
    """

    samples: int = 5
    """MDPs K drawn for each episode; 1 is `PSRL`."""
    prior_mean: float = 1.0
    """Prior mean m of the mean rewards."""

    def __post_init__(self) -> None:
        require_positive(samples=self.samples)

    def grid(self) -> tuple[MDPMethod, ...]:
        """Samples 1, 2, .., 20."""
        return tuple(replace(self, samples=i) for i in range(1, 21))

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Draw MDPs, solve each and keep the largest values."""
        q = value_iteration(*seen.sample(self.prior_mean, generator), horizon)  # (B, H, S, A)
        for _ in range(self.samples - 1):
            q = q.maximum(value_iteration(*seen.sample(self.prior_mean, generator), horizon))
        return _best(q, generator)


@dataclass(frozen=True)
class _Scaled(MDPMethod):
    """A method whose optimism has a scale."""

    scale: float = 0.1
    """Factor of the bonus (BEB) or of the confidence widths (UCRL2)."""
    prior_mean: float = 1.0
    """Prior mean m of the mean rewards."""

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")

    def grid(self) -> tuple[MDPMethod, ...]:
        """The scales of `SCALES`."""
        return tuple(replace(self, scale=scale) for scale in SCALES)


@dataclass(frozen=True)
class BEB(_Scaled):
    """Bayesian exploration bonus: optimal actions in the mean MDP of the posterior, with the rewards

        r(s, a) = (m + R(s, a)) / (1 + n(s, a)) + beta / (1 + S + n(s, a)),    beta = 2 scale H^2

    where S is the prior's share of the Dirichlet counts. Source: Kolter and Ng (2009), "Near-Bayesian exploration
    in polynomial time", ICML, whose theorem has scale 1. In the code that RL^2 ran the bonus also grows with the
    steps that remain, so the same scale explores more there.
    """

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Solve the mean MDP with the bonus in its rewards."""
        S = seen.visits.shape[1]
        rewards = seen.mean_rewards(self.prior_mean) + 2 * self.scale * horizon**2 / (1 + S + seen.visits)
        return _best(value_iteration(seen.mean_chances(), rewards, horizon), generator)


@dataclass(frozen=True)
class UCRL2(_Scaled):
    """Optimism: optimal actions in the best MDP near the empirical one, in episode k among those with

        r(s, a) <= r^(s, a) + scale sqrt(L / n(s, a))
        |P(. | s, a) - P^(. | s, a)|_1 <= scale sqrt(S L / n'(s, a)),    L = 4 log(2 S A (k + 1) / 0.05)

    where r^ and P^ are averages of the n rewards and n' transitions seen. A pair never tried counts as seen once,
    with r^ = m and P^ uniform. Source: Jaksch, Ortner and Auer (2010), "Near-optimal regret bounds for
    reinforcement learning", JMLR 11; with a finite horizon, a plan for each episode and these constants as in the
    code that RL^2 ran (``UCRL2`` of TabulaRL, which has m = 0).
    """

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Solve the most promising plausible MDP."""
        S, A = seen.visits.shape[1:]
        episode = 1 + seen.visits.sum((1, 2), keepdim=True) / horizon  # (B, 1, 1)
        log = 4 * (2 * S * A * (episode + 1) / 0.05).log()
        n = seen.visits.clamp(min=1)  # (B, S, A)
        rewards = torch.where(seen.visits > 0, seen.reward_sums / n, self.prior_mean)
        followed = seen.transitions.sum(-1)  # (B, S, A), n' of the equation
        chances = seen.transitions / followed.clamp(min=1)[..., None]  # (B, S, A, S)
        chances = chances.where(followed[..., None] > 0, 1 / S)
        widened = rewards + self.scale * (log / n).sqrt()
        radius = self.scale * (S * log / followed.clamp(min=1)).sqrt()
        return _best(extended_value_iteration(chances, widened, radius, horizon), generator)


@dataclass(frozen=True)
class Oracle(MDPMethod):
    """Optimal actions in the true MDP, which it is told: what no method can beat on average."""

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        """Solve the true MDP."""
        assert seen.tasks is not None
        return _best(value_iteration(seen.tasks[..., :-1], seen.tasks[..., -1], horizon), generator)


def _best(q: Tensor, generator: torch.Generator) -> Tensor:
    """Actions (B, H, S) of the largest values among ``q`` (B, H, S, A); at random where equal up to rounding."""
    best = q >= q.amax(-1, keepdim=True) - 1e-5
    # 1 - rand is never 0, which would be no better than an action that is not among the best
    return (best * (1 - torch.rand(q.shape, generator=generator, device=q.device))).argmax(-1)

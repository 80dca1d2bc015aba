"""Exact Bayes-optimal play of Bernoulli bandits with a uniform prior: an upper bound for every agent's mean.

With a uniform prior, an arm with s successes and f failures pays 1 next time with probability
p = (s + 1) / (s + f + 2). The counts of all arms are thus a sufficient statistic, and the value of n
remaining pulls obeys the Bellman equation

    V_0(b) = 0
    V_n(b) = max_i  p_i (1 + V_{n-1}(b + success of i)) + (1 - p_i) V_{n-1}(b + failure of i)

(Bellman, 1956, "A problem in the sequential design of experiments", Sankhya 16; as a Bayes-adaptive decision
process: Duff, 2002, "Optimal learning"). Arms are exchangeable, so a belief b is the *multiset* of the counts
of the arms touched so far. It never holds more arms than there were pulls, so all K >= N are worth the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb

import numpy as np

Arm = tuple[int, int]  # successes, failures
Belief = tuple[Arm, ...]  # sorted, without the arms not touched yet
UNTOUCHED: Arm = (0, 0)

MAX_BELIEFS = 1_000_000
"""Beliefs up to which a bandit counts as feasible: about half a minute and a quarter of a GB."""


def bayes_optimal_value(pulls: int, arms: int) -> float:
    """Largest expected sum of rewards that any policy can reach in one trial.

    Args:
        pulls: Pulls N in one trial.
        arms: Arms K, success probabilities independent and uniform on [0, 1].

    Returns:
        Expected number of successes, between N / 2 and N.

    Raises:
        ValueError: If a count is below 1, or if there are too many beliefs, see `feasible`.
    """
    return _values(pulls, min(pulls, arms))[0][()]


def bayes_optimal_action(successes: Sequence[int], failures: Sequence[int], pulls: int) -> int:
    """Arm that a Bayes-optimal player pulls next; the first among equals.

    Args:
        successes: (K,) successes of each arm so far in this trial.
        failures: (K,) failures of each arm.
        pulls: Pulls N in one trial, including those already made.

    Returns:
        Arm, below K.

    Raises:
        ValueError: If the counts differ in length, are negative or leave no pull, or if there are too many
            beliefs, see `feasible`.
    """
    counts: list[Arm] = [(int(s), int(f)) for s, f in zip(successes, failures, strict=True)]
    made = sum(map(sum, counts))
    if min(map(min, counts), default=0) < 0:
        raise ValueError(f"counts must not be negative, got {counts}")
    if made >= pulls:
        raise ValueError(f"successes and failures must leave a pull, got {made} of {pulls}")
    belief = tuple(sorted(arm for arm in counts if arm != UNTOUCHED))
    later = _values(pulls, min(pulls, len(counts)))[made + 1]
    return max(range(len(counts)), key=lambda i: _worth(belief, counts[i], later))


def feasible(pulls: int, arms: int) -> bool:
    """Whether `bayes_optimal_value` of this bandit has few enough beliefs to be computed."""
    return num_beliefs(pulls, arms) <= MAX_BELIEFS


def num_beliefs(pulls: int, arms: int) -> int:
    """Number of beliefs before the last pull: how much work and memory the exact solution takes.

    Counts multisets of at most K arms with at most N - 1 pulls in all. There are m + 1 kinds of an arm pulled
    m times, so j such arms can be chosen in C(m + j, j) ways.

    Args:
        pulls: Pulls N in one trial.
        arms: Arms K.

    Returns:
        The exact number if it is at most `MAX_BELIEFS`, else a lower bound above `MAX_BELIEFS`.

    Raises:
        ValueError: If a count is below 1.
    """
    if pulls < 1 or arms < 1:
        raise ValueError(f"pulls and arms must be at least 1, got {pulls} and {arms}")
    made = min(pulls - 1, 8)
    while True:  # the count only grows with the trial, so that of a short one can already be too large
        touched = min(arms, made)
        ways = np.zeros((touched + 1, made + 1))  # ways[k, n]: multisets of k arms with n pulls in all
        ways[0, 0] = 1
        for m in range(1, made + 1):
            fewer = ways.copy()
            for j in range(1, min(touched, made // m) + 1):
                ways[j:, j * m :] += comb(m + j, j) * fewer[:-j, : made + 1 - j * m]
        if made == pulls - 1 or ways.sum() > MAX_BELIEFS:
            return int(ways.sum())
        made = min(pulls - 1, 2 * made)


@lru_cache(maxsize=8)
def _values(pulls: int, arms: int) -> list[dict[Belief, float]]:
    """Solve one bandit: item m maps each belief after m pulls to the value of the pulls that remain."""
    if not feasible(pulls, arms):
        raise ValueError(
            f"pulls and arms are too large for the exact solution: {pulls} pulls of {arms} arms "
            f"lead to more than {MAX_BELIEFS:,} beliefs"
        )
    layers: list[set[Belief]] = [{()}]
    for _ in range(pulls - 1):
        layers.append(
            {
                _pulled(belief, arm, success)
                for belief in layers[-1]
                for arm in _choices(belief, arms)
                for success in (True, False)
            }
        )
    values: list[dict[Belief, float]] = [{}]  # no reward after the last pull
    for layer in reversed(layers):
        later = values[-1]
        values.append({belief: max(_worth(belief, arm, later) for arm in _choices(belief, arms)) for belief in layer})
    return values[::-1]


def _choices(belief: Belief, arms: int) -> set[Arm]:
    """Arms up to symmetry: one for each count, and one untouched if any is left."""
    return {*belief, UNTOUCHED} if len(belief) < arms else set(belief)


def _worth(belief: Belief, arm: Arm, later: dict[Belief, float]) -> float:
    """Value of pulling ``arm`` now and playing optimally after it: the right side of the Bellman equation."""
    successes, failures = arm
    p = (successes + 1) / (successes + failures + 2)
    if not later:
        return p
    return p * (1 + later[_pulled(belief, arm, True)]) + (1 - p) * later[_pulled(belief, arm, False)]


def _pulled(belief: Belief, arm: Arm, success: bool) -> Belief:
    """Belief after one more pull of ``arm``."""
    rest = list(belief)
    if arm != UNTOUCHED:
        rest.remove(arm)
    successes, failures = arm
    rest.append((successes + 1, failures) if success else (successes, failures + 1))
    return tuple(sorted(rest))

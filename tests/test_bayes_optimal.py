"""The exact solution of the Bernoulli bandit against slower, independent ways to the same numbers."""

from fractions import Fraction
from itertools import pairwise, product
from math import factorial, prod

import numpy as np
import pytest
import torch

from baselines.bayes_optimal import (
    MAX_BELIEFS,
    _values,
    bayes_optimal_action,
    bayes_optimal_value,
    feasible,
    num_beliefs,
)
from envs import BernoulliBanditVectorEnv


def value_by_plain_recursion(pulls: int, counts: tuple[tuple[int, int], ...]) -> Fraction:
    """The Bellman equation over labelled arms, without symmetry and without memory."""
    if pulls == 0:
        return Fraction(0)
    values = []
    for i, (s, f) in enumerate(counts):
        p = Fraction(s + 1, s + f + 2)
        won = value_by_plain_recursion(pulls - 1, (*counts[:i], (s + 1, f), *counts[i + 1 :]))
        lost = value_by_plain_recursion(pulls - 1, (*counts[:i], (s, f + 1), *counts[i + 1 :]))
        values.append(p * (1 + won) + (1 - p) * lost)
    return max(values)


def value_by_policy_search(pulls: int, arms: int) -> Fraction:
    """The best of all deterministic policies, each valued from the probability of whole reward sequences.

    Uses no posterior: an arm's outcomes have probability int p^s (1 - p)^f dp = s! f! / (s + f + 1)!.
    """
    histories = [h for t in range(pulls) for h in product((0, 1), repeat=t)]
    best = Fraction(0)
    for choice in product(range(arms), repeat=len(histories)):
        policy = dict(zip(histories, choice, strict=True))
        value = Fraction(0)
        for rewards in product((0, 1), repeat=pulls):
            counts = [[0, 0] for _ in range(arms)]
            for t, reward in enumerate(rewards):
                counts[policy[rewards[:t]]][1 - reward] += 1
            probability = prod(Fraction(factorial(s) * factorial(f), factorial(s + f + 1)) for s, f in counts)
            value += probability * sum(rewards)
        best = max(best, value)
    return best


@pytest.mark.parametrize(("pulls", "arms", "value"), [(10, 5, 6.65999), (10, 10, 6.71395), (10, 50, 6.71395)])
def test_golden_values(pulls: int, arms: int, value: float) -> None:
    assert bayes_optimal_value(pulls, arms) == pytest.approx(value, abs=5e-6)


def test_values_by_hand() -> None:
    assert bayes_optimal_value(1, 7) == 0.5
    # First pull 1/2; after a success the same arm pays 2/3, after a failure a new one pays 1/2.
    assert bayes_optimal_value(2, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2)
    # One arm: nothing to choose.
    assert bayes_optimal_value(30, 1) == pytest.approx(15)


@pytest.mark.parametrize(("pulls", "arms"), [(1, 1), (2, 3), (3, 2), (4, 2), (4, 3), (3, 5), (5, 2), (5, 3)])
def test_agrees_with_plain_recursion(pulls: int, arms: int) -> None:
    expected = value_by_plain_recursion(pulls, ((0, 0),) * arms)
    assert bayes_optimal_value(pulls, arms) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(("pulls", "arms"), [(1, 2), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_agrees_with_search_over_all_policies(pulls: int, arms: int) -> None:
    expected = value_by_policy_search(pulls, arms)
    assert bayes_optimal_value(pulls, arms) == pytest.approx(float(expected), abs=1e-12)


def test_more_arms_help_until_there_is_one_for_each_pull() -> None:
    values = [bayes_optimal_value(8, arms) for arms in range(1, 12)]
    assert all(a < b for a, b in pairwise(values[:8]))
    assert values[7:] == [values[7]] * 4


@pytest.mark.parametrize(("pulls", "arms"), [(1, 1), (2, 1), (6, 2), (8, 3), (10, 5), (9, 9), (12, 2)])
def test_number_of_beliefs_is_exact(pulls: int, arms: int) -> None:
    assert num_beliefs(pulls, arms) == sum(len(layer) for layer in _values(pulls, arms)[:-1])


def test_feasibility() -> None:
    assert feasible(10, 50) and feasible(1000, 1)
    for pulls, arms in [(100, 2), (100, 5), (500, 50), (1000, 50)]:
        assert num_beliefs(pulls, arms) > MAX_BELIEFS
        assert not feasible(pulls, arms)
    with pytest.raises(ValueError, match="100 pulls of 5 arms lead to more than"):
        bayes_optimal_value(100, 5)


@pytest.mark.parametrize(("pulls", "arms"), [(0, 5), (10, 0), (-1, -1)])
def test_counts_below_one_are_refused(pulls: int, arms: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bayes_optimal_value(pulls, arms)


def test_actions() -> None:
    assert bayes_optimal_action([1, 0, 0], [0, 0, 0], pulls=2) == 0  # 2/3 beats the unknown 1/2
    assert bayes_optimal_action([0, 0, 0], [1, 0, 0], pulls=2) == 1  # the unknown 1/2 beats 1/3
    # At equal means of 1/2 the untouched arm, about which more can be learnt, is better with pulls to come.
    assert bayes_optimal_action([1, 0], [1, 0], pulls=5) == 1


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="leave a pull, got 2 of 2"):
        bayes_optimal_action([1, 0], [0, 1], pulls=2)
    with pytest.raises(ValueError, match="negative"):
        bayes_optimal_action([-1, 0], [0, 0], pulls=2)
    with pytest.raises(ValueError):
        bayes_optimal_action([0, 0], [0], pulls=2)


def test_optimal_play_of_the_environment_earns_the_optimal_value() -> None:
    trials, arms, pulls = 4000, 3, 6
    bandits = BernoulliBanditVectorEnv(trials, arms, pulls)
    bandits.reset(seed=0)
    counts = np.zeros((2, trials, arms), dtype=np.int64)  # failures, successes
    returns = torch.zeros(trials)
    rows = np.arange(trials)
    for _ in range(pulls):
        actions = [bayes_optimal_action(s.tolist(), f.tolist(), pulls) for f, s in zip(*counts, strict=True)]
        _, rewards, _, _, _ = bandits.step(actions)
        counts[rewards.long().numpy(), rows, actions] += 1
        returns += rewards
    error = returns.std().item() / trials**0.5
    assert abs(returns.mean().item() - bayes_optimal_value(pulls, arms)) < 4 * error

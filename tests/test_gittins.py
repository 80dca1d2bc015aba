"""Index tables against published values and against slower, independent ways to the same numbers."""

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest

from baselines.bayes_optimal import bayes_optimal_value
from baselines.gittins import finite_horizon_index, finite_horizon_indices, gittins_indices


def arms_pulled_less_than(pulls: int) -> tuple[np.ndarray, np.ndarray]:
    """Successes and failures of all arms that have had fewer pulls."""
    return np.nonzero(np.add.outer(np.arange(pulls), np.arange(pulls)) < pulls)


def index_by_all_stopping_rules(successes: int, failures: int, pulls: int) -> Fraction:
    """Largest E[reward] / E[pulls] of all rules that say, for each history of rewards, whether to go on."""
    histories = [h for t in range(1, pulls) for h in product((0, 1), repeat=t)]
    best = Fraction(0)
    for goes_on in product((False, True), repeat=len(histories)):
        rule = dict(zip(histories, goes_on, strict=True))
        reward = time = Fraction(0)
        alive = {(): Fraction(1)}  # history: probability
        for _ in range(pulls):
            later = {}
            for history, probability in alive.items():
                s, n = successes + sum(history), successes + failures + len(history)
                p = Fraction(s + 1, n + 2)
                reward += probability * p
                time += probability
                later |= {(*history, 1): probability * p, (*history, 0): probability * (1 - p)}
            alive = {history: probability for history, probability in later.items() if rule.get(history)}
        best = max(best, reward / time)
    return best


def index_by_restarts(successes: int, failures: int, discount: float, depth: int) -> float:
    """(1 - a) times the value of the arm when one may go back to its first state at any time.

    Katehakis & Veinott, 1987, "The multi-armed bandit problem: decomposition and computation". Value iteration
    over all states within ``depth`` pulls; beyond them the mean is paid for ever.
    """
    s, f = np.meshgrid(successes + np.arange(depth + 1), failures + np.arange(depth + 1), indexing="ij")
    p = (s + 1) / (s + f + 2)
    value = p / (1 - discount)
    inner = np.add.outer(np.arange(depth), np.arange(depth)) < depth
    for _ in range(round(20 / (1 - discount))):
        going_on = p[:-1, :-1] + discount * (p[:-1, :-1] * value[1:, :-1] + (1 - p[:-1, :-1]) * value[:-1, 1:])
        value[:-1, :-1][inner] = np.maximum(going_on, going_on[0, 0])[inner]
    return (1 - discount) * value[0, 0]


def value_beside_a_known_arm(s: int, f: int, pulls: int, chance: float) -> tuple[float, float]:
    """Values of pulling first an arm with these counts, and first one of known chance, then always the better."""
    if pulls == 0:
        return 0.0, 0.0
    p = (s + 1) / (s + f + 2)
    won, lost = (max(value_beside_a_known_arm(*counts, pulls - 1, chance)) for counts in ((s + 1, f), (s, f + 1)))
    return p * (1 + won) + (1 - p) * lost, chance + max(value_beside_a_known_arm(s, f, pulls - 1, chance))


def value_of_finite_horizon_policy(pulls: int, arms: int) -> float:
    """Exact expected reward of always pulling an arm of the largest index, by enumeration."""
    tables = finite_horizon_indices(pulls)

    def value(counts: tuple[tuple[int, int], ...], left: int) -> float:
        if left == 0:
            return 0.0
        i = max(range(arms), key=lambda i: tables.at(left)[counts[i]].item())
        s, f = counts[i]
        p = (s + 1) / (s + f + 2)
        won, lost = (value((*counts[:i], arm, *counts[i + 1 :]), left - 1) for arm in ((s + 1, f), (s, f + 1)))
        return p * (1 + won) + (1 - p) * lost

    return value(((0, 0),) * arms, pulls)


# Gittins, Glazebrook & Weber (2011), tables of the Bernoulli reward process
@pytest.mark.parametrize(
    ("discount", "s", "f", "index"),
    [
        (0.9, 0, 0, 0.7029),
        (0.9, 1, 1, 0.6346),
        (0.9, 2, 2, 0.6010),
        (0.9, 9, 1, 0.8695),
        (0.99, 0, 0, 0.8699),
    ],
)
def test_published_discounted_indices(discount: float, s: int, f: int, index: float) -> None:
    assert gittins_indices(20, discount)[s, f].item() == pytest.approx(index, abs=1e-4)


@pytest.mark.parametrize(("s", "f"), [(0, 0), (0, 3), (4, 1), (10, 1), (6, 5)])
def test_discounted_index_is_that_of_restarts(s: int, f: int) -> None:
    for discount in (0.5, 0.9):
        expected = index_by_restarts(s, f, discount, depth=100)
        assert gittins_indices(20, discount)[s, f].item() == pytest.approx(expected, abs=1e-4)


def test_discounted_index_of_many_pulls() -> None:
    expected = index_by_restarts(90, 9, 0.95, depth=200)
    assert gittins_indices(100, 0.95)[90, 9].item() == pytest.approx(expected, abs=2e-4)


def test_discounted_index_grows_with_patience_and_success() -> None:
    s, f = arms_pulled_less_than(20)
    values = [gittins_indices(20, discount)[s, f].numpy() for discount in (0.5, 0.9, 0.99)]
    for less, more in pairwise([(s + 1) / (s + f + 2), *values, np.ones(len(s))]):
        assert (less < more).all()
    s, f = arms_pulled_less_than(19)
    table = gittins_indices(20, 0.9)
    assert (table[s, f + 1] < table[s, f]).all() and (table[s, f] < table[s + 1, f]).all()


@pytest.mark.parametrize("pulls_left", [1, 2, 3])
def test_finite_horizon_index_is_the_best_of_all_stopping_rules(pulls_left: int) -> None:
    for s, f in [(0, 0), (1, 0), (0, 1), (2, 5), (7, 1)]:
        expected = float(index_by_all_stopping_rules(s, f, pulls_left))
        assert finite_horizon_index(np.array([s]), np.array([f]), pulls_left)[0] == pytest.approx(expected, abs=1e-12)
        assert finite_horizon_indices(12).at(pulls_left)[s, f].item() == pytest.approx(expected, abs=1e-6)


def test_finite_horizon_index_by_hand() -> None:
    # One pull: the mean. Two: the second only after a success of the first, (p + p p') / (1 + p).
    tables = finite_horizon_indices(2)
    assert tables.at(1)[1, 0].item() == pytest.approx(2 / 3)
    assert tables.at(2)[0, 0].item() == pytest.approx((1 / 2 + 1 / 2 * 2 / 3) / (1 + 1 / 2))


@pytest.mark.parametrize(("s", "f", "pulls_left"), [(0, 0, 6), (1, 1, 5), (2, 0, 6), (0, 3, 7)])
def test_finite_horizon_index_is_the_break_even_chance_of_a_known_arm(s: int, f: int, pulls_left: int) -> None:
    index = finite_horizon_indices(10).at(pulls_left)[s, f].item()
    for chance in (index - 0.01, index - 0.001, index + 0.001, index + 0.01):
        unknown, known = value_beside_a_known_arm(s, f, pulls_left, chance)
        assert (unknown > known) == (chance < index)


def test_finite_horizon_index_does_not_depend_on_the_guess() -> None:
    s, f = np.array([0, 3, 10, 0]), np.array([0, 4, 1, 9])
    expected = finite_horizon_index(s, f, 30)
    for guess in (0.0, 0.5, 1.0):
        assert finite_horizon_index(s, f, 30, np.full(4, guess)) == pytest.approx(expected, abs=1e-12)


def test_finite_horizon_tables_of_short_trials_are_exact() -> None:
    for n in (1, 2, 9, 20, 39, 40):
        table = finite_horizon_indices(40).at(n)
        assert table.shape == (41 - n, 41 - n)
        s, f = arms_pulled_less_than(41 - n)
        assert table[s, f].numpy() == pytest.approx(finite_horizon_index(s, f, n), abs=2e-6)


def test_finite_horizon_tables_of_long_trials_are_interpolated_closely() -> None:
    pulls = 110
    rng = np.random.default_rng(0)
    for n in (1, 5, 33, 40, 59, 77, 92, 101, 110):
        m = rng.integers(0, pulls - n, 100, endpoint=True)
        s = rng.integers(0, m, endpoint=True)
        m, s = np.append(m, [pulls - n] * 2), np.append(s, [0, pulls - n])
        table = finite_horizon_indices(pulls).at(n).numpy()
        assert table[s, m - s] == pytest.approx(finite_horizon_index(s, m - s, n), abs=3e-4)


def test_finite_horizon_index_grows_with_the_pulls_left() -> None:
    tables = finite_horizon_indices(110)
    s, f = arms_pulled_less_than(31)
    values = np.stack([tables.at(n)[s, f] for n in range(1, 81)])  # (n, arms)
    assert values[0] == pytest.approx((s + 1) / (s + f + 2), abs=1e-6)
    assert (np.diff(values, axis=0) > 0).all() and (values < 1).all()


@pytest.mark.parametrize(("pulls", "arms"), [(1, 3), (2, 2), (3, 2), (4, 2), (5, 2), (4, 3), (5, 3), (6, 3)])
def test_finite_horizon_policy_is_optimal_in_short_trials(pulls: int, arms: int) -> None:
    # Not so of all bandits, but of the smallest. Greedy play loses 0.005 and more from four pulls on.
    assert value_of_finite_horizon_policy(pulls, arms) == pytest.approx(bayes_optimal_value(pulls, arms), abs=1e-9)


def test_impossible_settings_are_refused() -> None:
    for discount in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="discount must be between 0 and 1"):
            gittins_indices(5, discount)
    with pytest.raises(ValueError, match="pulls must be at least 1, got 0"):
        gittins_indices(0, 0.9)
    with pytest.raises(ValueError, match="pulls must be at least 1, got 0"):
        finite_horizon_indices(0)

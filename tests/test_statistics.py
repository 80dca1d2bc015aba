"""Intervals and tests against hand-worked cases, scipy's own tests and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from runs.results.statistics import (
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
    ratio_of_means,
    t_interval,
    welch_p,
)

rng = np.random.default_rng(0)


def test_students_interval_by_hand():
    # 1, 2, 3: mean 2, s = 1, and the printed tables' t for 2 degrees of freedom is 4.303
    found = t_interval([1, 2, 3])
    assert found.value == 2 and found.half == pytest.approx(4.303 / 3**0.5, rel=1e-4)
    assert math.isnan(t_interval([1.0]).low)


def test_students_interval_covers_the_truth_as_often_as_it_says():
    covered = [(e := t_interval(rng.normal(3, 2, 4))).low < 3 < e.high for _ in range(2000)]
    assert 0.935 < np.mean(covered) < 0.965  # 3 standard errors


def test_paired_difference_is_the_paired_t_test():
    tasks = rng.normal(0, 10, 50)  # tasks differ much, agents little
    a, b = tasks + rng.normal(1, 1, 50), tasks + rng.normal(0, 1, 50)
    found = paired_difference(a, b)
    theirs = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(theirs.pvalue) and found.n == 50
    interval = theirs.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))
    # unpaired, the tasks would hide the difference
    assert found.p < 0.01 < stats.ttest_ind(a, b).pvalue


def test_no_difference_at_all():
    assert paired_difference([1, 2], [1, 2]).p == 1
    assert paired_difference([2, 3], [1, 2]).p == 0
    with pytest.raises(ValueError, match="same tasks"):
        paired_difference([1, 2], [1, 2, 3])


def test_welch():
    a, b = rng.normal(0.3, 1, 40), rng.normal(0, 2, 25)
    errors = [x.std(ddof=1) / len(x) ** 0.5 for x in (a, b)]
    found = welch_p(a.mean(), errors[0], 40, b.mean(), errors[1], 25)
    assert found == pytest.approx(stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue)
    assert welch_p(2, 0, 9, 1, 0, 9) == 0 and welch_p(1, 0, 9, 1, 0, 9) == 1


def test_ratio_of_means():
    b = rng.uniform(5, 10, 400)
    exact = ratio_of_means(0.9 * b, b)  # every task the same share: nothing is uncertain
    assert (exact.value, exact.half) == pytest.approx((0.9, 0), abs=1e-12)
    a = 0.9 * b + rng.normal(0, 1, 400)
    brute = []
    for _ in range(2000):
        rows = rng.integers(0, 400, 400)
        brute.append(a[rows].mean() / b[rows].mean())
    found = ratio_of_means(a, b)
    assert found.half == pytest.approx(1.96 * np.std(brute), rel=0.1)


def test_interquartile_mean_by_hand():
    # eight scores: the lowest two and the highest two are left out
    scores = [np.array([0.0, 1, 2, 3]), np.array([4.0, 5, 6, 100])]
    assert interquartile_mean(scores).value == (2 + 3 + 4 + 5) / 4
    assert math.isnan(interquartile_mean([np.array([1.0])]).low)
    assert interquartile_mean([np.array([1.0, 1])]).half == 0


def test_stratified_bootstrap_against_all_resamples():
    """Two experiments of two seeds have 2^2 x 2^2 equally probable resamples: the exact distribution."""
    first, second = np.array([0.0, 1]), np.array([10.0, 14])
    found = interquartile_mean([first, second])
    # with 4 scores the middle half is that without the lowest and the highest
    exact = [
        np.sort([*a, *b])[1:3].mean()
        for a, b in itertools.product(itertools.product(first, repeat=2), itertools.product(second, repeat=2))
    ]
    assert found.low == pytest.approx(np.quantile(exact, 0.025, method="inverted_cdf"), abs=1e-9)
    assert found.high == pytest.approx(np.quantile(exact, 0.975, method="inverted_cdf"), abs=1e-9)
    assert found.low >= 5  # of the four scores together, resamples would often be of the first two alone


def test_probability_of_improvement_by_hand():
    # pairs won: (2>1), (2<3), (4>1), (4>3): 3 of 4; and a tie with everything
    assert probability_of_improvement([np.array([2.0, 4])], [np.array([1.0, 3])]).value == 0.75
    both = probability_of_improvement(
        [np.array([2.0, 4]), np.array([1.0, 1])], [np.array([1.0, 3]), np.array([1.0, 1])]
    )
    assert both.value == (0.75 + 0.5) / 2 and both.low <= both.value <= both.high
    sure = probability_of_improvement([np.array([5.0, 6])], [np.array([1.0, 3])])
    assert (sure.low, sure.value, sure.high) == (1, 1, 1)
    # as Mann and Whitney count
    x, y = rng.normal(0, 1, 12), rng.normal(0.5, 1, 9)
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement([x], [y]).value == pytest.approx(u / (12 * 9))


def test_the_bootstrap_is_repeatable_and_near_students_for_normal_samples():
    x = rng.normal(0, 1, 200)
    a, b = bootstrap_interval(x), bootstrap_interval(x)
    assert a == b and a != bootstrap_interval(x, seed=1)
    assert a.half == pytest.approx(t_interval(x).half, rel=0.1)
    assert bootstrap_interval([3.0, 3.0]).half == 0


@pytest.mark.parametrize("wrong", [[], [[1.0]]])
def test_wrong_samples_are_refused(wrong):
    with pytest.raises(ValueError, match="samples must be"):
        t_interval(wrong)

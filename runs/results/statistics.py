"""Intervals and tests of differences between agents, over test tasks and over training seeds.

Two sources of randomness are kept apart. *Over tasks*: other test tasks would give another mean; narrowed by
more test tasks. *Over seeds*: another training would give another agent; narrowed only by more trainings.
Aggregates over several experiments follow Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # scipy.stats is imported on use, which takes a second
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
Scores = Sequence[NDArray[Any]]
"""One array per experiment, with one score per seed."""


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its 95% interval, NaN for a single sample."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> Estimate:
        """In another unit; ``factor`` is positive."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high)


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two agents on the same tasks.

    p: two-sided p-value.
    """

    difference: Estimate
    p: float
    n: int


def t_quantile(n: int) -> float:
    """Half-width of Student's 95% interval for ``n`` samples, in standard errors of the mean."""
    return float(scipy.special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))


def t_interval(samples: ArrayLike) -> Estimate:
    """Mean of independent samples (n,) with Student's interval: x +- t(n - 1) s / sqrt(n)."""
    x = _samples(samples)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    half = float(t_quantile(len(x)) * x.std(ddof=1) / len(x) ** 0.5)
    return Estimate(mean, mean - half, mean + half)


def bootstrap_interval(samples: ArrayLike, seed: int = 0) -> Estimate:
    """Mean of independent samples (n,) with a bias-corrected, accelerated bootstrap interval (Efron 1987).

    For few samples of skewed distributions, where Student's interval is inaccurate. ``seed`` draws the resamples.
    """
    x = _samples(samples)
    if len(x) < 2 or x.std() == 0:
        return t_interval(x)
    return _bootstrap((x,), lambda x, axis=-1: x.mean(axis), seed, "BCa")


def paired_difference(ours: ArrayLike, theirs: ArrayLike) -> PairedDifference:
    """Mean of ``ours`` - ``theirs``, samples (n,) of the same tasks in the same order, by the paired t-test.

    Pairing removes the variation between tasks, which dominates if all agents collect more on good tasks.
    """
    a, b = _samples(ours), _samples(theirs)
    if a.shape != b.shape:
        raise ValueError(f"paired samples must be of the same tasks, got {len(a)} and {len(b)}")
    d = a - b
    interval = t_interval(d)
    if len(d) < 2:
        return PairedDifference(interval, float("nan"), len(d))
    if d.std() == 0:
        return PairedDifference(interval, 1.0 if interval.value == 0 else 0.0, len(d))
    return PairedDifference(interval, float(scipy.stats.ttest_rel(a, b).pvalue), len(d))


def welch_p(mean_a: float, error_a: float, n_a: int, mean_b: float, error_b: float, n_b: int) -> float:
    """One-sided p of Welch's t-test that a's true mean is larger than b's: small when it is.

    error: standard errors of the means of ``n`` samples each. SNAIL and RL^2 print in bold all that this test, at 0.05,
    does not distinguish from the best.
    """
    if error_a == error_b == 0:
        return 0.0 if mean_a > mean_b else 1.0
    a, b = (mean_a, error_a * n_a**0.5, n_a), (mean_b, error_b * n_b**0.5, n_b)
    return float(scipy.stats.ttest_ind_from_stats(*a, *b, equal_var=False, alternative="greater").pvalue)


def ratio_of_means(ours: ArrayLike, theirs: ArrayLike) -> Estimate:
    """mean(ours) / mean(theirs) of paired samples (n,), with an interval by the delta method.

    Variation between tasks that both agents share hardly widens it.
    """
    a, b = _samples(ours), _samples(theirs)
    if a.shape != b.shape:
        raise ValueError(f"paired samples must be of the same tasks, got {len(a)} and {len(b)}")
    ratio = float(a.mean() / b.mean())
    half = t_interval(a - ratio * b).half / abs(float(b.mean()))
    return Estimate(ratio, ratio - half, ratio + half)


def interquartile_mean(scores: Scores, seed: int = 0) -> Estimate:
    """Mean of the middle half of all experiments' and seeds' scores, with a stratified bootstrap interval.

    Seeds are resampled within each experiment; experiments are not resampled.

    Args:
        scores: on a common scale, such as shares of the optimum.
        seed: seed of the resamples.
    """
    parts = [_samples(s) for s in scores]
    return _stratified(
        parts, lambda *parts, axis=-1: scipy.stats.trim_mean(np.concatenate(parts, axis), 0.25, axis), seed
    )


def probability_of_improvement(ours: Scores, theirs: Scores, seed: int = 0) -> Estimate:
    """Probability that a run of ours beats one of theirs, ties counting half, averaged over experiments.

    P(X > Y) + P(X = Y) / 2 over all pairs of seeds: the statistic of Mann and Whitney, with a stratified bootstrap
    interval.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"both need scores of the same experiments, got {len(ours)} and {len(theirs)}")
    parts = [*map(_samples, ours), *map(_samples, theirs)]

    def statistic(*parts: NDArray, axis: int = -1) -> NDArray:
        half = len(parts) // 2
        pairs = zip(parts[:half], parts[half:], strict=True)
        return np.mean([_wins(x, y) for x, y in pairs], axis=0)

    return _stratified(parts, statistic, seed)


def _wins(x: NDArray, y: NDArray) -> NDArray:
    """(..., n), (..., m) -> (...): the fraction of pairs that x wins."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def _stratified(parts: list[NDArray], statistic: Any, seed: int) -> Estimate:
    """With a single seed in an experiment, the spread over seeds is unknown: no interval."""
    if min(map(len, parts)) < 2:
        return Estimate(float(statistic(*parts)), float("nan"), float("nan"))
    return _bootstrap(parts, statistic, seed, "percentile")


def _bootstrap(parts: Sequence[NDArray], statistic: Any, seed: int, method: Any) -> Estimate:
    """scipy resamples each of ``parts`` separately, which is a stratified bootstrap."""
    value = float(statistic(*parts))
    if all(p.std() == 0 for p in parts):
        return Estimate(value, value, value)
    found = scipy.stats.bootstrap(
        parts,
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


def _samples(x: ArrayLike) -> NDArray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"samples must be a row of at least one number, got shape {x.shape}")
    return x

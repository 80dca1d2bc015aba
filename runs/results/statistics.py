"""What a difference between agents is worth: intervals and tests over test tasks, and over training seeds.

Two sources of chance are kept apart. *Over tasks*: another draw of test tasks would give another mean; narrowed by
testing longer. *Over seeds*: another training would give another agent; narrowed only by training again.
Aggregates over several experiments follow Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads scipy.stats when it is used: that takes a second
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
Scores = Sequence[NDArray[Any]]
"""One array an experiment, of one score a seed."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95% interval; NaN ends where a single sample tells none."""

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
    """How much more one agent collects than another on the same tasks.

    p: probability of a difference at least as large, either way, if there were none.
    """

    difference: Estimate
    p: float
    n: int


def t_quantile(n: int) -> float:
    """What half a Student's interval of ``n`` samples is in standard errors of their mean."""
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

    For few samples of a skewed distribution, where Student's interval errs. Repeatable: ``seed`` draws the resamples.
    """
    x = _samples(samples)
    if len(x) < 2 or x.std() == 0:
        return t_interval(x)
    return _bootstrap((x,), lambda x, axis=-1: x.mean(axis), seed, "BCa")


def paired_difference(ours: ArrayLike, theirs: ArrayLike) -> PairedDifference:
    """Mean of ``ours`` - ``theirs``, samples (n,) of the same tasks in the same order, by the paired t-test.

    Pairing takes out how much tasks differ, which is most of the spread where all agents collect more on good tasks.
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

    error: standard errors of the means of ``n`` samples each. SNAIL and RL^2 print in bold what this test, at 0.05,
    does not tell from the best.
    """
    if error_a == error_b == 0:
        return 0.0 if mean_a > mean_b else 1.0
    a, b = (mean_a, error_a * n_a**0.5, n_a), (mean_b, error_b * n_b**0.5, n_b)
    return float(scipy.stats.ttest_ind_from_stats(*a, *b, equal_var=False, alternative="greater").pvalue)


def ratio_of_means(ours: ArrayLike, theirs: ArrayLike) -> Estimate:
    """mean(ours) / mean(theirs) of paired samples (n,), with an interval by the delta method.

    Tasks on which both collect much widen it little.
    """
    a, b = _samples(ours), _samples(theirs)
    if a.shape != b.shape:
        raise ValueError(f"paired samples must be of the same tasks, got {len(a)} and {len(b)}")
    ratio = float(a.mean() / b.mean())
    half = t_interval(a - ratio * b).half / abs(float(b.mean()))
    return Estimate(ratio, ratio - half, ratio + half)


def interquartile_mean(scores: Scores, seed: int = 0) -> Estimate:
    """Mean of the middle half of all experiments' and seeds' scores, with a stratified bootstrap interval.

    Seeds are drawn anew within each experiment, experiments are not: they were chosen, not drawn.

    Args:
        scores: comparable ones, such as shares of the optimum.
        seed: of the resamples.
    """
    parts = [_samples(s) for s in scores]
    return _stratified(
        parts, lambda *parts, axis=-1: scipy.stats.trim_mean(np.concatenate(parts, axis), 0.25, axis), seed
    )


def probability_of_improvement(ours: Scores, theirs: Scores, seed: int = 0) -> Estimate:
    """How probable it is that a run of ours beats one of theirs, ties counting half; the mean over experiments.

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
    """(..., n), (..., m) -> (...): the share of pairs that x wins."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def _stratified(parts: list[NDArray], statistic: Any, seed: int) -> Estimate:
    """An experiment of a single seed does not tell how much seeds differ: no interval then."""
    if min(map(len, parts)) < 2:
        return Estimate(float(statistic(*parts)), float("nan"), float("nan"))
    return _bootstrap(parts, statistic, seed, "percentile")


def _bootstrap(parts: Sequence[NDArray], statistic: Any, seed: int, method: Any) -> Estimate:
    """scipy draws every one of ``parts`` anew by itself, which is what stratified means."""
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

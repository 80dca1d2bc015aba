"""Index tables of Bernoulli arms with a uniform prior: Gittins' discounted index and the finite-horizon index.

An arm with s successes and f failures pays 1 next time with probability p = (s + 1) / (s + f + 2). Its index is
the price per pull at which pulling it, and stopping whenever that seems best, breaks even:

    index = sup over stopping times tau >= 1 of  E[sum of a^k reward_k, k < tau] / E[sum of a^k, k < tau]

With a discount a < 1 and no end this is Gittins' index, and always pulling the arm of the largest index is
optimal (Gittins, 1979, "Bandit processes and dynamic allocation indices"; Gittins, Glazebrook & Weber, 2011,
"Multi-armed bandit allocation indices", 2nd edition). With a = 1 and tau at most the number of pulls left it is
the finite-horizon index, optimal against one arm of known chance (Bradt, Johnson & Karlin, 1956, "On sequential
designs for maximizing the sum of n observations") and close to optimal otherwise (Kaufmann, 2018, "On Bayesian
index policies for sequential resource allocation"; Lattimore, 2016, "Regret analysis of the finite-horizon Gittins
index strategy for multi-armed bandits").

Tables are (size, size) tensors that are looked up as ``table[s, f]``. They are triangles: an arm cannot have had more
pulls than were made, and what stands in the other half means nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, erf, floor, log, pi, sin, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from envs.trials import require_positive

Numbers = npt.NDArray[np.floating[Any] | np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]

PRICES = 2048
"""Prices at which the discounted index is calibrated; their spacing is what limits its accuracy."""
BLOCK = 128
"""Prices that are worked on at a time: few enough to stay in the processor's cache."""
EXACT = 100
"""Pulls in a trial up to which the finite-horizon index is computed for every arm and number of pulls left."""


@lru_cache(maxsize=16)
def gittins_indices(pulls: int, discount: float) -> Tensor:
    """Gittins' index of every arm that can occur in a trial of so many pulls, by calibration.

    For each price c on a grid, backward induction over s + f = m values the right to pull the arm and to pay c
    for each pull, until one stops (Gittins et al., 2011, section 8.4):

        D(s, f) = p - c + a (p V(s + 1, f) + (1 - p) V(s, f + 1)),    V = max(D, 0)

    The index is the price at which D(s, f) = 0, linear between two neighbours of the grid. Far beyond the trial,
    at m = depth, V is set half-way between two bounds: that nothing more is ever learnt, max(p - c, 0) / (1 - a),
    and that all is revealed, E max(P - c, 0) / (1 - a).

    Accurate to 2e-4 for discounts up to 0.9999 and 1000 pulls. Seconds on one core: less than one for a discount of
    0.9; for 0.9999, two for 10 pulls and 15 for 1000.

    Args:
        pulls: Pulls N in one trial.
        discount: Weight a of the next reward relative to the present one, between 0 and 1 exclusively.

    Returns:
        (N, N) float32.

    Raises:
        ValueError: If pulls or discount are out of range.
    """
    require_positive(pulls=pulls)
    if not 0 < discount < 1:
        raise ValueError(f"discount must be between 0 and 1, got {discount}")
    depth = pulls + ceil(min(10 / (1 - discount), 2000 + 4 * pulls))
    table = np.full((pulls, pulls), np.nan, np.float32)
    angles = np.linspace(0, pi / 2, PRICES + 1)
    for first in range(0, PRICES, BLOCK):
        _calibrate(table, angles[first : first + BLOCK + 1], discount, depth)
    return torch.from_numpy(table)


def _calibrate(table: Floats, angles: Floats, discount: float, depth: int) -> None:
    """Fill in the indices between the prices c = sin^2(angle), for a few neighbouring angles (C,).

    In the angle, the standard deviation of an arm's chance is the same everywhere, 1 / (2 sqrt(m)). So both the
    grid and the band of arms that are worth looking at, 6 deviations around the price, are even in the angle.
    """

    def band(m: int) -> tuple[int, int]:
        """First and last-plus-one number of successes; neither falls as m grows."""
        reach = 3 / sqrt(m + 1)
        low, high = max(angles[0] - reach, 0), min(angles[-1] + reach, pi / 2)
        return floor(m * sin(low) ** 2), min(m, ceil(m * sin(high) ** 2)) + 1

    prices = np.sin(angles) ** 2  # (C,)
    lasting = 1 / (1 - discount)
    # Below the band the value is 0, as it is set here. Above, the arm is never given up, which is filled in for
    # the one arm next to the band as that moves down.
    value = np.zeros((len(prices), depth + 2), np.float32)  # (C, s)
    low, high = band(depth)
    mean = np.arange(low + 1, high + 1) / (depth + 2)  # (s,)
    gain = mean - prices[:, None]  # (C, s)
    value[:, low:high] = lasting * (np.maximum(gain, 0) + _expected_gain(gain, mean, depth)) / 2
    value[:, high] = lasting * ((high + 1) / (depth + 2) - prices)
    column = prices[:, None].astype(np.float32)  # (C, 1)
    for m in range(depth - 1, -1, -1):
        low, high = band(m)
        p = (np.arange(low + 1, high + 1) / (m + 2)).astype(np.float32)  # (s,)
        failed = value[:, low:high]
        advantage = value[:, low + 1 : high + 1] - failed  # (C, s)
        advantage *= np.float32(discount) * p
        advantage += np.float32(discount) * failed
        advantage += p
        advantage -= column
        np.maximum(advantage, 0, out=failed)  # in place: the value of (s, f) from here on
        value[:, high] = lasting * ((high + 1) / (m + 2) - prices)
        if m < len(table):
            below = (advantage > 0).sum(0)  # (s,), prices that are worth paying
            s = np.flatnonzero((below > 0) & (below < len(prices)))
            k = below[s]
            left, right = advantage[k - 1, s], advantage[k, s]
            index = prices[k - 1] + (prices[k] - prices[k - 1]) * left / (left - right)
            table[low + s, m - low - s] = index


def _expected_gain(gain: Floats, mean: Floats, m: int) -> Floats:
    """E max(P - c, 0) with the chance P taken as normal, which its Beta distribution nearly is for large m."""
    deviation = np.sqrt(mean * (1 - mean) / (m + 3))
    z = gain / deviation
    normal = np.array([erf(x) for x in (z / sqrt(2)).flat]).reshape(z.shape)
    return deviation * np.exp(-(z**2) / 2) / sqrt(2 * pi) + gain * (1 + normal) / 2


@dataclass(frozen=True)
class FiniteHorizonTables:
    """Finite-horizon indices for some numbers of pulls left, from which the others follow."""

    pulls: int
    """Pulls N in one trial."""
    levels: tuple[int, ...]
    """Numbers of pulls left that have a table: 1, 2, .., N with growing gaps."""
    tables: tuple[Tensor, ...]
    """One for each level, float32."""

    def to(self, device: torch.device) -> FiniteHorizonTables:
        """The same on another device."""
        return replace(self, tables=tuple(table.to(device) for table in self.tables))

    def at(self, pulls_left: int) -> Tensor:
        """The table (N - n + 1, N - n + 1) for n pulls left, linear in log n between two levels."""
        k = bisect_left(self.levels, pulls_left)
        size = self.pulls - pulls_left + 1
        more = self.tables[k][:size, :size]
        if self.levels[k] == pulls_left:
            return more
        weight = log(pulls_left / self.levels[k - 1]) / log(self.levels[k] / self.levels[k - 1])
        return torch.lerp(self.tables[k - 1][:size, :size], more, weight)


@lru_cache(maxsize=8)
def finite_horizon_indices(pulls: int) -> FiniteHorizonTables:
    """The finite-horizon index of every arm, and number of pulls left, that can occur in a trial.

    There are about N^3 / 6 of them, and `finite_horizon_index` takes n^2 steps for one. But the index exceeds the
    mean by a number of standard deviations, p + z sqrt(p (1 - p) / (m + 3)), that varies slowly with the pulls m
    that the arm has had, with the angle arcsin sqrt(s / m), and with log n. So z is computed exactly for all small
    m and n and for some of the larger, and is linear in log m and in the angle between them.

    Accurate to the type's precision up to `EXACT` pulls, and to 3e-4 beyond. Seconds on one core: 3 for 100 pulls, 10
    for 500, and 40 for 1000, which take 200 MB.

    Args:
        pulls: Pulls N in one trial.

    Raises:
        ValueError: If pulls is below 1.
    """
    require_positive(pulls=pulls)
    small = EXACT if pulls <= EXACT else 32
    levels, totals = _spread(1, pulls, small), _spread(0, pulls - 1, small)
    even = np.sin(np.linspace(0, pi / 2, 50)) ** 2
    nodes = [np.arange(m + 1.0) if m <= small else np.unique(np.rint(m * even)) for m in totals]
    successes = np.concatenate(nodes)  # (A,)
    failures = np.repeat(totals, [len(s) for s in nodes]) - successes  # (A,)
    mean, deviation = _posterior(successes, failures)
    index = mean.copy()
    tables = []
    for fewer, n in zip([0, *levels], levels, strict=False):
        # The table also serves, together with the one before, all numbers of pulls left in between.
        size = pulls - fewer
        used = totals[: bisect_left(totals, size - 1) + 1]
        chunk = max(1, 20_000 // n)  # arms; the work on a chunk stays in the processor's cache
        for start in range(0, sum(len(s) for s in nodes[: len(used)]), chunk):
            arms = slice(start, start + chunk)
            guess = index[arms].astype(np.float32)
            index[arms] = finite_horizon_index(successes[arms], failures[arms], n, guess)
        z = np.split((index - mean) / deviation, np.cumsum([len(s) for s in nodes])[:-1])
        tables.append(torch.from_numpy(_filled(size, used, nodes, z)))
    return FiniteHorizonTables(pulls, tuple(levels), tuple(tables))


def finite_horizon_index(successes: Numbers, failures: Numbers, pulls_left: int, guess: Floats | None = None) -> Floats:
    """The largest ratio E[reward until tau] / E[tau] over stopping times 1 <= tau <= n, exactly.

    Dinkelbach's algorithm (1967, "On nonlinear fractional programming"): at price c, stop when the best
    R - c T from there on is not positive, where

        R = p + p R(s + 1, f) + (1 - p) R(s, f + 1),    T = 1 + p T(s + 1, f) + (1 - p) T(s, f + 1)

    are the reward and the number of pulls until then. R / T from the start is the next price. No stopping time
    reaches more than the index, the prices rise to it and end on it, after two to four rounds.

    Args:
        successes: (A,) of each arm; not necessarily integers.
        failures: (A,) of each arm.
        pulls_left: Pulls n that are left in the trial.
        guess: (A,) where to start, best close to the index; it also sets the precision. The means by default.

    Returns:
        (A,) of the guess's type, to about that type's precision.
    """
    price = (_posterior(successes, failures)[0] if guess is None else guess)[:, None]  # (A, 1)
    later = np.arange(pulls_left, dtype=price.dtype)
    alpha = (successes + 1).astype(price.dtype)[:, None] + later  # (A, n): after each number of further successes
    total = (successes + failures + 2).astype(price.dtype)[:, None]
    while True:
        both = np.zeros((2, len(price), pulls_left + 1), price.dtype)  # R and T, by further successes
        for k in range(pulls_left - 1, -1, -1):  # further pulls
            p = alpha[:, : k + 1] / (total + later[k])  # (A, k + 1)
            failed = both[:, :, : k + 1]
            now = both[:, :, 1 : k + 2] - failed
            now *= p
            now += failed
            reward, time = now
            reward += p
            time += 1
            np.multiply(now, reward > price * time, out=failed)
        better = reward / time
        if np.abs(better - price).max() < 100 * np.finfo(price.dtype).eps:
            return better[:, 0]
        price = better


def _filled(size: int, totals: Sequence[int], nodes: Sequence[Floats], z: Sequence[Floats]) -> Floats:
    """The table of p + z sqrt(p (1 - p) / (m + 3)) for all m < size, from z at the ``nodes`` of some ``totals``."""
    table = np.full((size, size), np.nan, np.float32)
    for m in range(size):
        s = np.arange(m + 1)
        k = bisect_left(totals, m)
        excess = _at_angles(s, m, nodes[k], totals[k], z[k])
        if totals[k] != m:
            fewer = _at_angles(s, m, nodes[k - 1], totals[k - 1], z[k - 1])
            weight = log(m / totals[k - 1]) / log(totals[k] / totals[k - 1])
            excess = fewer + weight * (excess - fewer)
        mean, deviation = _posterior(s, m - s)
        table[s, m - s] = mean + excess * deviation
    return table


def _at_angles(s: Numbers, m: int, nodes: Floats, total: int, z: Floats) -> Floats:
    """``z``, given at ``nodes`` out of ``total``, at the same angles as ``s`` out of m."""
    return np.interp(np.arcsin(np.sqrt(s / max(m, 1))), np.arcsin(np.sqrt(nodes / max(total, 1))), z)


def _posterior(successes: Numbers, failures: Numbers) -> tuple[Floats, Floats]:
    """Mean and standard deviation of an arm's chance, which is Beta(s + 1, f + 1)."""
    total = successes + failures + 2
    mean = (successes + 1) / total
    return mean, np.sqrt(mean * (1 - mean) / (total + 1))


def _spread(first: int, last: int, small: int) -> list[int]:
    """From first to last: every integer up to ``small``, then each 15 percent larger than the one before."""
    numbers = list(range(first, min(last, small) + 1))
    while numbers[-1] < last:
        numbers.append(min(last, ceil(1.15 * numbers[-1])))
    return numbers

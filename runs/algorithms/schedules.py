"""Schedules: functions of the completed fraction of the training."""

from __future__ import annotations

import math


def warmup_cosine(fraction: float, warmup: float) -> float:
    """Warmup-cosine, as a factor of the peak: linear up to the fraction ``warmup``, then a half cosine to 0."""
    if fraction < warmup:
        return fraction / warmup
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


def ramp(fraction: float, first: float, last: float, begin: float, end: float) -> float:
    """``first`` up to the fraction ``begin``, ``last`` from ``end`` on, linear in between."""
    if fraction >= end:
        return last
    return first + (last - first) * max(0.0, fraction - begin) / (end - begin)


def geometric_growth(fraction: float, first: float, last: float, until: float) -> float:
    """From ``first`` to ``last`` by equal factors in equal times, constant from the fraction ``until`` on."""
    return last if fraction >= until else first * (last / first) ** (fraction / until)

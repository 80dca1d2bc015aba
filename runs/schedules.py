"""Learning-rate schedules as factors of the peak: functions of the fraction of training that is done."""

from __future__ import annotations

import math


def one_cycle(fraction: float, warmup: float) -> float:
    """Rise linearly over the first ``warmup`` of training, then fall along a half cosine to 0."""
    if fraction < warmup:
        return fraction / warmup
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


def linear_decay(fraction: float) -> float:
    """Fall linearly from 1 to 0."""
    return 1 - fraction

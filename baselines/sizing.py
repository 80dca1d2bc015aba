"""Sizes baselines to a given number of parameters, so that comparisons are not about parameter counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from snail.sequence import parameter_count


def matching_size(build: Callable[[int], nn.Module], parameters: int, multiple: int = 1) -> int:
    """The size, a multiple of ``multiple``, for which ``build(size)`` comes closest to the given number of parameters.

    The number must increase with the size. Nothing is allocated: candidates are built on the meta device.
    """

    def count(units: int) -> int:
        with torch.device("meta"):
            return parameter_count(build(units * multiple))

    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    return multiple * min((low, high), key=lambda units: abs(count(units) - parameters))

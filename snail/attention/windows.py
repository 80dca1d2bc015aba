"""Attention windows: the whole past, or a part of it (Luong, Pham, Manning 2015, section 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from snail.sequence import at_least_float32

WindowType = Literal["global", "local-m", "local-p"]


class Window(nn.Module, ABC):
    """Restricts which keys a query attends to.

    Args:
        heads: number of heads H.
        size: of a query of one head, K.
        window: steps D.
        sinks: number of first steps that are in every window.
    """

    def __init__(self, heads: int, size: int, window: int, sinks: int = 0):
        super().__init__()
        self.heads, self.size, self.window, self.sinks = heads, size, window, sinks

    @abstractmethod
    def forward(
        self, query: Tensor, query_positions: Tensor, key_positions: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Queries (B, H, T, K) at (T,), keys at (S,) -> which keys are in the window, and their weight.

        Both broadcast with (B, H, T, S); None if all are visible, or all weigh the same. The weight multiplies
        the softmax of the scores.
        """


class Global(Window):
    """All of the past."""

    def forward(
        self, query: Tensor, query_positions: Tensor, key_positions: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """All of the past."""
        return None, None


class LocalMonotonic(Window):
    """local-m: the last D steps, including the query's own. Unlike Luong's window, it is causal.

    Heads with nothing to read put their weight on the first steps, which stay visible as attention sinks if
    ``sinks`` > 0 (Xiao et al. 2023, arXiv:2309.17453).
    """

    def forward(
        self, query: Tensor, query_positions: Tensor, key_positions: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Keys less than D steps before their query, and the sinks."""
        near = query_positions[:, None] - key_positions < self.window  # (T, S)
        return near | (key_positions < self.sinks), None


class LocalPredictive(Window):
    """local-p: D steps to either side of a predicted centre, weighted down with the distance from it.

    The centre is ``p = t sigmoid(v . tanh(W q))`` for a query at position t, so it is never in the future, and a key
    at s weighs ``exp(-(s - p)^2 / (2 (D / 2)^2))``: Luong's equations 9 and 10. W mixes the queries of all heads.
    """

    def __init__(self, heads: int, size: int, window: int, sinks: int = 0):
        super().__init__(heads, size, window, sinks)
        self.hidden = nn.Linear(heads * size, heads * size, bias=False)
        self.vector = nn.Parameter(torch.randn(heads, size) * size**-0.5)

    def centres(self, query: Tensor, query_positions: Tensor) -> Tensor:
        """Queries (B, H, T, K) at positions (T,) -> the centre of each window, (B, H, T)."""
        hidden = self.hidden(query.transpose(1, 2).flatten(2)).tanh()  # (B, T, H K)
        hidden = hidden.unflatten(-1, (self.heads, self.size)).transpose(1, 2)  # (B, H, T, K)
        share = (at_least_float32(hidden) * self.vector[:, None]).sum(-1).sigmoid()  # (B, H, T)
        return share * query_positions

    def forward(
        self, query: Tensor, query_positions: Tensor, key_positions: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Keys at most D steps from the centre."""
        away = key_positions - self.centres(query, query_positions)[..., None]  # (B, H, T, S)
        return away.abs() <= self.window, (-2 * (away / self.window).square()).exp()


WINDOWS: dict[WindowType, type[Window]] = {"global": Global, "local-m": LocalMonotonic, "local-p": LocalPredictive}

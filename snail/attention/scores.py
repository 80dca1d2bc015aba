"""Score functions of attention, from additive to scaled dot-product.

Each maps queries (B, H, T, K) and keys (B, H, S, K) of H heads to scores (B, H, T, S). For a fixed width H K, the
number of parameters does not depend on H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ScoreName = Literal["scaled-dot", "dot", "general", "cosine", "additive", "location"]
SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)


class Score(nn.Module, ABC):
    """A score function.

    Args:
        heads: number of heads H.
        size: of a query and a key of one head, K.
        max_len: the longest sequence; a limit only if ``check_length`` enforces it.
    """

    def __init__(self, heads: int, size: int, max_len: int):
        super().__init__()
        self.heads, self.size, self.max_len = heads, size, max_len

    def check_length(self, steps: int) -> None:
        """Raise ValueError if sequences of this length are not supported."""

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """Queries (B, H, T, K), keys (B, H, S, K) and key positions (S,) -> scores (B, H, T, S)."""


class Dot(Score):
    """``q . k`` (Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.1)."""

    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, K), (B, H, S, K) -> (B, H, T, S)."""
        return query @ key.transpose(-1, -2)


class ScaledDot(Score):
    """``q . k / sqrt(K)`` (Vaswani et al. 2017, arXiv:1706.03762, equation 1)."""

    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, K), (B, H, S, K) -> (B, H, T, S)."""
        return query * self.size**-0.5 @ key.transpose(-1, -2)


class General(Score):
    """``q^T W k`` (Luong et al. 2015, section 3.1). W mixes all heads, and is initialised to scaled dot-product."""

    def __init__(self, heads: int, size: int, max_len: int):
        super().__init__(heads, size, max_len)
        self.weight = nn.Parameter(torch.eye(heads * size) * size**-0.5)  # (H K, H K)

    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, K), (B, H, S, K) -> (B, H, T, S)."""
        joined = query.transpose(1, 2).flatten(2) @ self.weight  # (B, T, H K)
        mixed = joined.unflatten(-1, (self.heads, self.size)).transpose(1, 2)  # (B, H, T, K)
        return mixed @ key.transpose(-1, -2)


class Cosine(Score):
    """``beta cos(q, k)`` with ``beta = 1 + softplus(w . q)`` (Graves, Wayne, Danihelka 2014, equation 6).

    Neural Turing Machines, arXiv:1410.5401, where the controller emits beta.
    """

    def __init__(self, heads: int, size: int, max_len: int):
        super().__init__(heads, size, max_len)
        self.strength = nn.Parameter(torch.zeros(heads, size))

    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, K), (B, H, S, K) -> (B, H, T, S)."""
        beta = 1 + F.softplus(query @ self.strength[:, :, None].to(query.dtype))  # (B, H, T, 1)
        return beta * (F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2))


class Additive(Score):
    """``v . tanh(q + k)`` (Bahdanau, Cho, Bengio 2015, arXiv:1409.0473, appendix A.1.2): q and k are W s and U h."""

    def __init__(self, heads: int, size: int, max_len: int):
        super().__init__(heads, size, max_len)
        self.vector = nn.Parameter(torch.randn(heads, size) * size**-0.5)

    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, K), (B, H, S, K) -> (B, H, T, S)."""
        hidden = (query[:, :, :, None] + key[:, :, None]).tanh()  # (B, H, T, S, K)
        return (hidden * self.vector[:, None, None]).sum(-1)


class Location(Score):
    """``(W q)_s``: the score of position s depends on the query only (Luong et al. 2015, equation 8)."""

    def __init__(self, heads: int, size: int, max_len: int):
        super().__init__(heads, size, max_len)
        self.weight = nn.Parameter(torch.randn(heads, size, max_len) * size**-0.5)

    def check_length(self, steps: int) -> None:
        """Raise ValueError for more than ``max_len`` steps."""
        if steps > self.max_len:
            raise ValueError(f"location-based scores support at most max_len {self.max_len} steps, got {steps}")

    def forward(self, query: Tensor, key: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, K), (B, H, S, K) at positions (S,) -> (B, H, T, S)."""
        everywhere = query @ self.weight.to(query.dtype)  # (B, H, T, max_len)
        return everywhere[..., key_positions]


SCORES: dict[ScoreName, type[Score]] = {
    "scaled-dot": ScaledDot,
    "dot": Dot,
    "general": General,
    "cosine": Cosine,
    "additive": Additive,
    "location": Location,
}

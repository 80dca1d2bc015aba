"""Encoding of observations: one-hot if discrete, normalised by running moments if continuous."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OneHot(nn.Module):
    """One of N observations, one-hot in N channels; no channels if N is 1."""

    def __init__(self, num_observations: int):
        super().__init__()
        self.num_observations = num_observations
        self.channels = num_observations if num_observations > 1 else 0

    def forward(self, observations: Tensor) -> Tensor:
        """(...) integers -> (..., channels)."""
        if not self.channels:
            return torch.empty(*observations.shape, 0, device=observations.device)
        return F.one_hot(observations, self.num_observations).float()

    def collect(self, observations: Tensor) -> None:
        """Does nothing: there are no statistics."""

    def update(self) -> None:
        """Does nothing: there are no statistics."""


class RunningNormalizer(nn.Module):
    """D numbers, normalised to zero mean and unit variance by the moments of all training observations.

    Collected observations take effect at the next ``update``, so that a whole batch is encoded by the same moments.

    Args:
        size: D.
        limit: clipping range of the encoded numbers.
    """

    mean: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, size: int, limit: float = 10.0):
        super().__init__()
        self.channels, self.limit = size, limit
        # float64: counts reach 10^9
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))  # summed, about the mean
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._new: list[Tensor] = []

    @property
    def std(self) -> Tensor:
        """(D,) standard deviations; 1 before the first update, and for constant numbers."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std > 1e-6, std, 1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        scaled = (observations.double() - self.mean) / self.std
        return scaled.clamp(-self.limit, self.limit).float()

    def collect(self, observations: Tensor) -> None:
        """Collect observations (B, D) for the next ``update``."""
        self._new.append(observations.detach().double())

    @torch.no_grad()
    def update(self) -> None:
        """Merge the moments of the collected observations into the running ones (Chan et al. 1979)."""
        if not self._new:
            return
        x = torch.cat(self._new)  # (n, D)
        self._new = []
        n, mean = len(x), x.mean(0)
        total = self.count + n
        difference = mean - self.mean
        self.squares += (x - mean).square().sum(0) + difference.square() * self.count * n / total
        self.mean += difference * n / total
        self.count += n

"""minGRU and minLSTM: gates that do not depend on the state, so that all steps can be computed in parallel.

Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201; the scan in log space is its appendix B.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.residual import Memory, State, exact

CHUNK = 32
"""Steps per chunk of the scan: longer ones have larger rounding errors."""


class MinimalRecurrence(Memory):
    """``h_t = f_t h_{t-1} + i_t g(W x_t)`` with gates that depend on the input only, and a linear read-out.

    All terms are positive, with ``g(x) = x + 1/2`` for x >= 0 and ``sigmoid(x)`` below, so logarithms can be used.
    The state is log h, from h = g(0) = 1/2 on.

    Args:
        width: channels W.
        expansion: states for each channel.
    """

    gates: int

    def __init__(self, width: int, expansion: int = 2):
        super().__init__()
        self.size = expansion * width
        self.input = nn.Linear(width, (self.gates + 1) * self.size)
        self.output = nn.Linear(self.size, width)

    @abstractmethod
    def log_gates(self, *gates: Tensor) -> tuple[Tensor, Tensor]:
        """log f and log i from the pre-activations of the gates."""

    def init_state(self, batch_size: int) -> State:
        """log 1/2: (B, S)."""
        return (self.output.weight.new_full((batch_size, self.size), 0.5).log(),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) -> (B, T, W)."""
        candidate, *gates = exact(*self.input(x).chunk(self.gates + 1, dim=-1))
        log_f, log_i = self.log_gates(*gates)
        log_h = log_scan(log_f, log_i + log_g(candidate), exact(*state)[0])
        return self.output(log_h.exp().to(x.dtype)), (log_h[:, -1].clone(),)


class MinGRU(MinimalRecurrence):
    """``f = 1 - z, i = z``."""

    gates = 1

    def log_gates(self, *gates: Tensor) -> tuple[Tensor, Tensor]:
        """By one gate."""
        return F.logsigmoid(-gates[0]), F.logsigmoid(gates[0])


class MinLSTM(MinimalRecurrence):
    """``f`` and ``i`` divided by their sum."""

    gates = 2

    def log_gates(self, *gates: Tensor) -> tuple[Tensor, Tensor]:
        """By two gates."""
        forget, admit = map(F.logsigmoid, gates)
        total = torch.logaddexp(forget, admit)
        return forget - total, admit - total


def log_g(x: Tensor) -> Tensor:
    """log g."""
    return torch.where(x >= 0, (x.relu() + 0.5).log(), F.logsigmoid(x))


def log_scan(log_f: Tensor, log_x: Tensor, log_h: Tensor) -> Tensor:
    """Logarithms of ``h_t = f_t h_{t-1} + x_t``: (B, T, S), (B, T, S) and the last (B, S) -> (B, T, S)."""
    found = []
    for f, x in zip(log_f.split(CHUNK, dim=1), log_x.split(CHUNK, dim=1), strict=True):
        passed = f.cumsum(1)
        summed = torch.logcumsumexp(x - passed, dim=1)
        found.append(passed + torch.logaddexp(summed, log_h[:, None]))
        log_h = found[-1][:, -1]
    return torch.cat(found, dim=1)

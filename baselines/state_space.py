"""S5: a diagonal linear state space (Smith, Warrington, Linderman 2023, arXiv:2208.04933)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.residual import Memory, State, exact


class DiagonalStateSpace(Memory):
    """A multi-input, multi-output linear system with P complex states, each discretised with its own learned time step:

        h_t = a h_{t-1} + ((a - 1) / l) B u_t,   a = exp(l delta),   y_t = 2 Re(C h_t) + D u_t

    then ``gelu(y) * sigmoid(G gelu(y))``. Eigenvalues l start at -1/2 + i pi p (S4D-Lin, Gu et al. 2022). In-context
    reinforcement learning with it: Lu et al. 2023, arXiv:2303.03982; here a trial is one sequence, so no resets.

    Args:
        width: channels W.
        states: P.
    """

    def __init__(self, width: int, states: int):
        super().__init__()
        self.states = states
        self.log_decay = nn.Parameter(torch.full((states,), math.log(0.5)))  # of the negated real part
        self.frequency = nn.Parameter(math.pi * torch.arange(states, dtype=torch.float32))
        self.log_step = nn.Parameter(torch.empty(states).uniform_(math.log(1e-3), math.log(1e-1)))
        self.input = nn.Linear(width, 2 * states, bias=False)  # real and imaginary parts
        self.output = nn.Linear(2 * states, width, bias=False)
        self.skip = nn.Parameter(torch.randn(width))
        self.gate = nn.Linear(width, width)

    def init_state(self, batch_size: int) -> State:
        """Zeros: real and imaginary parts (B, 2 P)."""
        return (self.skip.new_zeros(batch_size, 2 * self.states),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) -> (B, T, W), by a parallel scan."""
        with torch.autocast(x.device.type, enabled=False):
            u, last = exact(x, state[0])
            decay = torch.complex(-self.log_decay.exp(), self.frequency)  # (P,)
            power = torch.exp(decay * self.log_step.exp())  # a
            driven = torch.complex(*self.input(u).chunk(2, dim=-1)) * ((power - 1) / decay)  # (B, T, P)
            first = driven[:, :1] + (power * torch.complex(*last.chunk(2, dim=-1)))[:, None]
            h = scan(power, torch.cat([first, driven[:, 1:]], dim=1))
            parts = torch.cat([h.real, h.imag], dim=-1)
            y = 2 * self.output(parts) + self.skip * u
        y = F.gelu(y.to(x.dtype))
        return y * self.gate(y).sigmoid(), (parts[:, -1].clone(),)


def scan(a: Tensor, x: Tensor) -> Tensor:
    """``h_t = a h_{t-1} + x_t`` for all t in log2 T rounds: (P,), (B, T, P) -> (B, T, P).

    After the round with distance d, h_t is the sum of its last 2 d terms (Hillis & Steele 1986).
    """
    distance = 1
    while distance < x.shape[1]:
        x = torch.cat([x[:, :distance], x[:, distance:] + a**distance * x[:, :-distance]], dim=1)
        distance *= 2
    return x

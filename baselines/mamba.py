"""Mamba-2: a selective state-space model (Dao & Gu 2024, arXiv:2405.21060)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.flash import Rule, fastest
from baselines.linear_attention import inverse_softplus, read_and_write, read_branches
from baselines.residual import Memory, RMSNorm, ShortConvolution, State, exact


class Mamba2(Memory):
    """Structured state-space duality in its chunked form: linear attention with decay.

        S_t = exp(-A dt_t) S_{t-1} + dt_t B_t x_t^T,   y_t = S_t^T C_t + D x_t

    for H heads with P channels each, which share B and C (N); then ``norm(y silu(z))`` and a linear layer. All of
    x, B, C, z and dt are linear in the input; x, B and C pass through a short convolution.

    Args:
        width: channels W.
        states: N.
        head_size: P; 2 W must be a multiple of it.
    """

    def __init__(self, width: int, states: int, head_size: int):
        super().__init__()
        if 2 * width % head_size:
            raise ValueError(f"twice the width must be a multiple of head_size, got {width} and {head_size}")
        self.inner, self.states, self.heads, self.head_size = 2 * width, states, 2 * width // head_size, head_size
        self.input = nn.Linear(width, 2 * self.inner + 2 * states + self.heads, bias=False)
        self.convolution = ShortConvolution(self.inner + 2 * states)
        steps = torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.step_bias = nn.Parameter(inverse_softplus(steps))
        self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm, self.output = RMSNorm(self.inner), nn.Linear(self.inner, width, bias=False)

    def init_state(self, batch_size: int) -> State:
        """Zeros: the convolution's inputs and the states (B, H, N, P)."""
        zeros = self.skip.new_zeros
        return self.convolution.init_state(batch_size), zeros(batch_size, self.heads, self.states, self.head_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) -> (B, T, W)."""
        z, mixed, step = self._inputs(x)
        mixed, inputs = self.convolution(mixed, state[0])
        y, memory = self._read(z, mixed, step, state[1], fastest(read_and_write, z))
        return y, (inputs, memory)

    def branch(self, x: Tensor, state: State) -> Tensor:
        """(B, Q, W) -> (B, Q, W)."""
        z, mixed, step = self._inputs(x)
        return self._read(z, self.convolution.branch(mixed, state[0]), step, state[1], read_branches)[0]

    def _inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """z, then x, B and C, then dt before its softplus."""
        return self.input(x).split([self.inner, self.inner + 2 * self.states, self.heads], dim=-1)

    def _read(self, z: Tensor, mixed: Tensor, step: Tensor, memory: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        with torch.autocast(z.device.type, enabled=False):
            mixed, step, memory = exact(mixed, step, memory)
            u, b, c = mixed.split([self.inner, self.states, self.states], dim=-1)
            u = u.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)  # (B, H, T, P)
            dt = F.softplus(step + self.step_bias).mT  # (B, H, T)
            q, k = (m[:, None].expand(-1, self.heads, -1, -1) for m in (c, b))  # (B, H, T, N)
            log_decay = -self.log_rate.exp()[:, None] * dt
            y, memory = rule(q, k, dt[..., None] * u, log_decay, memory)
            y = (y + self.skip[:, None, None] * u).transpose(1, 2).flatten(2).to(z.dtype)  # (B, T, 2 W)
        return self.output(self.norm(y * F.silu(z))), memory

"""Linear attention, DeltaNet and their gated forms: memories with a matrix state that maps keys to values.

Katharopoulos et al. 2020 (arXiv:2006.16236), Schlag et al. 2021 (arXiv:2102.11174), Yang et al. 2024
(arXiv:2412.06464).
"""

from __future__ import annotations

import math
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.flash import Rule, fastest
from baselines.residual import EPS, Memory, RMSNorm, ShortConvolution, State, exact, head_size

CHUNK = 64
"""Steps per chunk. Chunks are computed in parallel inside, and pass the matrix state on to the next."""


def read_and_write(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The output of each step after its own write, and the final memory; chunk by chunk, each in parallel.

        S_t = a_t S_{t-1} + k_t u_t^T,   o_t = S_t^T q_t

    with ``u_t = v_t``, or by the delta rule ``u_t = beta_t (v_t - a_t S_{t-1}^T k_t)``: the error of the stored value.

    Args:
        q, k: (B, H, T, K).
        v: (B, H, T, V).
        log_decay: (B, H, T) log a_t, at most 0.
        memory: (B, H, K, V) S before the first step.
        beta: (B, H, T) in [0, 1]; None: no delta rule.

    Returns:
        (B, H, T, V) and (B, H, K, V).
    """
    found = []
    beta_chunks = repeat(None) if beta is None else beta[..., None].split(CHUNK, dim=2)
    parts = (x.split(CHUNK, dim=2) for x in (q, k, v, log_decay))  # each slice would give all of x a gradient
    for qs, ks, us, decay, b in zip(*parts, beta_chunks, strict=False):
        g = decay.cumsum(-1)
        future = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool, device=g.device).triu(1)
        kept = (g[..., :, None] - g[..., None, :]).masked_fill(future, -math.inf).exp()  # (B, H, L, L), from j to t
        since = g.exp()[..., None]  # decay since the chunk's start
        if b is not None:
            # u_t + beta_t sum_{j<t} kept (k_t k_j) u_j = beta_t (v_t - since_t S^T k_t): triangular
            mixed = b * (kept * (ks @ ks.mT)).tril(-1)
            us = torch.linalg.solve_triangular(mixed, b * (us - since * (ks @ memory)), upper=False, unitriangular=True)
        found.append((kept * (qs @ ks.mT)) @ us + since * (qs @ memory))
        left = kept[..., -1, :, None]
        memory = since[..., -1:, :] * memory + (left * ks).mT @ us
    return torch.cat(found, dim=2), memory


def read_branches(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`read_and_write` for T alternatives of a single step.

    ``o = (a S + k u^T)^T q = a S^T q + (k q) u``, so no new memory is formed; the old one is returned.
    """
    decay = log_decay.exp()[..., None]  # (B, H, T, 1)
    u = v if beta is None else beta[..., None] * (v - decay * (k @ memory))
    return decay * (q @ memory) + (q * k).sum(-1, keepdim=True) * u, memory


class LinearAttention(Memory):
    """Each head's memory is a matrix (K, K), read by queries; keys and queries are normalised to length 1.

    With ``delta`` a value replaces the one stored under its key, else it is added; with ``gated`` the memory decays by
    an input-dependent factor. Both are Gated DeltaNet, delta only is DeltaNet, neither is linear attention,
    whose normaliser is replaced by a norm of the output, as in its successors. Queries, keys and values
    pass through a short convolution, and the output through a gate.

    Args:
        width: channels W, a multiple of ``heads``.
        heads: H.
        delta, gated: see above.
    """

    def __init__(self, width: int, heads: int, delta: bool = True, gated: bool = True):
        super().__init__()
        self.heads, self.size, self.delta = heads, head_size(width, heads), delta
        self.qkv, self.convolution = nn.Linear(width, 3 * width, bias=False), ShortConvolution(3 * width)
        self.beta = nn.Linear(width, heads) if delta else None
        self.decay = Decay(width, heads) if gated else None
        self.norm, self.gate = RMSNorm(self.size), nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def init_state(self, batch_size: int) -> State:
        """Zeros: the convolution's inputs and the matrices."""
        zeros = self.gate.weight.new_zeros
        return self.convolution.init_state(batch_size), zeros(batch_size, self.heads, self.size, self.size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) -> (B, T, W)."""
        qkv = self.qkv(x)
        mixed, inputs = self.convolution(qkv, state[0])
        y, memory = self._read(x, mixed, state[1], fastest(read_and_write, qkv))
        return y, (inputs, memory)

    def branch(self, x: Tensor, state: State) -> Tensor:
        """(B, Q, W) -> (B, Q, W)."""
        mixed = self.convolution.branch(self.qkv(x), state[0])
        return self._read(x, mixed, state[1], read_branches)[0]

    def _read(self, x: Tensor, mixed: Tensor, memory: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        batch, steps, _ = x.shape
        q, k, v = mixed.view(batch, steps, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        log_decay = x.new_zeros(batch, self.heads, steps) if self.decay is None else self.decay(x)
        beta = None if self.beta is None else self.beta(x).sigmoid().mT
        with torch.autocast(x.device.type, enabled=False):
            q, k, v, log_decay, memory = exact(q, k, v, log_decay, memory)
            beta = None if beta is None else exact(beta)[0]
            read, memory = rule(unit(q), unit(k), v, log_decay, memory, beta)
            read = self.norm(read).transpose(1, 2).flatten(2).to(x.dtype)  # (B, T, W)
        return self.output(read * F.silu(self.gate(x))), memory


class Decay(nn.Module):
    """log a_t = -exp(A) softplus(w x_t + b) for every head, as in Mamba: (B, T, W) -> (B, H, T)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.step = nn.Linear(width, heads)
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        with torch.no_grad():  # initial steps between 0.001 and 0.1
            self.step.bias.copy_(inverse_softplus(torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()))

    def forward(self, x: Tensor) -> Tensor:
        """At most 0."""
        (step,) = exact(F.softplus(self.step(x)))
        return (-self.log_rate.exp() * step).mT


def unit(x: Tensor) -> Tensor:
    """Normalise to length 1, approximately."""
    return x * (x.square().sum(-1, keepdim=True) + EPS).rsqrt()


def inverse_softplus(x: Tensor) -> Tensor:
    """log(exp(x) - 1)."""
    return x + torch.log(-torch.expm1(-x))

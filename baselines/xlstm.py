"""xLSTM: LSTMs with exponential gates and a matrix or scalar memory (Beck et al. 2024, arXiv:2405.04517)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.residual import Memory, RMSNorm, ShortConvolution, State, exact, head_size

CHUNK = 64
"""Steps per chunk of an mLSTM, which are computed in parallel."""


class MatrixLSTM(Memory):
    """mLSTM: one matrix memory per head, with a parallel form.

        C_t = f_t C_{t-1} + i_t k_t v_t^T,   n_t = f_t n_{t-1} + i_t k_t,   h_t = o_t C_t^T q_t / max(|n_t q_t|, 1)

    with ``f = sigmoid`` and ``i = exp`` of their pre-activations. C and n are stored divided by exp(m), so that nothing
    overflows: ``m_t = max(log f_t + m_{t-1}, log i_t)``, which changes no output.

    Args:
        width: channels W, a multiple of ``heads``.
        heads: H.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.size = heads, head_size(width, heads)
        self.convolution = ShortConvolution(width)
        self.qk, self.v = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gates, self.open = nn.Linear(width, 2 * heads), nn.Linear(width, width)
        with torch.no_grad():  # initialise to long memories
            self.gates.bias.copy_(torch.cat([torch.linspace(3, 6, heads), torch.zeros(heads)]))
        self.norm, self.output = RMSNorm(self.size), nn.Linear(width, width, bias=False)

    def init_state(self, batch_size: int) -> State:
        """Zeros: the convolution's inputs, C (B, H, K, K), n (B, H, K) and m (B, H)."""
        zeros, H, K = self.v.weight.new_zeros, self.heads, self.size
        return (
            self.convolution.init_state(batch_size),
            zeros(batch_size, H, K, K),
            zeros(batch_size, H, K),
            zeros(batch_size, H),
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) -> (B, T, W)."""
        smooth, inputs = self.convolution(x, state[0])
        y, memory = self._read(x, smooth, state[1:], self._chunks)
        return y, (inputs, *memory)

    def branch(self, x: Tensor, state: State) -> Tensor:
        """(B, Q, W) -> (B, Q, W)."""
        return self._read(x, self.convolution.branch(x, state[0]), state[1:], self._branches)[0]

    def _read(
        self, x: Tensor, smooth: Tensor, state: State, rule: Callable[..., tuple[Tensor, Sequence[Tensor]]]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        split = (self.heads, self.size)
        q, k = (m.unflatten(-1, split).transpose(1, 2) for m in self.qk(smooth).chunk(2, dim=-1))  # (B, H, T, K)
        v = self.v(x).unflatten(-1, split).transpose(1, 2)
        forget, admit = self.gates(smooth).mT.chunk(2, dim=1)  # (B, H, T)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v, forget, admit, *memory = exact(q, k, v, forget, admit, *state)
            read, kept = rule(q, k / math.sqrt(self.size), v, F.logsigmoid(forget), admit, memory)
            read = self.norm(read).transpose(1, 2).flatten(2).to(x.dtype)
        return self.output(self.open(x).sigmoid() * read), kept

    def _branches(
        self, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, log_i: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The outputs of T alternatives for one step, (B, H, T, K); C, n and m do not change."""
        matrix, norm, m = memory
        before = log_f + m[..., None]  # (B, H, T), as in `_chunks`
        largest = torch.maximum(before, log_i)
        weight, before = (log_i - largest).exp()[..., None], (before - largest).exp()[..., None]
        score = weight * (q * k).sum(-1, keepdim=True)  # (B, H, T, 1)
        total = score + before * (q @ norm[..., None])
        return (score * v + before * (q @ matrix)) / torch.maximum(total.abs(), (-largest).exp()[..., None]), memory

    def _chunks(
        self, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, log_i: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The outputs of all steps, (B, H, T, K), and C, n and m after the last."""
        matrix, norm, m = memory
        found = []
        parts = (x.split(CHUNK, dim=2) for x in (q, k, v, log_f, log_i))
        for qs, ks, vs, forget, admit in zip(*parts, strict=True):
            g = forget.cumsum(-1)
            future = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool, device=g.device).triu(1)
            weight = (g[..., :, None] - g[..., None, :] + admit[:, :, None]).masked_fill(future, -math.inf)
            before = g + m[..., None]  # (B, H, L), of what was there before the chunk
            largest = torch.maximum(before, weight.amax(-1))  # m of every step
            weight, before = (weight - largest[..., None]).exp(), (before - largest).exp()[..., None]
            scores = weight * (qs @ ks.mT)  # (B, H, L, L)
            total = scores.sum(-1, keepdim=True) + before * (qs @ norm[..., None])
            floor = (-largest).exp()[..., None]  # 1 in this scale
            found.append((scores @ vs + before * (qs @ matrix)) / torch.maximum(total.abs(), floor))
            written = weight[..., -1, :, None] * ks  # (B, H, L, K)
            matrix = before[..., -1:, :] * matrix + written.mT @ vs
            norm = before[..., -1, :] * norm + written.sum(-2)
            m = largest[..., -1].clone()
        return torch.cat(found, dim=2), [matrix, norm, m]


class ScalarLSTM(Memory):
    """sLSTM: scalar memories whose gates depend on the last output of their head, hence sequential.

        c_t = f_t c_{t-1} + i_t tanh(z~_t),   n_t = f_t n_{t-1} + i_t,   h_t = sigmoid(o~_t) c_t / n_t

    with ``i = exp(i~)``, ``f = sigmoid(f~)``, all four ``~`` linear in x_t and h_{t-1}; c and n are stored divided by
    exp(m), as in `MatrixLSTM`.

    Args:
        width: channels W, a multiple of ``heads``.
        heads: H.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.size = heads, head_size(width, heads)
        self.input = nn.Linear(width, 4 * width)
        self.recurrent = nn.Parameter(torch.randn(heads, self.size, 4 * self.size) / math.sqrt(self.size))
        with torch.no_grad():
            self.input.bias.view(heads, 4, self.size)[:, 1] = torch.linspace(3, 6, self.size)  # of f
        self.norm, self.output = RMSNorm(self.size), nn.Linear(width, width, bias=False)

    def init_state(self, batch_size: int) -> State:
        """Zeros: h, c, n and m, each (B, H, K)."""
        return (self.recurrent.new_zeros(batch_size, self.heads, self.size),) * 4

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) -> (B, T, W), a step at a time."""
        inputs = self.input(x).unflatten(-1, (self.heads, 4 * self.size))  # (B, T, H, 4 K)
        with torch.autocast(x.device.type, enabled=False):
            inputs, recurrent, h, c, n, m = exact(inputs, self.recurrent, *state)
            found = []
            for x_t in inputs.unbind(1):
                gates = x_t + torch.einsum("bhk,hkj->bhj", h, recurrent)
                admit, forget, value, opened = gates.chunk(4, dim=-1)  # (B, H, K) each
                kept = F.logsigmoid(forget) + m
                m = torch.maximum(kept, admit)
                f, i = (kept - m).exp(), (admit - m).exp()
                c, n = f * c + i * value.tanh(), f * n + i
                h = opened.sigmoid() * c / n
                found.append(h)
            read = self.norm(torch.stack(found, dim=1)).flatten(2).to(x.dtype)
        return self.output(read), (h, c, n, m)

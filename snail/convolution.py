"""Causal convolutions: ``CausalConv1d``, ``DenseBlock`` and ``TCBlock`` (Mishra et al. 2018, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.caches import ConvCache
from snail.ops.dense_stack import dense_stack, sigmoid_, tanh_
from snail.sequence import SequenceModel


class CausalConv1d(SequenceModel):
    """Causal convolution over time.

    ``y_t = bias + sum_j weight[j] x_{t - (k - 1 - j) d}`` for kernel size k and dilation d, inputs before the first
    being zero.

    Attributes:
        weight: (k, C, D); ``weight[-1]`` is applied to the current step. One contiguous matrix per tap.
        bias: (D,).
    """

    def __init__(self, input_size: int, output_size: int, kernel_size: int = 2, dilation: int = 1):
        super().__init__()
        if kernel_size < 1 or dilation < 1:
            raise ValueError(f"kernel_size and dilation must be at least 1, got {kernel_size} and {dilation}")
        self.input_size, self.output_size = input_size, output_size
        self.kernel_size, self.dilation = kernel_size, dilation
        self.offsets = [(kernel_size - 1 - j) * dilation for j in range(kernel_size - 1)]  # of all taps but the last
        bound = 1 / math.sqrt(input_size * kernel_size)  # as nn.Conv1d
        self.weight = nn.Parameter(torch.empty(kernel_size, input_size, output_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(output_size).uniform_(-bound, bound))

    @property
    def left_context(self) -> int:
        """Number of past steps that an output depends on."""
        return (self.kernel_size - 1) * self.dilation

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, D)."""
        x = F.pad(x.transpose(1, 2), (self.left_context, 0))  # (B, C, left_context + T)
        y = F.conv1d(x, self.weight.permute(2, 1, 0), self.bias, dilation=self.dilation)  # (B, D, T)
        return y.transpose(1, 2)  # (B, T, D)

    def init_cache(self, batch_size: int, max_len: int) -> ConvCache:
        """The state before the first step, with room for ``max_len`` steps."""
        rows = self.weight.new_zeros(min(self.left_context + 1, max_len), batch_size, self.input_size)
        return ConvCache(rows)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, ConvCache]:
        """(B, T, C) -> (B, T, D), cache. Without ``max_len`` any number of further steps fits."""
        return self(x), ConvCache.of_sequence(x.transpose(0, 1), self.left_context, max_len)

    def past_term(self, past: Sequence[Tensor | None]) -> Tensor | None:
        """The contribution of past rows, each (B, C) or None for zeros, to the next output: (B, D)."""
        terms = [row @ w for row, w in zip(past, self.weight, strict=False) if row is not None]
        return sum(terms[1:], start=terms[0]) if terms else None

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: ConvCache) -> tuple[Tensor, ConvCache]:
        """(B, C), cache -> (B, D), cache."""
        cache.check_room(self.left_context)
        y = self.branch(x_t[:, None], cache)[:, 0]
        cache.next_row().copy_(x_t)
        return y, cache.tick()

    def branch(self, x_q: Tensor, cache: ConvCache) -> Tensor:
        """(B, Q, C), cache -> (B, Q, D)."""
        y = x_q @ self.weight[-1] + self.bias  # (B, Q, D)
        past = self.past_term(cache.past(self.offsets))
        return y if past is None else y + past[:, None]


class DenseStack(SequenceModel):
    """Dense blocks with the given dilations: (B, T, C) -> (B, T, C + n D)."""

    def __init__(self, input_size: int, filters: int, dilations: Sequence[int], kernel_size: int = 2):
        super().__init__()
        self.filters, self.dilations = filters, tuple(dilations)
        convs = [
            CausalConv1d(input_size + i * filters, 2 * filters, kernel_size, dilation)  # f and g are one product
            for i, dilation in enumerate(self.dilations)
        ]
        self.convs = cast(Sequence[CausalConv1d], nn.ModuleList(convs))
        self.input_size, self.output_size = input_size, input_size + len(self.dilations) * filters

    @property
    def left_context(self) -> int:
        """Number of past steps that a layer reads."""
        return max(conv.left_context for conv in self.convs)

    @property
    def receptive_field(self) -> int:
        """Number of steps, including the current one, that an output depends on."""
        return 1 + sum(conv.left_context for conv in self.convs)

    def _run(self, x: Tensor, past: Sequence[Tensor | None] | None = None) -> Tensor:
        """(T, B, C) -> (T, B, C + n D)."""
        return dense_stack(x, [c.weight for c in self.convs], [c.bias for c in self.convs], self.dilations, past)

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, C + n D)."""
        return self._run(x.transpose(0, 1)).transpose(0, 1)

    def init_cache(self, batch_size: int, max_len: int) -> ConvCache:
        """The state before the first step, with room for ``max_len`` steps."""
        rows = self.convs[0].weight.new_zeros(min(self.left_context + 1, max_len), batch_size, self.output_size)
        return ConvCache(rows)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, ConvCache]:
        """(B, T, C) -> (B, T, C + n D), cache. Without ``max_len`` any number of further steps fits."""
        h = self._run(x.transpose(0, 1))  # (T, B, C + n D)
        return h.transpose(0, 1), ConvCache.of_sequence(h, self.left_context, max_len)

    def _past_terms(self, cache: ConvCache) -> list[Tensor | None]:
        rows = iter(cache.past([o for conv in self.convs for o in conv.offsets]))
        terms = []
        for conv in self.convs:
            past = [next(rows) for _ in conv.offsets]
            terms.append(conv.past_term([None if row is None else row[:, : conv.input_size] for row in past]))
        return terms

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: ConvCache) -> tuple[Tensor, ConvCache]:
        """(B, C), cache -> (B, C + n D), cache. The layers write directly into the cache, without copies."""
        cache.check_room(self.left_context)
        row = cache.next_row()  # (B, C + n D)
        row[:, : self.input_size] = x_t
        with torch.autocast(x_t.device.type, enabled=False):
            for conv in self.convs:
                c, taps = conv.input_size, conv.weight.to(row.dtype)  # a cache filled under autocast has half precision
                z = torch.addmm(conv.bias.to(row.dtype), row[:, :c], taps[-1])  # (B, 2 D)
                for past, weight in zip(cache.past(conv.offsets), taps, strict=False):
                    if past is not None:
                        z.addmm_(past[:, :c], weight)
                f, g = tanh_(z[:, : self.filters]), sigmoid_(z[:, self.filters :])
                torch.mul(f, g, out=row[:, c : c + self.filters])
        return row, cache.tick()

    def branch(self, x_q: Tensor, cache: ConvCache) -> Tensor:
        """(B, Q, C), cache -> (B, Q, C + n D)."""
        batch, queries, channels = x_q.shape
        rows = x_q.reshape(1, batch * queries, channels)
        return self._run(rows, self._past_terms(cache)).view(batch, queries, -1)


class DenseBlock(DenseStack):
    """DenseBlock(R, D) of the paper: ``[x, tanh(f * x) sigmoid(g * x)]``, f and g causal with dilation R."""

    def __init__(self, input_size: int, filters: int, dilation: int, kernel_size: int = 2):
        super().__init__(input_size, filters, (dilation,), kernel_size)


class TCBlock(DenseStack):
    """TCBlock(T, D) of the paper: ceil(log2 T) dense blocks with dilations doubling from ``first_dilation``.

    With the default 1 the receptive field covers ``seq_len`` steps. The paper's text, read literally, starts at 2:
    a block then sees even offsets only.
    """

    def __init__(self, input_size: int, seq_len: int, filters: int, kernel_size: int = 2, first_dilation: int = 1):
        layers = max(1, math.ceil(math.log2(seq_len)))
        super().__init__(input_size, filters, [first_dilation * 2**i for i in range(layers)], kernel_size)

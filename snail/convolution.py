"""Causal convolutions: ``CausalConv1d``, ``DenseBlock`` and ``TCBlock`` (Mishra et al. 2018, section 3).

Inside, activations are time-major, (T, B, C): a shift in time is then a contiguous run of rows, and each filter tap one
plain matrix product with no padding and no copy. A stack of dense blocks writes all its layers into one buffer
(T, B, C + n D), so that "concatenate the output to the input" costs nothing: layer i reads its first C + i D columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.caches import ConvCache
from snail.sequence import SequenceModel


class CausalConv1d(SequenceModel):
    """Convolution over time that sees the present and the past only.

    ``y_t = bias + sum_j weight[j] x_{t - (k - 1 - j) d}`` for kernel size k and dilation d, inputs before the first
    being zero.

    Attributes:
        weight: (k, C, D); ``weight[-1]`` meets the present step. One contiguous matrix a tap.
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
    def reach(self) -> int:
        """Steps back to the oldest input that an output sees."""
        return (self.kernel_size - 1) * self.dilation

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, D)."""
        x = F.pad(x.transpose(1, 2), (self.reach, 0))  # (B, C, reach + T)
        y = F.conv1d(x, self.weight.permute(2, 1, 0), self.bias, dilation=self.dilation)  # (B, D, T)
        return y.transpose(1, 2)  # (B, T, D)

    def init_cache(self, batch_size: int, max_len: int) -> ConvCache:
        """The state before the first step, with room for ``max_len`` steps."""
        rows = self.weight.new_zeros(min(self.reach + 1, max_len), batch_size, self.input_size)
        return ConvCache(rows)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, ConvCache]:
        """(B, T, C) -> (B, T, D), cache. Without ``max_len`` any number of further steps fits."""
        return self(x), ConvCache.of_sequence(x.transpose(0, 1), self.reach, max_len)

    def past_term(self, past: Sequence[Tensor | None]) -> Tensor | None:
        """What the past rows, each (B, C) or None for zeros, add to the next output: (B, D)."""
        terms = [row @ w for row, w in zip(past, self.weight, strict=False) if row is not None]
        return sum(terms[1:], start=terms[0]) if terms else None

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: ConvCache) -> tuple[Tensor, ConvCache]:
        """(B, C), cache -> (B, D), cache."""
        cache.check_room(self.reach)
        y = self.branch(x_t[:, None], cache)[:, 0]
        cache.next_row().copy_(x_t)
        return y, cache.tick()

    def branch(self, x_q: Tensor, cache: ConvCache) -> Tensor:
        """(B, Q, C), cache -> (B, Q, D)."""
        y = x_q @ self.weight[-1] + self.bias  # (B, Q, D)
        past = self.past_term(cache.past(self.offsets))
        return y if past is None else y + past[:, None]


class _DenseStackFunction(torch.autograd.Function):
    """Dense blocks over one shared buffer; see ``dense_stack`` for the arguments.

    Writing in place is what autograd forbids and this backward allows: it needs the final buffer and each layer's
    two gates, and accumulates its gradient in one buffer of the same layout. Both passes take all layers through one
    piece of the buffer after another, in time forwards and backwards, which causality permits. Where a gradient of
    the gradient is asked for (``create_graph=True``), backward differentiates the plain twin instead.
    """

    @staticmethod
    def forward(ctx, x, dilations, *parameters):
        steps, batch, channels = x.shape
        weights, biases, past = parameters[0::3], parameters[1::3], parameters[2::3]
        filters = biases[0].numel() // 2
        width = channels + len(dilations) * filters
        # zeros, since matrix kernels may read past the columns of a slice (oneDNN's for bfloat16 with AMX do, and count
        # on 0 times a finite number): beside what a layer reads nothing may lie that was never written
        h = x.new_zeros(steps * batch, width)
        h[:, :channels] = x.reshape(-1, channels)
        gates = [h.new_empty(len(h), 2 * filters) for _ in dilations]
        for start, end in _pieces(h, steps):
            for i, dilation in enumerate(dilations):
                c = channels + i * filters
                z = torch.addmm(biases[i], h[start:end, :c], weights[i][-1], out=gates[i][start:end])  # (R, 2 D)
                for j, shift in _taps(weights[i], dilation * batch, end):
                    first = max(start, shift)
                    z[first - start :].addmm_(h[first - shift : end - shift, :c], weights[i][j])
                if past[i] is not None:
                    z.view(len(past[i]), -1, 2 * filters).add_(past[i][:, None])
                f, g = _tanh_(z[:, :filters]), _sigmoid_(z[:, filters:])
                torch.mul(f, g, out=h[start:end, c : c + filters])
        ctx.save_for_backward(h, *gates, x, *parameters)
        ctx.dilations = dilations
        return h.view(steps, batch, width)

    @staticmethod
    def backward(ctx, grad):
        n = len(ctx.dilations)
        h, *saved = ctx.saved_tensors
        gates, x, parameters = saved[:n], saved[n], saved[n + 1 :]
        if torch.is_grad_enabled():
            return _differentiable_backward(x, ctx.dilations, parameters, grad)
        weights, past = parameters[0::3], parameters[2::3]
        steps, batch, channels = x.shape
        filters = gates[0].shape[1] // 2
        grad = grad.reshape(len(h), -1).clone()  # ours to accumulate in
        exact = torch.promote_types(h.dtype, torch.float32)  # sums over pieces
        gw = [torch.zeros_like(w, dtype=exact) for w in weights]
        gb = [w.new_zeros(2 * filters, dtype=exact) for w in weights]
        gp: list[Tensor | None] = [None] * n
        for start, end in reversed(_pieces(h, steps)):
            for i in reversed(range(n)):
                c = channels + i * filters
                f, g = gates[i][start:end, :filters], gates[i][start:end, filters:]
                gy = grad[start:end, c : c + filters]
                gz = h.new_empty(end - start, 2 * filters)
                torch.ops.aten.tanh_backward.grad_input(gy * g, f, grad_input=gz[:, :filters])
                torch.ops.aten.sigmoid_backward.grad_input(gy * f, g, grad_input=gz[:, filters:])
                gw[i][-1] += h[start:end, :c].T @ gz
                grad[start:end, :c].addmm_(gz, weights[i][-1].T)
                for j, shift in _taps(weights[i], ctx.dilations[i] * batch, end):
                    first = max(start, shift)
                    seen, gz_seen = slice(first - shift, end - shift), gz[first - start :]
                    gw[i][j] += h[seen, :c].T @ gz_seen
                    grad[seen, :c].addmm_(gz_seen, weights[i][j].T)
                gb[i] += gz.sum(0)
                p = past[i]
                if p is not None:
                    gp[i] = gz.view(len(p), -1, 2 * filters).sum(1)
        grads = [g for layer in zip(gw, gb, gp, strict=True) for g in layer]
        return grad[:, :channels].reshape(x.shape), None, *(None if g is None else g.to(h.dtype) for g in grads)


PIECE_BYTES = 2**21
"""Activations that a processor's cache holds while all layers work on them."""


def _pieces(h: Tensor, steps: int) -> list[tuple[int, int]]:
    """Consecutive runs of rows, from and to. A single step, which may have a past, stays whole."""
    whole = steps == 1 or h.device.type != "cpu"
    rows = max(1, len(h) if whole else PIECE_BYTES // (h.shape[1] * h.element_size()))
    return [(start, min(start + rows, len(h))) for start in range(0, len(h), rows)]


def _taps(weight: Tensor, rows: int, end: int) -> list[tuple[int, int]]:
    """Numbers and shifts, dilated by so many rows, of the past taps that reach a row before ``end``."""
    k = len(weight)
    return [(j, (k - 1 - j) * rows) for j in range(k - 1) if (k - 1 - j) * rows < end]


def _tanh_(x: Tensor) -> Tensor:
    """In place. On processors the sigmoid is the several times faster kernel, and as exact to 2e-7."""
    if x.device.type != "cpu" or x.numel() < 2**13:
        return x.tanh_()
    y = x if x.element_size() >= 4 else _in_a_row(x)
    y.mul_(2).sigmoid_().mul_(2).sub_(1)
    return x if y is x else x.copy_(y)


def _sigmoid_(x: Tensor) -> Tensor:
    """In place."""
    if x.device.type != "cpu" or x.element_size() >= 4 or x.numel() < 2**13:
        return x.sigmoid_()
    return x.copy_(_in_a_row(x).sigmoid_())


def _in_a_row(x: Tensor) -> Tensor:
    """A contiguous copy in float32: processors are several times faster at it than at slices in half precision."""
    return x.to(torch.float32, memory_format=torch.contiguous_format)


def _differentiable_backward(x, dilations, parameters, grad):
    """The backward pass as operations that autograd can differentiate again."""
    # Views, since one argument may have been computed from another: each derivative is with respect to its own.
    x, *parameters = (None if t is None else t.view_as(t) for t in (x, *parameters))
    y = dense_stack_reference(x, parameters[0::3], parameters[1::3], dilations, parameters[2::3])
    wanted = [t is not None and t.requires_grad for t in (x, *parameters)]
    arguments = [t for t, w in zip((x, *parameters), wanted, strict=True) if w]
    found = iter(torch.autograd.grad(y, arguments, grad, create_graph=True))
    gx, *rest = (next(found) if w else None for w in wanted)
    return gx, None, *rest


def _require_single_step(x: Tensor, past: Sequence[Tensor | None] | None) -> None:
    if len(x) != 1 and any(p is not None for p in past or ()):
        raise ValueError(f"a past is for a single step, got {len(x)} steps")


def dense_stack(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dilations: Sequence[int],
    past: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Dense blocks in a row, ``h <- [h, tanh(f * h) sigmoid(g * h)]`` with causal convolutions f and g.

    Args:
        x: (T, B, C).
        weights: for each layer i the filters of f and g side by side, (k, C + i D, 2 D), last tap the present.
        biases: for each layer (2 D,).
        dilations: for each layer.
        past: for each layer what steps before the first add to f and g, (B / Q, 2 D), each row serving Q
            consecutive rows of the batch; None where there are none.

    Returns:
        (T, B, C + n D). ``dense_stack_reference`` is the plain twin, which also gives the second derivatives.
    """
    _require_single_step(x, past)
    layers = zip(weights, biases, past or [None] * len(weights), strict=True)
    parameters = [p for layer in layers for p in layer]
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _DenseStackFunction.apply(x, tuple(dilations), *parameters)
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        parameters = [None if p is None else p.to(dtype) for p in parameters]
        return _DenseStackFunction.apply(x.to(dtype), tuple(dilations), *parameters)


def dense_stack_reference(x, weights, biases, dilations, past=None):
    """``dense_stack`` with library convolutions and concatenation: slower, and differentiable any number of times."""
    _require_single_step(x, past)
    for i, (weight, bias, dilation) in enumerate(zip(weights, biases, dilations, strict=True)):
        padded = F.pad(x.permute(1, 2, 0), ((len(weight) - 1) * dilation, 0))  # (B, C, reach + T)
        z = F.conv1d(padded, weight.permute(2, 1, 0), bias, dilation=dilation).permute(2, 0, 1)  # (T, B, 2 D)
        if past is not None and past[i] is not None:
            z = z + past[i].repeat_interleave(x.shape[1] // len(past[i]), dim=0)
        f, g = z.chunk(2, dim=-1)
        x = torch.cat([x, torch.tanh(f) * torch.sigmoid(g)], dim=-1)  # (T, B, C + (i + 1) D)
    return x


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
    def reach(self) -> int:
        """Steps back to the oldest activation that a layer reads."""
        return max(conv.reach for conv in self.convs)

    @property
    def receptive_field(self) -> int:
        """Steps, the present one included, that an output depends on."""
        return 1 + sum(conv.reach for conv in self.convs)

    def _run(self, x: Tensor, past: Sequence[Tensor | None] | None = None) -> Tensor:
        """(T, B, C) -> (T, B, C + n D)."""
        return dense_stack(x, [c.weight for c in self.convs], [c.bias for c in self.convs], self.dilations, past)

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, C + n D)."""
        return self._run(x.transpose(0, 1)).transpose(0, 1)

    def init_cache(self, batch_size: int, max_len: int) -> ConvCache:
        """The state before the first step, with room for ``max_len`` steps."""
        rows = self.convs[0].weight.new_zeros(min(self.reach + 1, max_len), batch_size, self.output_size)
        return ConvCache(rows)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, ConvCache]:
        """(B, T, C) -> (B, T, C + n D), cache. Without ``max_len`` any number of further steps fits."""
        h = self._run(x.transpose(0, 1))  # (T, B, C + n D)
        return h.transpose(0, 1), ConvCache.of_sequence(h, self.reach, max_len)

    def _past_terms(self, cache: ConvCache) -> list[Tensor | None]:
        rows = iter(cache.past([o for conv in self.convs for o in conv.offsets]))
        terms = []
        for conv in self.convs:
            past = [next(rows) for _ in conv.offsets]
            terms.append(conv.past_term([None if row is None else row[:, : conv.input_size] for row in past]))
        return terms

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: ConvCache) -> tuple[Tensor, ConvCache]:
        """(B, C), cache -> (B, C + n D), cache. The layers write straight into it: no concatenation, no copy."""
        cache.check_room(self.reach)
        row = cache.next_row()  # (B, C + n D)
        row[:, : self.input_size] = x_t
        with torch.autocast(x_t.device.type, enabled=False):
            for conv in self.convs:
                c = conv.input_size
                z = torch.addmm(conv.bias, row[:, :c], conv.weight[-1])  # (B, 2 D)
                for past, weight in zip(cache.past(conv.offsets), conv.weight, strict=False):
                    if past is not None:
                        z.addmm_(past[:, :c], weight)
                f, g = _tanh_(z[:, : self.filters]), _sigmoid_(z[:, self.filters :])
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
    a block then reaches even offsets only.
    """

    def __init__(self, input_size: int, seq_len: int, filters: int, kernel_size: int = 2, first_dilation: int = 1):
        layers = max(1, math.ceil(math.log2(seq_len)))
        super().__init__(input_size, filters, [first_dilation * 2**i for i in range(layers)], kernel_size)

"""The dense blocks of a ``TCBlock`` as one operation: ``dense_stack``, fast, and ``dense_stack_reference``, plain.

Activations are time-major, (T, B, C): a shift in time is then a contiguous slice of rows, and each filter tap one
matrix product without padding or copies. All layers write into one buffer (T, B, C + n D), so that "concatenate the
output to the input" costs nothing: layer i reads its first C + i D columns. `snail bench` compares both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class _DenseStackFunction(torch.autograd.Function):
    """Dense blocks over one shared buffer; see ``dense_stack`` for the arguments.

    Autograd does not allow this in-place writing; this backward does: it needs the final buffer and each layer's
    two gates, and accumulates its gradient in one buffer of the same layout. Both passes take all layers through one
    chunk of time after another, forwards and backwards in time, which causality permits. If a gradient of
    the gradient is requested (``create_graph=True``), backward differentiates the reference instead.
    """

    @staticmethod
    def forward(ctx, x, dilations, *parameters):
        steps, batch, channels = x.shape
        weights, biases, past = parameters[0::3], parameters[1::3], parameters[2::3]
        filters = biases[0].numel() // 2
        width = channels + len(dilations) * filters
        # zeros, since matrix kernels may read past the columns of a slice (oneDNN's bfloat16 kernels with AMX do, and
        # rely on 0 times a finite number): no uninitialised memory may lie beside what a layer reads
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
                f, g = tanh_(z[:, :filters]), sigmoid_(z[:, filters:])
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
"""Activations per chunk: they should fit into the CPU cache while all layers process them."""


def _pieces(h: Tensor, steps: int) -> list[tuple[int, int]]:
    """Consecutive chunks of rows, as (start, end). A single step, which may have a past, stays whole."""
    whole = steps == 1 or h.device.type != "cpu"
    rows = max(1, len(h) if whole else PIECE_BYTES // (h.shape[1] * h.element_size()))
    return [(start, min(start + rows, len(h))) for start in range(0, len(h), rows)]


def _taps(weight: Tensor, rows: int, end: int) -> list[tuple[int, int]]:
    """Index and shift in rows, given the dilation in rows, of the past taps that reach a row before ``end``."""
    k = len(weight)
    return [(j, (k - 1 - j) * rows) for j in range(k - 1) if (k - 1 - j) * rows < end]


def tanh_(x: Tensor) -> Tensor:
    """In place. On CPUs the sigmoid kernel is several times faster, and equally accurate to 2e-7."""
    if x.device.type != "cpu" or x.numel() < 2**13:
        return x.tanh_()
    y = x if x.element_size() >= 4 else _in_a_row(x)
    y.mul_(2).sigmoid_().mul_(2).sub_(1)
    return x if y is x else x.copy_(y)


def sigmoid_(x: Tensor) -> Tensor:
    """In place."""
    if x.device.type != "cpu" or x.element_size() >= 4 or x.numel() < 2**13:
        return x.sigmoid_()
    return x.copy_(_in_a_row(x).sigmoid_())


def _in_a_row(x: Tensor) -> Tensor:
    """A contiguous float32 copy: CPUs process it several times faster than half-precision slices."""
    return x.to(torch.float32, memory_format=torch.contiguous_format)


def _differentiable_backward(x, dilations, parameters, grad):
    """The backward pass as differentiable operations."""
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
        weights: for each layer i the filters of f and g side by side, (k, C + i D, 2 D); the last tap is the current
            step.
        biases: for each layer (2 D,).
        dilations: for each layer.
        past: for each layer the contribution of earlier steps to f and g, (B / Q, 2 D), each row serving Q
            consecutive rows of the batch; None if there are none.

    Returns:
        (T, B, C + n D). ``dense_stack_reference`` is the plain form, which also gives the second derivatives.
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
    """``dense_stack`` by library convolutions and concatenation: slower, but differentiable any number of times."""
    _require_single_step(x, past)
    for i, (weight, bias, dilation) in enumerate(zip(weights, biases, dilations, strict=True)):
        padded = F.pad(x.permute(1, 2, 0), ((len(weight) - 1) * dilation, 0))  # (B, C, reach + T)
        z = F.conv1d(padded, weight.permute(2, 1, 0), bias, dilation=dilation).permute(2, 0, 1)  # (T, B, 2 D)
        if past is not None and past[i] is not None:
            z = z + past[i].repeat_interleave(x.shape[1] // len(past[i]), dim=0)
        f, g = z.chunk(2, dim=-1)
        x = torch.cat([x, torch.tanh(f) * torch.sigmoid(g)], dim=-1)  # (T, B, C + (i + 1) D)
    return x

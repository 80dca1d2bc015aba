"""The recurrence of `baselines.linear_attention` by the kernels of flash-linear-attention, if installed.

They need a GPU and round products to TF32, so they are used for half-precision inputs only. They have no second
derivatives: if these are requested, the plain form is used instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., tuple[Tensor, Tensor]]
"""As `baselines.linear_attention.read_and_write`."""


def fastest(plain: Rule, inputs: Tensor) -> Rule:
    """The fastest implementation: the kernels for half-precision inputs (B, T, ...) on a GPU, else the plain rule."""
    if inputs.is_cuda and inputs.dtype == torch.bfloat16 and inputs.shape[1] > 1 and installed():
        return lambda *args: Replaced.apply(kernels, plain, *args)
    return plain


@cache
def installed() -> bool:
    """Whether flash-linear-attention is installed."""
    return find_spec("fla") is not None


def kernels(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`read_and_write` by the package's kernels, which expect (B, T, H, K) instead of (B, H, T, K)."""
    q, k, v, g = (x.transpose(1, 2).contiguous() for x in (q, k, v, log_decay))
    options = {"g": g, "scale": 1.0, "initial_state": memory.contiguous(), "output_final_state": True}
    if beta is None:
        from fla.ops.simple_gla import chunk_simple_gla

        read, memory = chunk_simple_gla(q, k, v, **options)
    else:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        read, memory = chunk_gated_delta_rule(q, k, v, beta=beta.transpose(1, 2).contiguous(), **options)
    return read.transpose(1, 2), memory


class Replaced(torch.autograd.Function):
    """A fast function that is differentiated through its plain form when second derivatives are requested."""

    @staticmethod
    def forward(ctx: Any, fast: Rule, plain: Rule, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """The result of ``fast``."""
        ctx.plain, ctx.given = plain, [x is not None for x in inputs]
        ctx.save_for_backward(*(x for x in inputs if x is not None))
        wanted = ctx.needs_input_grad[2:]
        with torch.set_grad_enabled(any(wanted)):
            ctx.inputs = [
                None if x is None else x.detach().requires_grad_(w) for x, w in zip(inputs, wanted, strict=True)
            ]
            ctx.outputs = fast(*ctx.inputs)
        return tuple(y.detach() for y in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Through the graph of ``fast``, or through a new graph of ``plain``."""
        again = torch.is_grad_enabled()
        if again:
            saved = iter(ctx.saved_tensors)
            inputs = [next(saved) if given else None for given in ctx.given]
            outputs = ctx.plain(*inputs)
        else:
            inputs, outputs = ctx.inputs, ctx.outputs
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=again, retain_graph=True))
        return None, None, *(next(found) if x is not None and x.requires_grad else None for x in inputs)

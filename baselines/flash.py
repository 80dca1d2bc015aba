"""The recurrence of `baselines.linear_attention` by the kernels of flash-linear-attention, where that is installed.

They need a GPU and round products to TF32, so that they serve inputs in half precision alone. Their derivatives have no
derivatives: where these are asked for, the plain form is computed again.
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
    """The plain rule, or its kernels for inputs (B, T, ...) in half precision on a GPU."""
    if inputs.is_cuda and inputs.dtype == torch.bfloat16 and inputs.shape[1] > 1 and installed():
        return lambda *args: Replaced.apply(kernels, plain, *args)
    return plain


@cache
def installed() -> bool:
    """Whether flash-linear-attention is there."""
    return find_spec("fla") is not None


def kernels(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Arguments and results of `read_and_write`, which has (B, H, T, K) where the package has (B, T, H, K)."""
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
    """A fast function in place of a plain one, which is differentiated where a second derivative may be asked for."""

    @staticmethod
    def forward(ctx: Any, fast: Rule, plain: Rule, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """What ``fast`` makes of the inputs."""
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
        """By the graph of ``fast``, or by a new one of ``plain``."""
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

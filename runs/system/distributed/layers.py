"""Batch normalisation and dropout over the whole batch of a process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from runs.system.distributed.process_group import ProcessGroup
from snail.attention import Mechanism
from snail.attention.selection import Selection
from snail.visual_attention import GlimpseEmbedding


class DistributedBatchNorm(nn.Module):
    """Batch normalisation by the statistics of all processes' rows; `torch.nn.SyncBatchNorm` is for GPUs only.

    Args:
        norm: the normalisation whose scale, shift and running averages it uses, under the same names.
        group: the processes that share the batch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm, group: ProcessGroup):
        super().__init__()
        if norm.momentum is None or not norm.track_running_stats or not norm.affine:
            raise ValueError(f"a group supports only nn.BatchNorm2d with its defaults, got {norm}")
        self.group, self.eps, self.momentum = group, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, ...) -> (M, C, ...)."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = x.numel() // x.shape[1]
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        with torch.no_grad():
            F.batch_norm(x, mean, var, training=True, momentum=1.0)  # also gives the unbiased moments of these rows
            moments = torch.stack([mean, var * (count - 1) / count])
            means, variances = self.group.gather(moments[None]).unbind(1)  # (size, C)
            mean = means.mean(0)  # shards have equal size
            var = variances.mean(0) + (means - mean).square().mean(0)  # (C,)
            count *= self.group.size
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return _Normalize.apply(x, self.weight, self.bias, mean, var, self.eps, count, self.group)


class _Normalize(torch.autograd.Function):
    """Normalise by the moments of a batch of ``count`` positions, of which ``x`` is a shard: (M, C, ...) -> (M, C,
    ...).

    With x' the normalised input and g the gradient for y = w x' + b, that for x is
    ``w / sqrt(var + eps) * (g - mean(g) - x' mean(g x'))``, the means over the whole batch (Ioffe & Szegedy 2015,
    section 3). All passes over x use `torch.nn.functional.batch_norm`, which is fused.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
        count: int,
        group: ProcessGroup,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.eps, ctx.count, ctx.group = eps, count, group
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var = ctx.saved_tensors
        a, b, c = inputs = tuple(t.detach().requires_grad_() for t in (x, weight, bias))
        with torch.enable_grad():
            y = F.batch_norm(a, mean, var, b, c, eps=ctx.eps)
        for_x, for_weight, for_bias = torch.autograd.grad(y, inputs, gradients[0])  # with constant moments
        shares = ctx.group.total(torch.stack([for_weight, for_bias])) / ctx.count  # mean(g x') and mean(g)
        shares *= weight * (var + ctx.eps).rsqrt()
        for_x -= F.batch_norm(x, mean, var, shares[0], shares[1], eps=ctx.eps)
        return for_x, for_weight, for_bias, *[None] * 5


class DistributedDropout(nn.Module):
    """Dropout with the mask that one process would draw for the whole batch.

    Args:
        dropout: the layer whose probability it uses.
        group: the processes that share the batch.
    """

    def __init__(self, dropout: nn.Dropout, group: ProcessGroup):
        super().__init__()
        self.p, self.group = dropout.p, group

    def forward(self, x: Tensor) -> Tensor:
        """(M, ...) -> (M, ...)."""
        if not self.training or self.p == 0:
            return x
        # drawn in the memory format of x
        images = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if images else torch.contiguous_format
        whole = torch.ones((self.group.size * len(x), *x.shape[1:]), dtype=x.dtype, device=x.device)
        return x * self.group.shard(F.dropout(whole.contiguous(memory_format=layout), self.p))


def use_distributed_layers(module: nn.Module, group: ProcessGroup) -> None:
    """Replace the batch normalisations and dropouts of a module by those of the group, if it has several processes.

    Parameters and buffers keep their names and order.

    Raises:
        ValueError: for other random layers.
    """
    if group.single:
        return
    if (selection := _selection(module)) != "soft":
        group.require_single_process(f"{selection} attention draws random choices row by row")
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, DistributedBatchNorm(child, group))
        elif isinstance(child, nn.Dropout):
            setattr(module, name, DistributedDropout(child, group))
        else:
            use_distributed_layers(child, group)


def _selection(module: nn.Module) -> Selection:
    if isinstance(module, Mechanism):
        return module.kind.selection
    return module.selection if isinstance(module, GlimpseEmbedding) else "soft"

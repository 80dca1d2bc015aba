"""SNAIL as public implementations write it: the same function as ours, from a copy of the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.attention import AttentionBlock
from snail.convolution import CausalConv1d, TCBlock
from snail.model import SNAIL


class PlainAttention(nn.Module):
    """The function of an ``AttentionBlock``, with separate projections and an explicit masked softmax."""

    def __init__(self, block: AttentionBlock):
        super().__init__()
        sizes = [block.key_size, block.key_size, block.value_size]
        parts = zip(block.qkv.weight.split(sizes), block.qkv.bias.split(sizes), strict=True)
        self.query, self.key, self.value = (_with_weights(nn.Linear(*w.T.shape), w, b) for w, b in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C + V)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = query @ key.transpose(1, 2) / key.shape[2] ** 0.5  # (B, T, T)
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=2)
        return torch.cat([x, weights @ value], dim=2)


class PlainDenseBlock(nn.Module):
    """The function of a dense block, with a library convolution for each of filter and gate."""

    def __init__(self, conv: CausalConv1d):
        super().__init__()
        self.reach = conv.reach
        parts = zip(conv.weight.chunk(2, dim=2), conv.bias.chunk(2), strict=True)

        def plain(weight: Tensor, bias: Tensor) -> nn.Conv1d:
            library = nn.Conv1d(conv.input_size, len(bias), conv.kernel_size, dilation=conv.dilation)
            return _with_weights(library, weight.permute(2, 1, 0), bias)

        self.filter, self.gate = (plain(w, b) for w, b in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C + D, T)."""
        padded = F.pad(x, (self.reach, 0))
        return torch.cat([x, torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))], dim=1)


class PlainTC(nn.Sequential):
    """The function of a ``TCBlock``, channels before time inside as library convolutions want it."""

    def __init__(self, block: TCBlock):
        super().__init__(*(PlainDenseBlock(conv) for conv in block.convs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C + n D)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def plain_snail(model: SNAIL) -> nn.Sequential:
    """The function of ``model`` with a copy of its weights: (B, T, C) -> (B, T, D)."""
    kinds: dict[type, Callable[[Any], nn.Module]] = {TCBlock: PlainTC, AttentionBlock: PlainAttention}
    blocks = [kinds[type(block)](block) for block in model.blocks]
    return nn.Sequential(copy.deepcopy(model.stem), *blocks, copy.deepcopy(model.head)).to(model.head.weight.device)


def _with_weights(module: Any, weight: Tensor, bias: Tensor) -> Any:
    """A linear layer or convolution with copies of the given weights."""
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    return module

"""SNAIL in plain PyTorch: section 3 of Mishra et al. (2018), to be read.

``snail.model`` computes the same function faster, and also step by step; the tests compare it with this one, and
``snail bench`` measures against it. Inside, everything is (B, C, T): batch, channels, time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.convolution import TCBlock as FastTC
from snail.model import SNAIL as FastSNAIL

FEWSHOT = (("attention", 64, 32), ("tc", 128), ("attention", 256, 128), ("tc", 128), ("attention", 512, 256))
POLICY = (("tc", 32), ("tc", 32), ("attention", 32, 32))


class CausalConv(nn.Conv1d):
    """Causal convolution over time: (B, C, T) -> (B, D, T)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad the past with zeros, so that output t ends at input t."""
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class DenseBlock(nn.Module):
    """DenseBlock(R, D): a gated convolution with dilation R, concatenated to its input: (B, C, T) -> (B, C + D, T)."""

    def __init__(self, channels: int, filters: int, dilation: int):
        super().__init__()
        self.filter = CausalConv(channels, filters, kernel_size=2, dilation=dilation)
        self.gate = CausalConv(channels, filters, kernel_size=2, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """[x, tanh(f * x) sigmoid(g * x)]."""
        return torch.cat([x, torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))], dim=1)


class TCBlock(nn.Sequential):
    """TCBlock(T, D): dense blocks with dilations 1, 2, 4, ... until an output sees T steps."""

    def __init__(self, channels: int, seq_len: int, filters: int):
        layers = max(1, math.ceil(math.log2(seq_len)))
        super().__init__(*(DenseBlock(channels + i * filters, filters, 2**i) for i in range(layers)))
        self.output_size = channels + layers * filters


class AttentionBlock(nn.Module):
    """AttentionBlock(K, V): causal attention, concatenated to its input: (B, C, T) -> (B, C + V, T)."""

    def __init__(self, channels: int, key_size: int, value_size: int):
        super().__init__()
        self.query, self.key = nn.Linear(channels, key_size), nn.Linear(channels, key_size)
        self.value = nn.Linear(channels, value_size)
        self.output_size = channels + value_size

    def forward(self, x: Tensor) -> Tensor:
        """[x, softmax(q k^T / sqrt(K)) v], the future masked."""
        rows = x.transpose(1, 2)  # (B, T, C)
        query, key, value = self.query(rows), self.key(rows), self.value(rows)
        scores = query @ key.transpose(1, 2) / math.sqrt(key.shape[2])  # (B, T, T)
        future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        read = scores.masked_fill(future, -math.inf).softmax(dim=2) @ value  # (B, T, V)
        return torch.cat([x, read.transpose(1, 2)], dim=1)


class SNAIL(nn.Module):
    """The blocks one after another, and a linear read-out: (B, T, C) -> (B, T, D).

    Args:
        input_size: channels C of the input.
        output_size: channels D of the output.
        seq_len: the length T that sets the depth of the TC blocks.
        blocks: ("tc", filters) or ("attention", key size, value size) each.
        stem: width of a linear layer before the first block; None for none.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        seq_len: int,
        blocks: Sequence[tuple] = FEWSHOT,
        stem: int | None = None,
    ):
        super().__init__()
        self.stem = nn.Identity() if stem is None else nn.Linear(input_size, stem)
        self.blocks = nn.Sequential()
        channels = stem or input_size
        for kind, *sizes in blocks:
            block = TCBlock(channels, seq_len, *sizes) if kind == "tc" else AttentionBlock(channels, *sizes)
            self.blocks.append(block)
            channels = block.output_size
        self.head = nn.Linear(channels, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """All steps at once."""
        return self.head(self.blocks(self.stem(x).transpose(1, 2)).transpose(1, 2))


def minimal_copy(model: FastSNAIL) -> SNAIL:
    """The plain SNAIL with the weights of a fast one."""
    blocks = [
        ("tc", b.filters) if isinstance(b, FastTC) else ("attention", b.key_size, b.value_size) for b in model.blocks
    ]
    stem = model.stem.out_features if isinstance(model.stem, nn.Linear) else None
    plain = SNAIL(model.input_size, model.output_size, model.max_len, blocks, stem).to(model.head.weight.device)
    plain.stem.load_state_dict(model.stem.state_dict())
    plain.head.load_state_dict(model.head.state_dict())
    pairs: Any = zip(plain.blocks, model.blocks, strict=True)
    for ours, block in pairs:
        if isinstance(block, FastTC):
            for dense, conv in zip(ours, block.convs, strict=True):
                _set((dense.filter, dense.gate), conv.weight.permute(2, 1, 0).chunk(2), conv.bias.chunk(2))
        else:
            sizes = [block.key_size, block.key_size, block.value_size]
            _set((ours.query, ours.key, ours.value), block.qkv.weight.split(sizes), block.qkv.bias.split(sizes))
    return plain


def _set(layers: Sequence[Any], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})

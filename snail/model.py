"""SNAIL: temporal convolutions for bandwidth, attention for pinpoint access (Mishra et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from snail.attention import PLAIN, AttentionBlock, AttentionKind
from snail.convolution import TCBlock
from snail.sequence import ReadOut, SequenceModel


@dataclass(frozen=True)
class TC:
    """A TCBlock(T, filters) for the model's sequence length T."""

    filters: int

    def build(self, input_size: int, max_len: int, kernel_size: int, first_dilation: int) -> SequenceModel:
        """The block for the given input."""
        return TCBlock(input_size, max_len, self.filters, kernel_size, first_dilation)


@dataclass(frozen=True)
class Attention:
    """An AttentionBlock(key_size, value_size): the paper's, unless ``kind`` and ``heads`` say otherwise."""

    key_size: int
    value_size: int
    heads: int = 1
    kind: AttentionKind = PLAIN

    def build(self, input_size: int, max_len: int, kernel_size: int, first_dilation: int) -> SequenceModel:
        """The block for the given input."""
        return AttentionBlock(input_size, self.key_size, self.value_size, max_len, self.heads, self.kind)


Block = TC | Attention

FEWSHOT_BLOCKS: tuple[Block, ...] = (
    Attention(64, 32), TC(128), Attention(256, 128), TC(128), Attention(512, 256),
)  # fmt: skip
RL_POLICY_BLOCKS: tuple[Block, ...] = (TC(32), TC(32), Attention(32, 32))
RL_VALUE_BLOCKS: tuple[Block, ...] = (TC(16), TC(16), Attention(16, 16))


class SNAIL(SequenceModel):
    """TC and attention blocks, each reading the outputs of all before it, and a linear read-out.

    Args:
        input_size: channels C of the input.
        output_size: channels D of the output.
        max_len: the sequence length T that sets the depth of the TC blocks.
        blocks: the blocks; the default is the paper's network for few-shot classification. ``SNAIL.fewshot``,
            ``SNAIL.policy`` and ``SNAIL.value`` are the paper's presets.
        stem: width of a linear layer before the first block; None for none.
        kernel_size: taps of every convolution.
        first_dilation: the first of the doubling dilations: 1, or 2 for the literal reading of the paper's text.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        max_len: int,
        blocks: Sequence[Block] = FEWSHOT_BLOCKS,
        stem: int | None = None,
        kernel_size: int = 2,
        first_dilation: int = 1,
    ):
        super().__init__()
        self.input_size, self.output_size, self.max_len = input_size, output_size, max_len
        self.stem = nn.Identity() if stem is None else nn.Linear(input_size, stem)
        width = input_size if stem is None else stem
        built: list[SequenceModel] = []
        for block in blocks:
            built.append(block.build(width, max_len, kernel_size, first_dilation))
            width = built[-1].output_size
        self.blocks = cast(Sequence[SequenceModel], nn.ModuleList(built))
        self.head = ReadOut(width, output_size)  # the paper's final 1x1 convolution

    @classmethod
    def fewshot(cls, embedding_size: int, ways: int, max_shots: int = 5) -> SNAIL:
        """The paper's few-shot network: T = N K + 1 steps of image embedding and one-hot label -> N logits."""
        return cls(embedding_size + ways, ways, ways * max_shots + 1)

    @classmethod
    def policy(cls, input_size: int, actions: int, horizon: int) -> SNAIL:
        """The paper's policy network for bandits and MDPs."""
        return cls(input_size, actions, horizon, RL_POLICY_BLOCKS, stem=32)

    @classmethod
    def value(cls, input_size: int, horizon: int) -> SNAIL:
        """The paper's value network for bandits and MDPs."""
        return cls(input_size, 1, horizon, RL_VALUE_BLOCKS, stem=32)

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, D)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def init_cache(self, batch_size: int, max_len: int | None = None) -> tuple:
        """The state before the first step: one cache per block."""
        return tuple(block.init_cache(batch_size, max_len or self.max_len) for block in self.blocks)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, tuple]:
        """(B, T, C) -> (B, T, D), cache."""
        max_len = max_len or max(self.max_len, x.shape[1])
        x = self.stem(x)
        caches = []
        for block in self.blocks:
            x, cache = block.prefill(x, max_len)
            caches.append(cache)
        return self.head(x), tuple(caches)

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: tuple) -> tuple[Tensor, tuple]:
        """(B, C), cache -> (B, D), cache."""
        x_t = self.stem(x_t)
        caches = []
        for block, c in zip(self.blocks, cache, strict=True):
            x_t, c = block.step(x_t, c)
            caches.append(c)
        return self.head(x_t), tuple(caches)

    def branch(self, x_q: Tensor, cache: tuple) -> Tensor:
        """(B, Q, C), cache -> (B, Q, D)."""
        x_q = self.stem(x_q)
        for block, c in zip(self.blocks, cache, strict=True):
            x_q = block.branch(x_q, c)
        return self.head(x_q)

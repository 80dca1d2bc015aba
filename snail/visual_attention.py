"""Attention within an image: glimpses at a grid of features, and self-attention between its positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snail.attention.selection import Selection, record_weights, select


class SelfAttention2d(nn.Module):
    """Self-attention between all positions of an image: ``x + gate * attention(x)``, (M, C, H, W) -> (M, C, H, W).

    Query, key and value are 1x1 convolutions, and the learned gate starts at 0 (Zhang et al., "Self-Attention
    Generative Adversarial Networks", arXiv:1805.08318, section 3), so that the block starts as the identity.

    Args:
        channels: C.
        key_size: of queries and keys; the paper has C / 8.
    """

    def __init__(self, channels: int, key_size: int | None = None):
        super().__init__()
        key_size = key_size or max(1, channels // 8)
        self.sizes = (key_size, key_size, channels)
        self.qkv = nn.Conv2d(channels, sum(self.sizes), kernel_size=1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, H, W) -> (M, C, H, W)."""
        query, key, value = self.qkv(x).flatten(2).split(list(self.sizes), dim=1)  # (M, ., H W)
        weights = (query.transpose(1, 2) @ key).softmax(-1)  # (M, H W, H W)
        read = (value @ weights.transpose(1, 2)).unflatten(-1, x.shape[2:])  # (M, C, H, W)
        return x + self.gate.to(read.dtype) * read


class GlimpseEmbedding(nn.Module):
    """A few glimpses at an image, each guided by those before: (M, 1, 28, 28) -> (M, E).

    A convolutional network gives a grid of 7x7 features. A recurrent state, initialised from their mean, attends to
    them by additive attention, is updated with what it reads, and repeats (Xu et al., "Show, Attend and Tell",
    arXiv:1502.03044, section 3.1.2, with a GRU for its LSTM). The last state is the embedding.

    Args:
        output_size: channels E of an embedding.
        filters: channels of every convolution and of the state.
        glimpses: number of glimpses.
        selection: "soft" averages the features, "hard" and "gumbel" select one position.
    """

    grid = 7

    def __init__(self, output_size: int = 64, filters: int = 64, glimpses: int = 3, selection: Selection = "soft"):
        super().__init__()
        if glimpses < 1:
            raise ValueError(f"glimpses must be at least 1, got {glimpses}")
        if min(output_size, filters) < 1:
            raise ValueError(f"an embedding needs at least 1 channel in each layer, got {min(output_size, filters)}")
        self.output_size, self.glimpses, self.selection = output_size, glimpses, selection
        layers: list[nn.Module] = []
        for channels, pool in ((1, True), (filters, True), (filters, False), (filters, False)):
            # a bias would be cancelled by the normalisation
            layers.append(nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False))
            layers += [nn.MaxPool2d(2)] * pool + [nn.BatchNorm2d(filters), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.first = nn.Linear(filters, filters)
        self.key, self.query = nn.Linear(filters, filters), nn.Linear(filters, filters)
        self.place = nn.Parameter(torch.randn(self.grid**2, filters) * 0.1)  # the position of a feature, for its key
        self.score = nn.Linear(filters, 1, bias=False)
        self.state = nn.GRUCell(filters, filters)
        self.project = nn.Linear(filters, output_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (M, 1, 28, 28), uint8 in 0..255 -> (M, E). A tape records each glimpse's weights, (M, 1, 1, 49)."""
        if images.shape[1:] != (1, 28, 28):
            raise ValueError(f"images must be (M, 1, 28, 28), got {tuple(images.shape)}")
        x = images.to(self.project.weight.dtype) / 255
        grid = self.features(x).flatten(2).transpose(1, 2)  # (M, 49, F)
        keys = self.key(grid) + self.place
        state = self.first(grid.mean(1)).tanh()  # (M, F)
        for _ in range(self.glimpses):
            scores = self.score((keys + self.query(state)[:, None]).tanh())  # (M, 49, 1)
            weights = select(scores.transpose(1, 2)[:, None], self.selection, self.training)  # (M, 1, 1, 49)
            record_weights(weights)
            read = (weights[:, 0].to(grid.dtype) @ grid)[:, 0]  # (M, F)
            state = self.state(read.to(state.dtype), state)
        return self.project(state)

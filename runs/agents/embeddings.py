"""Configurations of image embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from snail.attention.selection import Selection
from snail.embedding import ConvolutionalEmbedding, OmniglotEmbedding, ResidualEmbedding
from snail.visual_attention import GlimpseEmbedding


class EmbeddingConfig(ABC):
    """Configuration of an image embedding. A subclass is a frozen dataclass of its settings."""

    size: int
    """Channels of an embedding."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the embedding: (M, C, height, width) -> (M, size)."""


@dataclass(frozen=True)
class OmniglotEmbeddingConfig(EmbeddingConfig):
    """Four convolutions that turn a 28x28 drawing into a vector."""

    size: int = 64
    """Channels of an embedding."""
    filters: int = 64
    """Channels of every convolution."""
    pool_first: bool = True
    """Pool before the normalisation, which needs a quarter of the memory traffic."""
    self_attention: bool = False
    """Self-attention between the 7x7 positions after the second convolution."""

    def build(self) -> OmniglotEmbedding:
        """The embedding."""
        return OmniglotEmbedding(self.size, self.filters, self.pool_first, self.self_attention)


@dataclass(frozen=True)
class GlimpseEmbeddingConfig(EmbeddingConfig):
    """A few glimpses at the features of a 28x28 drawing."""

    size: int = 64
    """Channels of an embedding."""
    filters: int = 64
    """Channels of every convolution."""
    glimpses: int = 3
    """Number of glimpses, each guided by those before."""
    selection: Selection = "soft"
    """soft: a weighted mean of all positions; hard or gumbel: one of them."""

    def build(self) -> GlimpseEmbedding:
        """The embedding."""
        return GlimpseEmbedding(self.size, self.filters, self.glimpses, self.selection)


@dataclass(frozen=True)
class ResidualEmbeddingConfig(EmbeddingConfig):
    """Four residual blocks that turn an 84x84 photograph into a vector."""

    size: int = 384
    """Channels of an embedding."""
    filters: tuple[int, ...] = (64, 96, 128, 256)
    """Channels of each residual block."""
    wide: int = 2048
    """Channels of the layer before the mean over the image."""
    dropout: float = 0.1
    """Dropout probability."""

    def build(self) -> ResidualEmbedding:
        """The embedding."""
        return ResidualEmbedding(self.size, self.filters, self.wide, self.dropout)


@dataclass(frozen=True)
class ConvolutionalEmbeddingConfig(EmbeddingConfig):
    """Four convolutions that turn a photograph, at half its resolution, into a vector."""

    size: int = 384
    """Channels of an embedding, and of the last convolution."""
    filters: tuple[int, ...] = (64, 128, 256)
    """Channels of the other convolutions."""

    def build(self) -> ConvolutionalEmbedding:
        """The embedding."""
        return ConvolutionalEmbedding(self.size, self.filters)


OMNIGLOT_EMBEDDING, RESIDUAL_EMBEDDING = OmniglotEmbeddingConfig(), ResidualEmbeddingConfig()
GLIMPSES = GlimpseEmbeddingConfig()

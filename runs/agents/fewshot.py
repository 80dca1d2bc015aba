"""Agents for few-shot classification: MAML, prototypical networks, encoder-decoders, set attention, transfer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from baselines.encoder_decoder import (
    AligningEncoderDecoder,
    EncoderDecoderClassifier,
    RecurrentEncoderDecoder,
    TransformerEncoderDecoder,
)
from baselines.maml import MAML
from baselines.prototypical import PrototypicalNetwork
from baselines.set_attention import SetTransformer
from baselines.sizing import matching_size
from baselines.transfer import TransferClassifier
from baselines.transformer import Positions
from runs.agents.interface import FewShotAgent
from runs.agents.sequence import snail_size
from snail.classifier import EpisodeModel


@dataclass(frozen=True)
class MAMLConfig(FewShotAgent):
    """MAML: initial weights from which a few gradient steps on the support give a classifier. Needs `make maml`.

    The defaults are the paper's for 5-way Omniglot.
    """

    inner_lr: float = 0.4
    """Learning rate of the gradient steps on the support."""
    inner_steps: int = 1
    """Gradient steps on the support in training."""
    test_steps: int = 3
    """Gradient steps on the support in validation and testing."""
    first_order: bool = False
    """Do not differentiate through the inner gradients: less time and memory."""
    transductive: bool = True
    """Normalise an episode's queries by their own statistics, as in the paper; otherwise by the support's."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """The embedding and a linear layer, adapted to each episode."""
        return MAML(
            embedding,
            embedding_size,
            ways,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            test_steps=self.test_steps,
            first_order=self.first_order,
            transductive=self.transductive,
        )


@dataclass(frozen=True)
class PrototypicalConfig(FewShotAgent):
    """Prototypical networks: the class whose mean embedding is nearest."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """The embedding, and distances to the class means."""
        return PrototypicalNetwork(embedding, ways)


class _EncoderDecoderConfig(FewShotAgent):
    """An encoder-decoder of about SNAIL's size."""

    @abstractmethod
    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """Build the encoder-decoder with this size."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """Embeddings and labels as its source, queries as its targets."""
        sizes = (embedding_size + ways, ways, max_support)
        target = snail_size("classifier", embedding_size + ways, ways, max_support + 1)
        size = matching_size(lambda n: self.build(n, *sizes), target, multiple=4)
        return EncoderDecoderClassifier(embedding, self.build(size, *sizes), ways)


@dataclass(frozen=True)
class Seq2SeqConfig(_EncoderDecoderConfig):
    """A recurrent encoder compresses the support into one vector, from which a recurrent decoder continues."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """Build it with this number of units."""
        return RecurrentEncoderDecoder(input_size, output_size, size)


@dataclass(frozen=True)
class AligningSeq2SeqConfig(_EncoderDecoderConfig):
    """A bidirectional encoder, and a decoder with additive attention to its states."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """Build it with this number of units."""
        return AligningEncoderDecoder(input_size, output_size, size)


@dataclass(frozen=True)
class EncoderDecoderConfig(_EncoderDecoderConfig):
    """An encoder-decoder Transformer: an encoder for the support, a decoder for the query."""

    layers: int = 2
    """Layers of encoder and decoder each."""
    heads: int = 4
    """Attention heads of each layer."""
    positions: Positions = "none"
    """Position encoding of the support; none by default, since it is a set."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """Build it with this number of channels."""
        return TransformerEncoderDecoder(
            input_size, output_size, size, self.layers, self.heads, max_len, self.positions
        )


@dataclass(frozen=True)
class SetAttentionConfig(_EncoderDecoderConfig):
    """A Transformer over the support as a set: without positions, without a causal mask."""

    layers: int = 2
    """Layers."""
    heads: int = 4
    """Attention heads of each layer."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """Build it with this number of channels."""
        return SetTransformer(input_size, output_size, size, self.layers, self.heads)


@dataclass(frozen=True)
class TransferConfig(FewShotAgent):
    """An embedding pre-trained on all training classes, and a linear classifier fitted to each support."""

    steps: int = 100
    """Gradient steps on the support."""
    learning_rate: float = 10.0
    """Learning rate of these steps."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """The embedding, and a classifier that is fitted to each support."""
        return TransferClassifier(embedding, ways, self.steps, self.learning_rate)

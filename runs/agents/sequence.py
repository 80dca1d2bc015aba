"""Sequence-model agents: SNAIL, LSTM, GRU, Transformer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from baselines.recurrent import GRU, LSTM, Recurrent
from baselines.sizing import matching_size
from baselines.transformer import Combination, Positions, Transformer
from envs.trials import require_positive
from runs.agents.embeddings import GLIMPSES, GlimpseEmbeddingConfig, OmniglotEmbeddingConfig
from runs.agents.interface import Role, SequenceAgent
from runs.config.serialization import renamed
from snail.attention import AttentionKind
from snail.attention.scores import ScoreName
from snail.attention.selection import Selection
from snail.attention.windows import WindowType
from snail.classifier import EpisodeModel
from snail.model import FEWSHOT_BLOCKS, RL_POLICY_BLOCKS, RL_VALUE_BLOCKS, SNAIL, TC, Attention
from snail.sequence import parameter_count

_BLOCKS = {"classifier": FEWSHOT_BLOCKS, "policy": RL_POLICY_BLOCKS, "value": RL_VALUE_BLOCKS}

_STEM = {"classifier": None, "policy": 32, "value": 32}


@dataclass(frozen=True)
class AttentiveConfig:
    """Settings of attention."""

    score: ScoreName = "scaled-dot"
    """Score function of queries and keys: scaled-dot, dot, general, cosine, additive or location."""
    window_type: WindowType = renamed("reach", "global")
    """global: the whole past; local-m: the last steps; local-p: around a predicted position."""
    window: int = 16
    """Steps in the window of local attention."""
    sinks: int = 0
    """Attention sinks: first steps that always stay in the window local-m."""
    selection: Selection = "soft"
    """soft: weighted mean; hard: one value, by score-function gradients; gumbel: straight-through Gumbel-softmax."""

    def attention_kind(self, role: Role) -> AttentionKind:
        """The kind of attention.

        Raises:
            ValueError: for hard attention in trials, where training would have to replay the choices made while acting.
        """
        if role != "classifier" and self.selection != "soft":
            raise ValueError(
                f"{self.selection} attention is for few-shot classification only; give --model.selection soft"
            )
        return AttentionKind(self.score, self.window_type, self.window, self.selection, self.sinks)


BlockChoice = Literal["all", "convolutions", "attention"]


@dataclass(frozen=True)
class SNAILConfig(AttentiveConfig, SequenceAgent):
    """SNAIL with the paper's blocks for each role."""

    heads: int = 1
    """Attention heads; they do not change the number of parameters."""
    blocks: BlockChoice = "all"
    """Which of SNAIL's blocks: all, only temporal convolutions, or only attention."""
    width: float = 1.0
    """Factor for the channels of all blocks."""
    kernel_size: int = 2
    """Taps of every causal convolution."""
    first_dilation: int = 1
    """The first of the doubling dilations; 2 is the literal reading of the paper."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SNAIL:
        """Build the model for ``role``, for sequences of up to ``max_len`` steps."""
        if self.width <= 0:
            raise ValueError(f"width must be positive, got {self.width}")
        kind, stem = self.attention_kind(role), _STEM[role]
        blocks = tuple(self._sized(block, kind) for block in _BLOCKS[role] if self._chosen(block))
        stem = None if stem is None else self._channels(stem)
        return SNAIL(input_size, output_size, max_len, blocks, stem, self.kernel_size, self.first_dilation)

    def _chosen(self, block: TC | Attention) -> bool:
        return self.blocks == "all" or isinstance(block, TC if self.blocks == "convolutions" else Attention)

    def _sized(self, block: TC | Attention, kind: AttentionKind) -> TC | Attention:
        if isinstance(block, TC):
            return TC(self._channels(block.filters))
        return Attention(self._channels(block.key_size), self._channels(block.value_size), self.heads, kind)

    def _channels(self, usual: int) -> int:
        return max(1, round(self.width * usual))


@dataclass(frozen=True)
class EmbeddingSNAILConfig(SNAILConfig):
    """SNAIL with its own image embedding instead of the task's, for few-shot classification."""

    FORMER_NAME: ClassVar[str] = "LookingSNAILConfig"

    embedding: OmniglotEmbeddingConfig | GlimpseEmbeddingConfig = GLIMPSES
    """The image embedding."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """A classifier whose SNAIL reads its own embeddings and labels."""
        if self.embedding.size != embedding_size:
            raise ValueError(f"the task's embeddings have {embedding_size} channels, this one {self.embedding.size}")
        return super().build_classifier(self.embedding.build(), embedding_size, ways, max_support)


def snail_size(role: Role, input_size: int, output_size: int, max_len: int) -> int:
    """Parameters of the SNAIL that a baseline is compared with."""
    return parameter_count(SNAILConfig().build(role, input_size, output_size, max_len))


@dataclass(frozen=True)
class _RecurrentConfig(SequenceAgent):
    hidden_size: int | None = None
    """Units; None: to match SNAIL's parameter count."""

    @abstractmethod
    def model(self, input_size: int, output_size: int, hidden_size: int) -> Recurrent:
        """Build it with this number of units."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> Recurrent:
        """Build the model for ``role``; ``max_len`` only affects the size of the SNAIL to match."""
        target = snail_size(role, input_size, output_size, max_len)  # always, as building it draws random numbers
        size = self.hidden_size
        if size is None:
            size = matching_size(lambda n: self.model(input_size, output_size, n), target)
        return self.model(input_size, output_size, size)


@dataclass(frozen=True)
class LSTMConfig(_RecurrentConfig):
    """One LSTM layer."""

    forget_bias: float | None = None
    """Initial bias of the forget gate; None: torch's, uniform around 0."""

    def model(self, input_size: int, output_size: int, hidden_size: int) -> LSTM:
        """An LSTM."""
        return LSTM(input_size, output_size, hidden_size, self.forget_bias)


@dataclass(frozen=True)
class GRUConfig(_RecurrentConfig):
    """One GRU layer, the memory of RL^2 (which had 256 units)."""

    def model(self, input_size: int, output_size: int, hidden_size: int) -> GRU:
        """A GRU."""
        return GRU(input_size, output_size, hidden_size)


@dataclass(frozen=True)
class TransformerConfig(AttentiveConfig, SequenceAgent):
    """A decoder-only, pre-norm Transformer: attention without the temporal convolutions."""

    width: int | None = None
    """Channels between layers, a multiple of heads; None: to match SNAIL's parameter count."""
    layers: int = 2
    """Layers."""
    heads: int = 4
    """Attention heads of each layer."""
    positions: Positions = "sinusoidal"
    """Position encoding."""
    combination: Combination = "add"
    """Whether position encodings are added to the tokens or concatenated."""
    scale_tokens: bool = False
    """Scale tokens by sqrt(width) before sinusoidal encodings are added, as in Vaswani et al. 2017."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> Transformer:
        """Build the model for ``role``, for sequences of up to ``max_len`` steps."""

        kind = self.attention_kind(role)

        def model(width: int) -> Transformer:
            return Transformer(
                input_size,
                output_size,
                max_len,
                width,
                layers=self.layers,
                heads=self.heads,
                positions=self.positions,
                combination=self.combination,
                kind=kind,
                scale_tokens=self.scale_tokens,
            )

        require_positive(heads=self.heads, layers=self.layers)
        if self.width is not None:
            return model(self.width)
        return model(matching_size(model, snail_size(role, input_size, output_size, max_len), multiple=self.heads))

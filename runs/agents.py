"""The agents that can be trained: each name is a configuration that builds its own sequence model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from baselines.bandits import (
    UCB1,
    BanditMethod,
    EpsilonGreedy,
    FiniteHorizonGittins,
    Gittins,
    Greedy,
    OptimisticThompson,
    Random,
    Thompson,
)
from baselines.encoder_decoder import (
    AligningEncoderDecoder,
    EncoderDecoderClassifier,
    RecurrentEncoderDecoder,
    TransformerEncoderDecoder,
)
from baselines.maml import MAML
from baselines.mdps import (
    BEB,
    OPSRL,
    PSRL,
    UCRL2,
    EpsilonGreedyPolicy,
    GreedyPolicy,
    MDPMethod,
    Oracle,
    RandomPolicy,
)
from baselines.prototypical import PrototypicalNetwork
from baselines.recurrent import GRU, LSTM, Recurrent
from baselines.sizing import matching_size
from baselines.transfer import TransferClassifier
from baselines.transformer import Combination, Positions, Transformer
from baselines.trial_method import TrialMethod
from envs.trials import require_positive
from runs.embeddings import GLIMPSES, GlimpseEmbeddingConfig, OmniglotEmbeddingConfig
from snail.actor_critic import ActorCritic
from snail.attention import AttentionKind
from snail.classifier import EpisodeModel, SequenceClassifier
from snail.model import FEWSHOT_BLOCKS, RL_POLICY_BLOCKS, RL_VALUE_BLOCKS, SNAIL, TC, Attention
from snail.reach import ReachName
from snail.scores import SCORE_NAMES, ScoreName
from snail.selection import Selection
from snail.sequence import SequenceModel, parameter_count

Role = Literal["classifier", "policy", "value"]

_BLOCKS = {"classifier": FEWSHOT_BLOCKS, "policy": RL_POLICY_BLOCKS, "value": RL_VALUE_BLOCKS}
_STEM = {"classifier": None, "policy": 32, "value": 32}


class FewShotAgent(ABC):
    """An agent that classifies few-shot episodes."""

    @abstractmethod
    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """What maps episodes with up to ``max_support`` support items to logits.

        embedding: (M, ...) images -> (M, embedding_size).
        ways: classes in an episode.
        """


class SequenceAgent(FewShotAgent):
    """An agent that is a sequence model: the same one classifies, acts and judges."""

    @abstractmethod
    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """The model for ``role``, with sequences of up to ``max_len`` steps."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """Embeddings and labels as a sequence, read by the model."""
        model = self.build("classifier", embedding_size + ways, ways, max_support + 1)
        return SequenceClassifier(embedding, model, ways)

    def build_actor_critic(
        self,
        num_observations: int,
        num_actions: int,
        horizon: int,
        shared: bool = False,
        foresees: bool = False,
        told: int = 0,
    ) -> ActorCritic:
        """What plays trials of ``horizon`` steps.

        shared: with one trunk for policy and value.
        foresees: with an output for the reward of every action.
        told: channels that the value network alone is told of the task in training.
        """
        channels = ActorCritic.input_size(num_observations, num_actions)
        policy = self.build("policy", channels, num_actions * (1 + foresees) + shared, horizon)
        value = None if shared else self.build("value", channels + told, 1, horizon)
        return ActorCritic(policy, value, num_observations, num_actions)


@dataclass(frozen=True)
class _Attentive:
    """What agents with attention can choose about it."""

    score: ScoreName = "scaled-dot"
    """How well a key suits a query: scaled-dot, dot, general, cosine, additive or location."""
    reach: ReachName = "global"
    """global: all of the past; local-m: the last steps; local-p: around a predicted place."""
    window: int = 16
    """Steps within reach of local attention."""
    selection: Selection = "soft"
    """soft: a mixture of values; hard: one of them, learned by score functions; gumbel: straight through."""

    def attention_kind(self, role: Role) -> AttentionKind:
        """The kind of attention that was chosen.

        Raises:
            ValueError: for hard attention in trials, where acting and learning would have to make the same choices.
        """
        if role != "classifier" and self.selection != "soft":
            raise ValueError(
                f"{self.selection} attention learns from few-shot episodes only; give --model.selection soft"
            )
        return AttentionKind(self.score, self.reach, self.window, self.selection)


BlockChoice = Literal["all", "convolutions", "attention"]


@dataclass(frozen=True)
class SNAILConfig(_Attentive, SequenceAgent):
    """SNAIL with the paper's blocks for each role."""

    heads: int = 1
    """Attention heads; the number of parameters stays the same."""
    blocks: BlockChoice = "all"
    """Which of SNAIL's blocks: all, its temporal convolutions alone, or its attention alone."""
    width: float = 1.0
    """Factor for the channels of all blocks."""
    kernel_size: int = 2
    """Taps of every causal convolution."""
    first_dilation: int = 1
    """Where the doubling dilations start; 2 is the paper's text read literally."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SNAIL:
        """The model for ``role``, with sequences of up to ``max_len`` steps."""
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
class LookingSNAILConfig(SNAILConfig):
    """SNAIL with an image embedding of its own instead of the task's; for few-shot classification."""

    embedding: OmniglotEmbeddingConfig | GlimpseEmbeddingConfig = GLIMPSES
    """What turns an image into a vector."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """Its own embeddings and labels as a sequence, read by the model."""
        if self.embedding.size != embedding_size:
            raise ValueError(f"the task's embeddings have {embedding_size} channels, this one {self.embedding.size}")
        return super().build_classifier(self.embedding.build(), embedding_size, ways, max_support)


def _snail_size(role: Role, input_size: int, output_size: int, max_len: int) -> int:
    """Parameters of the SNAIL that a baseline is compared with."""
    return parameter_count(SNAILConfig().build(role, input_size, output_size, max_len))


@dataclass(frozen=True)
class _RecurrentConfig(SequenceAgent):
    hidden_size: int | None = None
    """Units; None: as many as give SNAIL's parameter count."""

    kind: ClassVar[type[Recurrent]]

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> Recurrent:
        """The model for ``role``; ``max_len`` matters only for the size of the SNAIL to match."""
        target = _snail_size(role, input_size, output_size, max_len)
        size = self.hidden_size
        if size is None:
            size = matching_size(lambda n: self.kind(input_size, output_size, n), target)
        return self.kind(input_size, output_size, size)


@dataclass(frozen=True)
class LSTMConfig(_RecurrentConfig):
    """One LSTM layer."""

    kind = LSTM


@dataclass(frozen=True)
class GRUConfig(_RecurrentConfig):
    """One GRU layer, the memory of RL^2 (which had 256 units)."""

    kind = GRU


@dataclass(frozen=True)
class TransformerConfig(_Attentive, SequenceAgent):
    """A decoder-only, pre-norm Transformer: attention without the temporal convolutions."""

    width: int | None = None
    """Channels between layers, a multiple of heads; None: as many as give SNAIL's parameter count."""
    layers: int = 2
    """Layers."""
    heads: int = 4
    """Attention heads of each layer."""
    positions: Positions = "sinusoidal"
    """What tells the steps apart."""
    combination: Combination = "add"
    """How positions join the tokens."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> Transformer:
        """The model for ``role``, with sequences of up to ``max_len`` steps."""

        kind = self.attention_kind(role)

        def model(width: int) -> Transformer:
            return Transformer(
                input_size, output_size, max_len, width, self.layers, self.heads, self.positions, self.combination, kind
            )

        require_positive(heads=self.heads, layers=self.layers)
        if self.width is not None:
            return model(self.width)
        return model(matching_size(model, _snail_size(role, input_size, output_size, max_len), multiple=self.heads))


@dataclass(frozen=True)
class MAMLConfig(FewShotAgent):
    """MAML: weights from which a few gradient steps on the support lead to a classifier. Needs `make maml`.

    The defaults are the paper's for 5 ways of Omniglot.
    """

    inner_lr: float = 0.4
    """Length of a gradient step on the support, in gradients."""
    inner_steps: int = 1
    """Gradient steps on the support in training."""
    test_steps: int = 3
    """Gradient steps on the support in validation and testing."""
    first_order: bool = False
    """Do not differentiate through the gradients of the steps: less time and memory."""
    transductive: bool = True
    """Normalise an episode's queries by their own statistics, as the paper; otherwise by the support's."""

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
        """The embedding, and distances to the means."""
        return PrototypicalNetwork(embedding, ways)


class _EncoderDecoderConfig(FewShotAgent):
    """An encoder-decoder of about SNAIL's size."""

    @abstractmethod
    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """The encoder-decoder with so many channels."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """Embeddings and labels as its source, queries as its targets."""
        sizes = (embedding_size + ways, ways, max_support)
        target = _snail_size("classifier", embedding_size + ways, ways, max_support + 1)
        size = matching_size(lambda n: self.build(n, *sizes), target, multiple=4)
        return EncoderDecoderClassifier(embedding, self.build(size, *sizes), ways)


@dataclass(frozen=True)
class Seq2SeqConfig(_EncoderDecoderConfig):
    """A recurrent encoder squeezes the support into one vector; a recurrent decoder goes on from there."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """With so many units."""
        return RecurrentEncoderDecoder(input_size, output_size, size)


@dataclass(frozen=True)
class AligningSeq2SeqConfig(_EncoderDecoderConfig):
    """A bidirectional encoder, and a decoder that aligns the query with its states by additive attention."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """With so many units."""
        return AligningEncoderDecoder(input_size, output_size, size)


@dataclass(frozen=True)
class EncoderDecoderConfig(_EncoderDecoderConfig):
    """The full Transformer: an encoder for the support, a decoder for the query."""

    layers: int = 2
    """Layers of each half."""
    heads: int = 4
    """Attention heads of each layer."""
    positions: Positions = "none"
    """What tells the items of the support apart: nothing, for it is a set."""

    def build(self, size: int, input_size: int, output_size: int, max_len: int) -> nn.Module:
        """With so many channels."""
        return TransformerEncoderDecoder(
            input_size, output_size, size, self.layers, self.heads, max_len, self.positions
        )


@dataclass(frozen=True)
class TransferConfig(FewShotAgent):
    """An embedding from telling all training classes apart, then a linear classifier fitted to each support."""

    steps: int = 100
    """Gradient steps on the support."""
    learning_rate: float = 10.0
    """Of these."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """The embedding, and classifiers yet to be fitted."""
        return TransferClassifier(embedding, ways, self.steps, self.learning_rate)


AnyAgentConfig = FewShotAgent | TrialMethod
"""What can stand for an agent: what learns, and methods that do not."""

AGENTS: dict[str, SequenceAgent] = {
    "snail": SNAILConfig(),
    "lstm": LSTMConfig(),
    "gru": GRUConfig(),
    "transformer": TransformerConfig(),
}
"""The agents for every experiment."""

FEWSHOT_AGENTS: dict[str, FewShotAgent] = {
    **AGENTS,
    "maml": MAMLConfig(),
    "protonet": PrototypicalConfig(),
}
"""The agents for few-shot classification."""

ATTENTION_VARIANTS: dict[str, SequenceAgent] = {
    **{f"snail-{score}": SNAILConfig(score=score) for score in SCORE_NAMES if score != "scaled-dot"},
    "snail-local-m": SNAILConfig(reach="local-m"),
    "snail-local-p": SNAILConfig(reach="local-p"),
    "snail-4-heads": SNAILConfig(heads=4),
    "snail-convolutions": SNAILConfig(blocks="convolutions"),
    "snail-attention": SNAILConfig(blocks="attention"),
    "snail-dilation-2": SNAILConfig(first_dilation=2),
    "snail-half": SNAILConfig(width=0.5),
    "snail-double": SNAILConfig(width=2.0),
}
"""SNAIL with one thing changed, for every kind of experiment."""

FEWSHOT_VARIANTS: dict[str, FewShotAgent] = {
    **ATTENTION_VARIANTS,
    "snail-local-m": SNAILConfig(reach="local-m", window=3),  # of an episode with 6 items
    "snail-local-p": SNAILConfig(reach="local-p", window=3),
    "snail-hard": SNAILConfig(selection="hard"),
    "snail-gumbel": SNAILConfig(selection="gumbel"),
    "snail-glimpses": LookingSNAILConfig(),
    "snail-hard-glimpses": LookingSNAILConfig(embedding=GlimpseEmbeddingConfig(selection="hard")),
    "snail-self-attention": LookingSNAILConfig(embedding=OmniglotEmbeddingConfig(self_attention=True)),
    "seq2seq": Seq2SeqConfig(),
    "seq2seq-aligned": AligningSeq2SeqConfig(),
    "encoder-decoder": EncoderDecoderConfig(),
    "transfer": TransferConfig(),
}
"""For few-shot classification: these, and the mechanisms that SNAIL descends from."""

BANDIT_METHODS: dict[str, BanditMethod] = {
    "random": Random(),
    "greedy": Greedy(),
    "eps-greedy": EpsilonGreedy(),
    "ucb1": UCB1(),
    "thompson": Thompson(),
    "optimistic-thompson": OptimisticThompson(),
    "gittins": Gittins(),
    "finite-gittins": FiniteHorizonGittins(),
}

_BAYESIAN: dict[str, GreedyPolicy | EpsilonGreedyPolicy | PSRL | OPSRL | UCRL2 | BEB] = {
    "greedy": GreedyPolicy(),
    "eps-greedy": EpsilonGreedyPolicy(),
    "psrl": PSRL(),
    "opsrl": OPSRL(),
    "ucrl2": UCRL2(),
    "beb": BEB(),
}
MDP_METHODS: dict[str, MDPMethod] = {
    "random": RandomPolicy(),
    **_BAYESIAN,
    # with a prior that expects mean rewards of 0, as the papers' numbers imply
    **{f"{name}-mean0": replace(method, prior_mean=0.0) for name, method in _BAYESIAN.items()},
    "oracle": Oracle(),
}

METHODS: dict[str, TrialMethod] = {**BANDIT_METHODS, **MDP_METHODS}
"""The agents that do not learn."""

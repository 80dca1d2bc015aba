"""The agents that can be trained: each name is a configuration that builds its own sequence model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from baselines.bandits import (
    UCB1,
    EpsilonGreedy,
    FiniteHorizonGittins,
    Gittins,
    Greedy,
    OptimisticThompson,
    Random,
    Thompson,
)
from baselines.maml import MAML
from baselines.mdps import (
    BEB,
    OPSRL,
    PSRL,
    UCRL2,
    EpsilonGreedyPolicy,
    GreedyPolicy,
    Oracle,
    RandomPolicy,
)
from baselines.prototypical import PrototypicalNetwork
from baselines.recurrent import GRU, LSTM, Recurrent
from baselines.sizing import matching_size
from baselines.transformer import Combination, Positions, Transformer
from envs.trials import require_positive
from snail.actor_critic import ActorCritic
from snail.classifier import EpisodeModel, SequenceClassifier
from snail.model import FEWSHOT_BLOCKS, RL_POLICY_BLOCKS, RL_VALUE_BLOCKS, SNAIL
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
        self, num_observations: int, num_actions: int, horizon: int, shared: bool = False, foresees: bool = False
    ) -> ActorCritic:
        """What plays trials of ``horizon`` steps.

        shared: with one trunk for policy and value.
        foresees: with an output for the reward of every action.
        """
        channels = ActorCritic.input_size(num_observations, num_actions)
        policy = self.build("policy", channels, num_actions * (1 + foresees) + shared, horizon)
        value = None if shared else self.build("value", channels, 1, horizon)
        return ActorCritic(policy, value, num_observations, num_actions)


@dataclass(frozen=True)
class SNAILConfig(SequenceAgent):
    """SNAIL with the paper's blocks for each role."""

    kernel_size: int = 2
    """Taps of every causal convolution."""
    first_dilation: int = 1
    """Where the doubling dilations start; 2 is the paper's text read literally."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SNAIL:
        """The model for ``role``, with sequences of up to ``max_len`` steps."""
        return SNAIL(
            input_size, output_size, max_len, _BLOCKS[role], _STEM[role], self.kernel_size, self.first_dilation
        )


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
class TransformerConfig(SequenceAgent):
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

        def model(width: int) -> Transformer:
            return Transformer(
                input_size, output_size, max_len, width, self.layers, self.heads, self.positions, self.combination
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


AnySequenceAgent = SNAILConfig | LSTMConfig | GRUConfig | TransformerConfig
AnyBanditMethod = (
    Random | Greedy | EpsilonGreedy | UCB1 | Thompson | OptimisticThompson | Gittins | FiniteHorizonGittins
)
AnyMDPMethod = RandomPolicy | GreedyPolicy | EpsilonGreedyPolicy | PSRL | OPSRL | UCRL2 | BEB | Oracle
AnyFewShotAgent = AnySequenceAgent | MAMLConfig | PrototypicalConfig
AnyAgentConfig = AnyFewShotAgent | AnyBanditMethod | AnyMDPMethod

AGENTS: dict[str, AnySequenceAgent] = {
    "snail": SNAILConfig(),
    "lstm": LSTMConfig(),
    "gru": GRUConfig(),
    "transformer": TransformerConfig(),
}
"""The agents for every experiment."""

FEWSHOT_AGENTS: dict[str, AnyFewShotAgent] = {
    **AGENTS,
    "maml": MAMLConfig(),
    "protonet": PrototypicalConfig(),
}
"""The agents for few-shot classification."""

BANDIT_METHODS: dict[str, AnyBanditMethod] = {
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
MDP_METHODS: dict[str, AnyMDPMethod] = {
    "random": RandomPolicy(),
    **_BAYESIAN,
    # with a prior that expects mean rewards of 0, as the papers' numbers imply
    **{f"{name}-mean0": replace(method, prior_mean=0.0) for name, method in _BAYESIAN.items()},
    "oracle": Oracle(),
}

METHODS: dict[str, AnyBanditMethod | AnyMDPMethod] = {**BANDIT_METHODS, **MDP_METHODS}
"""The agents that do not learn."""

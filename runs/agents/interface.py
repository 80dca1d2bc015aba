"""The interface of agents: a configuration that builds a classifier or an actor-critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from snail.actions import ActionHead, Categorical
from snail.actor_critic import ActorCritic
from snail.classifier import EpisodeModel, SequenceClassifier
from snail.observations import OneHot, RunningNormalizer
from snail.sequence import SequenceModel

Role = Literal["classifier", "policy", "value"]


class FewShotAgent(ABC):
    """An agent that classifies few-shot episodes."""

    @abstractmethod
    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """Build a classifier for episodes with up to ``max_support`` support items.

        embedding: (M, ...) images -> (M, embedding_size).
        ways: classes in an episode.
        """


@dataclass(frozen=True)
class ActorCriticSpec:
    """The task-dependent sizes of an actor-critic.

    observations, actions: their encoder and distribution, or the number of discrete ones.
    horizon: steps of a trial.
    shared: whether policy and value share one trunk.
    predicts_rewards: whether the policy predicts the reward of every discrete action.
    privileged: channels of privileged task information for the value network.
    critic: builds the value network, if it is not like the policy.
    """

    observations: int | OneHot | RunningNormalizer
    actions: int | ActionHead
    horizon: int
    shared: bool = False
    predicts_rewards: bool = False
    privileged: int = 0
    critic: Callable[[], nn.Module] | None = None

    def value(self, channels: int, build: Callable[[int], SequenceModel]) -> nn.Module:
        """The value network of a policy that reads this number of channels.

        ``build`` makes a sequence model with a number of inputs and one output.
        """
        return build(channels + self.privileged) if self.critic is None else self.critic()


class TrialAgent(ABC):
    """An agent that acts in trials and is trained by reinforcement learning."""

    @abstractmethod
    def build_actor_critic(self, spec: ActorCriticSpec) -> ActorCritic:
        """What plays trials."""


class SequenceAgent(FewShotAgent, TrialAgent):
    """An agent that is a sequence model: it can classify, act and predict values."""

    @abstractmethod
    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """Build the model for ``role``, for sequences of up to ``max_len`` steps."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """A classifier whose sequence model reads embeddings and labels."""
        model = self.build("classifier", embedding_size + ways, ways, max_support + 1)
        return SequenceClassifier(embedding, model, ways)

    def build_actor_critic(self, spec: ActorCriticSpec) -> ActorCritic:
        """A policy and a value function, separate models unless shared."""
        head = Categorical(spec.actions) if isinstance(spec.actions, int) else spec.actions
        channels = ActorCritic.input_size(spec.observations, head)
        outputs = head.outputs + spec.predicts_rewards * head.predictable + spec.shared
        policy = self.build("policy", channels, outputs, spec.horizon)
        value = None if spec.shared else spec.value(channels, lambda n: self.build("value", n, 1, spec.horizon))
        return ActorCritic(policy, value, spec.observations, head)

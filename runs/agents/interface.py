"""What an agent is: a configuration that builds a classifier, or an actor-critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
        """What maps episodes with up to ``max_support`` support items to logits.

        embedding: (M, ...) images -> (M, embedding_size).
        ways: classes in an episode.
        """


class TrialAgent(ABC):
    """An agent that learns to act in trials."""

    @abstractmethod
    def build_actor_critic(
        self,
        observations: int | OneHot | RunningNormalizer,
        actions: int | ActionHead,
        horizon: int,
        shared: bool = False,
        predicts_rewards: bool = False,
        told: int = 0,
    ) -> ActorCritic:
        """What plays trials of ``horizon`` steps.

        observations, actions: their encoding and distribution; numbers: so many discrete ones.
        shared: with one trunk for policy and value.
        predicts_rewards: with an output for the reward of every action, where they can be counted.
        told: channels that the value network alone is told of the task in training.
        """


class SequenceAgent(FewShotAgent, TrialAgent):
    """An agent that is a sequence model: it classifies, acts and predicts values."""

    @abstractmethod
    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """The model for ``role``, with sequences of up to ``max_len`` steps."""

    def build_classifier(self, embedding: nn.Module, embedding_size: int, ways: int, max_support: int) -> EpisodeModel:
        """Embeddings and labels as a sequence, read by the model."""
        model = self.build("classifier", embedding_size + ways, ways, max_support + 1)
        return SequenceClassifier(embedding, model, ways)

    def build_actor_critic(
        self,
        observations: int | OneHot | RunningNormalizer,
        actions: int | ActionHead,
        horizon: int,
        shared: bool = False,
        predicts_rewards: bool = False,
        told: int = 0,
    ) -> ActorCritic:
        """A policy and a value function, each a model of its own unless shared."""
        head = Categorical(actions) if isinstance(actions, int) else actions
        channels = ActorCritic.input_size(observations, head)
        outputs = head.outputs + predicts_rewards * head.predictable + shared
        policy = self.build("policy", channels, outputs, horizon)
        value = None if shared else self.build("value", channels + told, 1, horizon)
        return ActorCritic(policy, value, observations, head)

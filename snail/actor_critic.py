"""Actor-critic with memory: a policy and a value function over any sequence model (RL^2, Duan et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snail.actions import ActionHead, Categorical
from snail.observations import OneHot, RunningNormalizer
from snail.sequence import SequenceModel


class BeliefCritic(nn.Module):
    """A value network without memory: two hidden layers that read only the last ``belief`` channels.

    These must say all that the value depends on, such as the hidden task and what the agent can know of it.
    """

    def __init__(self, belief: int, hidden_size: int = 256):
        super().__init__()
        self.belief = belief
        self.layers = nn.Sequential(
            nn.Linear(belief, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, 1)."""
        return self.layers(x[..., -self.belief :])


class ActorCritic(nn.Module):
    """Policy and value function of an agent whose input includes its previous action and reward.

    Each step's input is that of RL^2: observation, previous action, previous reward, and whether an episode has
    just ended. At the first step these are the head's placeholder action, reward 0 and flag 1.

    The policy may also predict the reward of every action, an auxiliary task that shapes its memory (Jaderberg et
    al. 2017) and is not needed for acting.

    Args:
        policy: reads ``input_size(...)`` channels; writes the outputs of the action head, one for each action if it
            predicts rewards, and one more with a shared trunk.
        value: reads the same, plus privileged information on the task if used; writes 1. None for a trunk shared with
            the policy, whose last output is then the value. An algorithm may bring another one, which only it calls.
        observations: their encoder, or the number of discrete observations.
        actions: their distribution, or the number of discrete actions.
    """

    def __init__(
        self,
        policy: SequenceModel,
        value: nn.Module | None,
        observations: int | OneHot | RunningNormalizer,
        actions: int | ActionHead,
    ):
        super().__init__()
        self.policy, self.value = policy, value
        self.encoder = OneHot(observations) if isinstance(observations, int) else observations
        self.actions = Categorical(actions) if isinstance(actions, int) else actions
        self.num_predicted = policy.output_size - self.actions.outputs - (value is None)

    @staticmethod
    def input_size(observations: int | OneHot | RunningNormalizer, actions: int | ActionHead) -> int:
        """Channels C of a step's input."""
        shown = OneHot(observations) if isinstance(observations, int) else observations
        return shown.channels + (actions if isinstance(actions, int) else actions.channels) + 2

    def encode(self, observation: Tensor, action: Tensor, reward: Tensor, episode_end: Tensor) -> Tensor:
        """Observation, previous action, previous reward and end flag -> (..., C).

        Discrete observations and actions are (...,) integers, continuous ones (..., D); the rest is (...,).
        """
        parts = [self.encoder(observation), self.actions.encode(action), reward[..., None]]
        return torch.cat([*parts, episode_end[..., None].float()], dim=-1)

    def observations(self, x: Tensor) -> Tensor:
        """The discrete observations that inputs were encoded from: (..., C) -> (...) integers."""
        assert isinstance(self.encoder, OneHot)
        return x[..., : max(1, self.encoder.channels)].argmax(-1) if self.encoder.channels else x[..., 0].long() * 0

    def first_input(self, observation: Tensor) -> Tensor:
        """The input before the first action, for observations (B,) or (B, D): (B, C)."""
        reward = torch.zeros(len(observation), device=observation.device)
        first = self.actions.first(reward.shape, reward.device)
        return self.encode(observation, first, reward, torch.ones_like(reward))

    def forward(self, x: Tensor, privileged: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All steps in parallel: (B, T, C) -> parameters of the action head (B, T, P), values (B, T).

        privileged: (B, T, F) privileged task information for the value network, if it was built for that.
        """
        parameters, values, _ = self.with_predicted_rewards(x, privileged)
        return parameters, values

    def with_predicted_rewards(self, x: Tensor, privileged: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``forward``, and the predicted rewards of every action, (B, T, A); (B, T, 0) if the policy predicts none."""
        y = self.policy(x)
        A = self.actions.outputs
        if self.value is None:
            value = y[..., -1]
        else:
            value = self.value(x if privileged is None else torch.cat([x, privileged], dim=-1))[..., 0]
        return self.actions.parameters_of(y[..., :A]), value, y[..., A : A + self.num_predicted]

    def init_cache(self, batch_size: int, max_len: int) -> Any:
        """The policy's cache before the first step."""
        return self.policy.init_cache(batch_size, max_len)

    def act(self, x_t: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """One step of the policy alone: (B, C), cache -> parameters of the action head (B, P), cache.

        Acting needs no values; after the trial, ``forward`` computes all of them in parallel.
        """
        y, cache = self.policy.step(x_t, cache)
        return self.actions.parameters_of(y[:, : self.actions.outputs]), cache

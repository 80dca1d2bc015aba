"""Acting and judging with memory: a policy and a value function over any sequence model (RL^2, Duan et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.sequence import SequenceModel


class ActorCritic(nn.Module):
    """Policy and value of an agent that sees what it did and what came of it.

    Each step's input is RL^2's: the observation, the previous action, the previous reward and whether an episode has
    just ended. Before the first action that is action 0, reward 0, flag 1.

    The policy may also predict the reward of every action, to learn what to remember (an auxiliary task, Jaderberg et
    al. 2017); nothing of that is needed for acting.

    Args:
        policy: reads ``input_size(...)`` channels; writes ``num_actions`` logits, ``num_actions`` more if it
            predicts rewards, and one more with a shared trunk.
        value: reads the same and, in training, what it is told of the task; writes 1. None for a trunk shared with the
            policy, whose last output is then the value.
        num_observations: size of the one-hot observation; 1 where there is nothing to observe (no channel then).
        num_actions: actions A.
    """

    def __init__(self, policy: SequenceModel, value: SequenceModel | None, num_observations: int, num_actions: int):
        super().__init__()
        self.policy, self.value = policy, value
        self.num_observations, self.num_actions = num_observations, num_actions
        self.num_predicted = policy.output_size - num_actions - (value is None)

    @staticmethod
    def input_size(num_observations: int, num_actions: int) -> int:
        """Channels C of a step's input."""
        return (num_observations if num_observations > 1 else 0) + num_actions + 2

    def encode(self, observation: Tensor, action: Tensor, reward: Tensor, episode_end: Tensor) -> Tensor:
        """Observation, previous action (integers), previous reward and end flag, each (...,) -> (..., C)."""
        parts = [F.one_hot(action, self.num_actions).float(), reward[..., None], episode_end[..., None].float()]
        if self.num_observations > 1:
            parts.insert(0, F.one_hot(observation, self.num_observations).float())
        return torch.cat(parts, dim=-1)

    def observations(self, x: Tensor) -> Tensor:
        """The observations that inputs were encoded from: (..., C) -> (...) integers."""
        shown = x[..., : self.num_observations] if self.num_observations > 1 else x[..., :1]
        return shown.argmax(-1)

    def first_input(self, observation: Tensor) -> Tensor:
        """The input before the first action, for observations (B,): (B, C)."""
        reward = torch.zeros(observation.shape, device=observation.device)
        return self.encode(observation, torch.zeros_like(observation), reward, torch.ones_like(reward))

    def forward(self, x: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All steps in parallel: (B, T, C) -> logits (B, T, A), values (B, T).

        told: (B, T, F) what the value network alone is told of the task, where it was built for that.
        """
        logits, values, _ = self.with_predicted_rewards(x, told)
        return logits, values

    def with_predicted_rewards(self, x: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``forward``, and the predicted rewards of every action, (B, T, A); (B, T, 0) if the policy predicts none."""
        y = self.policy(x)
        A = self.num_actions
        if self.value is None:
            value = y[..., -1]
        else:
            value = self.value(x if told is None else torch.cat([x, told], dim=-1))[..., 0]
        return y[..., :A], value, y[..., A : A + self.num_predicted]

    def init_cache(self, batch_size: int, max_len: int) -> Any:
        """The policy's state before the first step."""
        return self.policy.init_cache(batch_size, max_len)

    def act(self, x_t: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """One step of the policy alone: (B, C), cache -> logits (B, A), cache.

        Acting needs no values; for a finished trial ``forward`` has them all at once, at a fraction of the cost.
        """
        y, cache = self.policy.step(x_t, cache)
        return y[:, : self.num_actions], cache

"""A lower bound for every environment: uniformly random actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from baselines.classical_agent import ClassicalAgent
from envs.gym_trials import GymTrialVectorEnv
from envs.trials import TrialVectorEnv


@dataclass(frozen=True)
class RandomActions(ClassicalAgent):
    """Draws actions uniformly from the space."""

    def play(
        self, env: TrialVectorEnv | GymTrialVectorEnv, generator: torch.Generator, tasks: Tensor | None = None
    ) -> Tensor:
        """Play one trial in every row of ``env``: (B, T) rewards, 0 once a trial is over."""
        space, B, device = env.single_action_space, env.num_envs, env.device
        env.reset(options=None if tasks is None else {"tasks": tasks})
        rewards = []
        for _ in range(env.horizon):
            if isinstance(space, Box):
                low, high = torch.as_tensor(space.low, device=device), torch.as_tensor(space.high, device=device)
                actions = low + (high - low) * torch.rand(B, *space.shape, generator=generator, device=device)
            else:
                assert isinstance(space, Discrete)
                actions = torch.randint(int(space.n), (B,), generator=generator, device=device)
            rewards.append(env.step(actions)[1])
        return torch.stack(rewards, dim=1)

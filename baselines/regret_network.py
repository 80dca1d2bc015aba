"""The expected regret of an agent from a belief state on: a network that treats arms as a set.

Its value does not depend on the order of the arms (Deep Sets, Zaheer et al. 2017, arXiv:1703.06114). One more pull
changes one term of a sum, so the values after all pulls and both outcomes cost little more than those of the states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RegretNetwork(nn.Module):
    """Expected regret from now to the end of a trial, given what is known of the arms of a Bernoulli bandit.

    Args:
        horizon: pulls N of the longest trial.
        arm_features: of each arm, which are added.
        hidden_size: units of the layers after that.
    """

    def __init__(self, horizon: int, arm_features: int = 32, hidden_size: int = 64):
        super().__init__()
        self.horizon = horizon
        self.of_arm = nn.Sequential(nn.Linear(6, arm_features), nn.SiLU())
        self.of_sum = nn.Linear(arm_features + 2, hidden_size)
        self.together = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, 1), nn.Softplus()
        )

    def forward(self, pulls: Tensor, wins: Tensor, left: Tensor) -> Tensor:
        """Regrets of belief states.

        Args:
            pulls: (..., K) pulls of each arm so far.
            wins: (..., K) their successes.
            left: (...) pulls that are left.

        Returns:
            (...), at least 0; 0 if none is left.
        """
        return self._regret(self._terms(pulls, wins, left).sum(-2), left)

    def after_pulls(self, pulls: Tensor, wins: Tensor, left: Tensor) -> Tensor:
        """Expected regret after the next pull, of each arm: (..., K), from arguments as of `forward`."""
        later = left - 1
        present = self._terms(pulls, wins, later)  # (..., K, F): nothing but the time has changed
        others = present.sum(-2, keepdim=True) - present
        lost = self._regret(others + self._terms(pulls + 1, wins, later), later[..., None])
        won = self._regret(others + self._terms(pulls + 1, wins + 1, later), later[..., None])
        return torch.lerp(lost, won, (1 + wins) / (2 + pulls))

    def _terms(self, pulls: Tensor, wins: Tensor, left: Tensor) -> Tensor:
        """What each arm adds to the sum: (..., K, F)."""
        mean = (1 + wins) / (2 + pulls)
        spread = (mean * (1 - mean) / (3 + pulls)).sqrt()  # of the posterior
        time = [x[..., None].expand_as(pulls) for x in self._scaled(left)]
        features = [4 * mean - 2, 6 * spread - 1, *self._scaled(pulls), *time]
        return self.of_arm(torch.stack(features, dim=-1)) / math.sqrt(pulls.shape[-1])

    def _regret(self, total: Tensor, left: Tensor) -> Tensor:
        """(..., F), left broadcast with (...) -> (...)."""
        time = torch.stack(self._scaled(left.expand(total.shape[:-1])), dim=-1)
        return self.together(self.of_sum(torch.cat([total, time], dim=-1)))[..., 0] * left.sqrt()

    def _scaled(self, steps: Tensor) -> list[Tensor]:
        """A number of steps as a fraction of the horizon, and on a logarithmic scale."""
        return [steps / self.horizon, steps.log1p() / math.log1p(self.horizon)]

"""Values of all actions in the belief states of tabular MDPs: plans, corrected by a network.

What has been seen in a trial makes the posterior of its MDP known. Plans in the mean MDP of the posterior say what
acting on present knowledge is worth; plans in which actions that were rarely tried pay a bonus (Kolter and Ng 2009,
"Near-Bayesian exploration in polynomial time", ICML) say where there is something to learn. A small network that
treats actions as a set learns from trials how the values differ from those of the first plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.beliefs import STEPS_AT_ONCE, seen_before
from baselines.planning import value_iteration

BONUSES = (0.0, 1.0, 4.0)
"""Of the plans: an action that was taken n times pays ``bonus / (1 + n)`` more. The first is none."""

ACTION_FEATURES = len(BONUSES) + 3
STATE_FEATURES = 2 * len(BONUSES) + 3


@dataclass(frozen=True)
class MDPPlans:
    """What planning says of T steps of B trials, before each of them.

    of_actions: (B, T, A, ACTION_FEATURES) of all actions in the current state: by how much their value is below that
        of the best one in each plan, their posterior mean reward, and how often they were taken.
    of_states: (B, T, STATE_FEATURES): the values of each plan from here and of a whole episode, the time, and the
        fraction of states and actions that were tried.
    planned: (B, T) expected reward from here to the end of the trial, if nothing more is learned.
    means: (B, T, A) posterior means of the rewards of all actions in the current state.
    """

    of_actions: Tensor
    of_states: Tensor
    planned: Tensor
    means: Tensor


def mdp_plans(
    states: Tensor, actions: Tensor, rewards: Tensor, num_states: int, num_actions: int, episode_length: int
) -> MDPPlans:
    """Plans before each step, with the priors of `envs.mdps`.

    Args:
        states: (B, T) states.
        actions: (B, T) actions taken in them.
        rewards: (B, T) their rewards.
        num_states: S.
        num_actions: A.
        episode_length: steps H of an inner episode.
    """
    # a part of the trials at a time, since each step of each trial has statistics of its own
    parts = torch.arange(len(states), device=states.device).split(max(1, STEPS_AT_ONCE // states.shape[1]))
    sizes = num_states, num_actions, episode_length
    found = [vars(_plans(states[rows], actions[rows], rewards[rows], *sizes)).values() for rows in parts]
    return MDPPlans(*(torch.cat(x) for x in zip(*found, strict=True)))


def _plans(states: Tensor, actions: Tensor, rewards: Tensor, S: int, A: int, H: int) -> MDPPlans:
    B, T = states.shape
    seen = seen_before(states, actions, rewards, S, A, H)
    chances, means = seen.mean_chances(), seen.mean_rewards(prior_mean=1.0)  # (B T, S, A, S), (B T, S, A)
    step = torch.arange(T, device=states.device).repeat(B)
    rows, now, h, later = torch.arange(B * T, device=states.device), states.flatten(), step % H, (T - 1 - step) // H
    of_actions, here, whole = [], [], []
    for bonus in BONUSES:
        values = value_iteration(chances, means + bonus / (1 + seen.visits), H)  # (B T, H, S, A)
        of_actions.append(values[rows, h, now])  # (B T, A)
        here.append(of_actions[-1].amax(-1))
        whole.append(values[:, 0, 0].amax(-1))
    visits = seen.visits[rows, now]  # (B T, A)
    features = [q - v[:, None] for q, v in zip(of_actions, here, strict=True)]
    features += [means[rows, now] - 1, 1 / (1 + visits), visits.log1p() / 2]
    left = (H - h).to(rewards.dtype)
    gains = [(v - x[0]) / H for x in (here, whole) for v in x[1:]]
    time = [h / H, later / (T // H), (seen.visits > 0).to(rewards.dtype).mean((1, 2))]
    of_states = [here[0] / left - 1.3, whole[0] / H - 1.5, *gains, *time]
    return MDPPlans(
        torch.stack(features, dim=-1).view(B, T, A, -1),
        torch.stack(of_states, dim=-1).view(B, T, -1),
        (here[0] + later * whole[0]).view(B, T),
        means[rows, now].view(B, T, A),
    )


class MDPValueNetwork(nn.Module):
    """Expected reward from here to the end of a trial after each action, given plans.

    Args:
        episodes: inner episodes of a trial, which set the scale of the correction.
        hidden_size: units of each layer.
    """

    def __init__(self, episodes: int, hidden_size: int = 64):
        super().__init__()
        self.scale = episodes**0.5
        self.first = nn.Linear(ACTION_FEATURES + STATE_FEATURES, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        self.of_all = nn.Linear(hidden_size, hidden_size, bias=False)
        self.advantage = nn.Linear(hidden_size, 1)
        self.value = nn.Linear(hidden_size, 1)

    def forward(self, of_actions: Tensor, of_states: Tensor, planned: Tensor) -> Tensor:
        """(..., A, ACTION_FEATURES), (..., STATE_FEATURES), (...) of `MDPPlans` -> (..., A)."""
        shared = of_states[..., None, :].expand(*of_actions.shape[:-1], STATE_FEATURES)
        x = functional.silu(self.first(torch.cat([of_actions, shared], dim=-1)))  # (..., A, hidden_size)
        x = functional.silu(self.second(x) + self.of_all(x.mean(-2, keepdim=True)))
        advantages = self.advantage(x)[..., 0]
        values = self.value(x.mean(-2)) + advantages - advantages.mean(-1, keepdim=True)
        return planned[..., None] + self.scale * values

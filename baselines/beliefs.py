"""Belief states: what Bayes' rule makes of a trial so far.

The value of what an agent will do depends on the task and on what can be known after its history, so a small network
that reads features of both can replace a second memory that has to be learned. Only the critic of training reads
them. Critics that know more than the agent: Pinto et al. (2018), "Asymmetric actor critic for image-based robot
learning", arXiv:1710.06542.

Posterior means of rewards are also targets of an auxiliary task: an agent that predicts them has learned to remember
what matters. Beliefs as targets: Humplik et al. (2019), "Meta reinforcement learning as task inference",
arXiv:1905.06424.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from baselines.mdps import Statistics
from baselines.planning import policy_value, value_iteration

STEPS_AT_ONCE = 4096
"""Steps of MDPs planned in at the same time."""


def bandit_posterior_means(actions: Tensor, rewards: Tensor, arms: int) -> Tensor:
    """Posterior means of the success probabilities of Bernoulli bandits before each pull, under a uniform prior.

    Args:
        actions: (B, N) arms pulled.
        rewards: (B, N) their rewards.
        arms: K.

    Returns:
        (B, N, K).
    """
    pulls, wins = pulls_and_wins(actions, rewards, arms)
    return (1 + wins) / (2 + pulls)


def pulls_and_wins(actions: Tensor, rewards: Tensor, arms: int) -> tuple[Tensor, Tensor]:
    """Pulls of each arm of Bernoulli bandits and their successes, before each pull.

    Args:
        actions: (B, N) arms pulled.
        rewards: (B, N) their rewards.
        arms: K.

    Returns:
        (B, N, K) each.
    """
    pulled = functional.one_hot(actions, arms).to(rewards.dtype)  # (B, N, K)
    won = pulled * rewards[..., None]
    return pulled.cumsum(1) - pulled, won.cumsum(1) - won


def bandit_expected_best(actions: Tensor, rewards: Tensor, arms: int, points: int = 128) -> Tensor:
    """The posterior mean of the largest success probability of Bernoulli bandits, before each pull.

    ``E[max p] = 1 - integral_0^1 prod_k F_k(x) dx``, by Gauss-Legendre quadrature, where F_k is the distribution
    function of arm k's posterior, a beta distribution under a uniform prior. One more outcome changes it by

        I_x(a + 1, b) = I_x(a, b) - x^a (1 - x)^b / (a B(a, b))
        I_x(a, b + 1) = I_x(a, b) + x^a (1 - x)^b / (b B(a, b))

    Args:
        actions: (B, N) arms pulled.
        rewards: (B, N) their rewards.
        arms: K.
        points: of the quadrature.

    Returns:
        (B, N).
    """
    nodes, weights = (torch.from_numpy(x).to(actions.device) for x in np.polynomial.legendre.leggauss(points))
    x, weights = (nodes + 1) / 2, weights / 2  # on [0, 1]
    shape, rows = (len(actions), arms, points), torch.arange(len(actions), device=actions.device)
    below = x.expand(shape).clone()  # I_x(a, b)
    change = (x * (1 - x)).expand(shape).clone()  # x^a (1 - x)^b / B(a, b)
    a, b = (torch.ones(shape[:2], dtype=x.dtype, device=x.device) for _ in range(2))
    found = []
    for arm, won in zip(actions.T, (rewards.T > 0).to(x.dtype), strict=True):
        found.append(1 - below.prod(1) @ weights)
        now = (rows, arm)
        won = won[:, None]
        wins, losses, size = a[now][:, None], b[now][:, None], change[now]
        below[now] += torch.where(won > 0, -size / wins, size / losses)
        change[now] = size * (wins + losses) * torch.where(won > 0, x / wins, (1 - x) / losses)
        a[now] += won[:, 0]
        b[now] += 1 - won[:, 0]
    return torch.stack(found, dim=1).to(rewards.dtype)


def mdp_posterior_means(states: Tensor, actions: Tensor, rewards: Tensor, num_states: int, num_actions: int) -> Tensor:
    """Posterior means of the mean rewards of all actions in the current state of an MDP, before each step.

    The prior of mean rewards is normal with mean and variance 1, and so is the noise of rewards: `envs.mdps`.

    Args:
        states: (B, T) states.
        actions: (B, T) actions taken in them.
        rewards: (B, T) their rewards.
        num_states: S.
        num_actions: A.

    Returns:
        (B, T, A).
    """
    pair = functional.one_hot(states * num_actions + actions, num_states * num_actions).to(rewards.dtype)
    earned = pair * rewards[..., None]
    visits, sums = pair.cumsum(1) - pair, earned.cumsum(1) - earned  # (B, T, S A)
    means = ((1 + sums) / (1 + visits)).unflatten(-1, (num_states, num_actions))
    return means.gather(2, states[..., None, None].expand(*states.shape, 1, num_actions))[:, :, 0]


def bandit_belief_size(arms: int) -> int:
    """Channels of `bandit_belief`."""
    return 4 * arms + 1


def bandit_belief(tasks: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """The belief states of Bernoulli bandits before each pull.

    Of each arm, from the best to the worst: its success probability, the posterior mean of it under a uniform prior,
    the pulls so far divided by N, and their logarithm divided by that of N. Last, the fraction of the trial that has
    passed.

    Args:
        tasks: (B, K) success probabilities.
        actions: (B, N) arms pulled.
        rewards: (B, N) their rewards.

    Returns:
        (B, N, 4 K + 1).
    """
    (B, N), K = actions.shape, tasks.shape[1]
    pulls, wins = pulls_and_wins(actions, rewards, K)
    features = [tasks[:, None].expand(B, N, K), (1 + wins) / (2 + pulls), pulls / N, pulls.log1p() / math.log1p(N)]
    of_arms = torch.stack(features, dim=-1)  # (B, N, K, 4)
    order = tasks.argsort(dim=1, descending=True)[:, None, :, None].expand_as(of_arms)
    passed = torch.arange(N, device=actions.device)[:, None].expand(B, N, 1) / N
    return torch.cat([of_arms.gather(2, order).flatten(2), passed], dim=-1)


def mdp_belief_size(actions: int) -> int:
    """Channels of `mdp_belief`."""
    return 4 * actions + 6


def mdp_belief(tasks: Tensor, states: Tensor, actions: Tensor, rewards: Tensor, episode_length: int) -> Tensor:
    """The belief states of tabular MDPs before each step, summarised by planning.

    Of each action in the current state: its optimal value in the MDP, its optimal value in the mean MDP of the
    posterior (with the priors of `baselines.mdps`), its mean reward, and the logarithm of the times it was taken,
    divided by that of the trial's length. Then what the plan that is optimal in the mean MDP earns in the real one,
    from here to the end of the episode and in a whole episode; the optimal value of an episode; the fraction of states
    and actions that were tried; and the fractions of the episode and of the trial that have passed. Values are divided
    by the length of an episode.

    Args:
        tasks: (B, S, A, S + 1) transition probabilities, then mean rewards.
        states: (B, T) states.
        actions: (B, T) actions taken in them.
        rewards: (B, T) their rewards.
        episode_length: steps H of an inner episode.

    Returns:
        (B, T, 4 A + 6).
    """
    # a part of the trials at a time, since each step of each trial has statistics of its own
    parts = torch.arange(len(states), device=states.device).split(max(1, STEPS_AT_ONCE // states.shape[1]))
    found = [_mdp_belief(tasks[rows], states[rows], actions[rows], rewards[rows], episode_length) for rows in parts]
    return torch.cat(found)


def _mdp_belief(tasks: Tensor, states: Tensor, actions: Tensor, rewards: Tensor, H: int) -> Tensor:
    B, T = states.shape
    step = torch.arange(T, device=tasks.device)
    S, A = tasks.shape[1:3]
    before = seen_before(states, actions, rewards, S, A, H)
    repeated = tasks.repeat_interleave(T, dim=0)
    believed = value_iteration(before.mean_chances(), before.mean_rewards(prior_mean=1.0), H)  # (B T, H, S, A)
    earned = policy_value(repeated[..., :-1], repeated[..., -1], believed.argmax(-1))  # (B T, H, S)
    optimal = value_iteration(tasks[..., :-1], tasks[..., -1], H)  # (B, H, S, A)
    rows, now, h = torch.arange(B * T, device=tasks.device), states.flatten(), (step % H).repeat(B)
    trial = rows // T
    of_actions = [optimal[trial, h, now] / H, believed[rows, h, now] / H, tasks[trial, now, :, -1]]
    of_actions += [before.visits[rows, now].log1p() / math.log1p(T)]
    values = torch.stack([earned[rows, h, now], earned[:, 0, 0], optimal[trial, 0, 0].amax(-1)], dim=1) / H
    tried = (before.visits > 0).to(rewards.dtype).mean((1, 2))
    last = torch.stack([tried, h / H, step.repeat(B) / T], dim=1)
    return torch.cat([*of_actions, values, last], dim=1).view(B, T, -1)


def seen_before(
    states: Tensor, actions: Tensor, rewards: Tensor, num_states: int, num_actions: int, episode_length: int
) -> Statistics:
    """What was seen of an MDP before each step, as B T rows.

    Args:
        states: (B, T) states.
        actions: (B, T) actions taken in them.
        rewards: (B, T) their rewards.
        num_states: S.
        num_actions: A.
        episode_length: steps H of an inner episode, whose last step shows no next state.
    """
    (B, T), S, A, H = states.shape, num_states, num_actions, episode_length
    pair = functional.one_hot(states * A + actions, S * A).to(rewards.dtype)  # (B, T, S A)
    following = functional.one_hot(states.roll(-1, dims=1), S).to(rewards.dtype)  # (B, T, S)
    following[:, H - 1 :: H] = 0
    transitions = pair[..., None] * following[:, :, None]  # (B, T, S A, S)

    def before(x: Tensor, *shape: int) -> Tensor:
        return (x.cumsum(1) - x).view(B * T, *shape)

    return Statistics(before(transitions, S, A, S), before(pair, S, A), before(pair * rewards[..., None], S, A))

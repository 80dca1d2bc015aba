"""Exact planning in known tabular MDPs with a finite horizon, for many MDPs at once.

B MDPs of S states and A actions are given by ``chances`` (B, S, A, S), the probability of each next state, and
``rewards`` (B, S, A), the mean reward. Decisions are numbered h = 0 .. H - 1, and nothing is earned after the
last of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def value_iteration(chances: Tensor, rewards: Tensor, horizon: int) -> Tensor:
    """Optimal values of all actions, by backward induction:

        Q_h(s, a) = r(s, a) + sum_s' P(s' | s, a) max_a' Q_{h+1}(s', a'),    Q_H = 0

    Source: Bellman (1957), "Dynamic programming"; Puterman (1994), "Markov decision processes", section 4.5.

    Args:
        chances: (B, S, A, S) transition probabilities.
        rewards: (B, S, A) mean rewards.
        horizon: Decisions H.

    Returns:
        (B, H, S, A) expected sum of rewards from decision h on, if ``a`` is taken in ``s`` and all is optimal after.
    """
    B, S, A = rewards.shape
    values = rewards.new_zeros(B, S)
    q = rewards.new_empty(B, horizon, S, A)
    for h in reversed(range(horizon)):
        q[:, h] = rewards + _expectation(chances, values)
        values = q[:, h].amax(-1)  # (B, S)
    return q


def extended_value_iteration(chances: Tensor, rewards: Tensor, radius: Tensor, horizon: int) -> Tensor:
    """Optimal values in the best of all MDPs whose transition probabilities lie near the given ones:

        Q_h(s, a) = r(s, a) + max { p . V_{h+1} : |p - P(. | s, a)|_1 <= d(s, a) },    V_h(s) = max_a Q_h(s, a)

    Source: Jaksch, Ortner and Auer (2010), "Near-optimal regret bounds for reinforcement learning", JMLR 11,
    section 3.1, here with a finite horizon.

    Args:
        chances: (B, S, A, S) transition probabilities P.
        rewards: (B, S, A) mean rewards, already the most that is plausible.
        radius: (B, S, A) L1 distance d.
        horizon: Decisions H.

    Returns:
        (B, H, S, A), as in `value_iteration`.
    """
    B, S, A = rewards.shape
    values = rewards.new_zeros(B, S)
    q = rewards.new_empty(B, horizon, S, A)
    for h in reversed(range(horizon)):
        q[:, h] = rewards + optimistic_expectation(chances, radius, values)
        values = q[:, h].amax(-1)  # (B, S)
    return q


def optimistic_expectation(chances: Tensor, radius: Tensor, values: Tensor) -> Tensor:
    """Largest expectation of ``values`` under any distribution within an L1 ball.

    Half of the radius may be added to the best state, and as much must be taken away, from the worst states
    first. Source: Jaksch, Ortner and Auer (2010), figure 2.

    Args:
        chances: (B, S, A, S) distributions in the middle of the balls.
        radius: (B, S, A) L1 radii, at least 0; any above 2 allows all distributions.
        values: (B, S) values of next states.

    Returns:
        (B, S, A) max of p . values over distributions p with |p - chances|_1 <= radius.
    """
    values, order = values.sort(-1)  # (B, S), from worst to best
    p = chances.gather(-1, order[:, None, None].expand_as(chances))  # (B, S, A, S)
    moved = torch.minimum(radius[..., None] / 2, 1 - p[..., -1:]).clamp(min=0)  # (B, S, A, 1)
    # each state gives up the mass that worse states could not provide, as far as it has any
    taken = (moved - (p.cumsum(-1) - p)).clamp(min=0).minimum(p)  # (B, S, A, S)
    return _expectation(p - taken, values) + moved[..., 0] * values[:, -1, None, None]


def policy_value(chances: Tensor, rewards: Tensor, policy: Tensor) -> Tensor:
    """Exact value of a deterministic policy that may change with time:

        V_h(s) = r(s, a) + sum_s' P(s' | s, a) V_{h+1}(s'),    a = policy_h(s),    V_H = 0

    Source: Puterman (1994), "Markov decision processes", section 4.2.

    Args:
        chances: (B, S, A, S) transition probabilities.
        rewards: (B, S, A) mean rewards.
        policy: (B, H, S) int64 actions.

    Returns:
        (B, H, S) expected sum of rewards from decision h on.
    """
    B, H, S = policy.shape
    later = rewards.new_zeros(B, S)
    values = rewards.new_empty(B, H, S)
    for h in reversed(range(H)):
        q = rewards + _expectation(chances, later)  # (B, S, A)
        later = values[:, h] = q.gather(-1, policy[:, h, :, None]).squeeze(-1)  # (B, S)
    return values


def optimal_value(tasks: Tensor, horizon: int) -> Tensor:
    """Optimal expected return of one inner episode that starts in state 0, with the MDP known.

    Args:
        tasks: (B, S, A, S + 1) as in `envs.mdps.TabularMDPVectorEnv`: probabilities, then mean rewards.
        horizon: Steps H of one inner episode.

    Returns:
        (B,) expected sum of rewards.
    """
    return value_iteration(tasks[..., :-1], tasks[..., -1], horizon)[:, 0, 0].amax(-1)


def _expectation(chances: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values`` (B, S) under distributions ``chances`` (B, S, A, S): (B, S, A)."""
    return torch.einsum("bsan,bn->bsa", chances, values)

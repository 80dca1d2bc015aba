"""Planners against enumeration: of all policies, of all distributions on a grid, of all corners of a ball."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.planning import (
    extended_value_iteration,
    optimal_value,
    optimistic_expectation,
    policy_value,
    value_iteration,
)


def random_mdps(B: int, S: int, A: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(B, S, A, S, dtype=torch.float64).exponential_(generator=generator)
    rewards = torch.randn(B, S, A, dtype=torch.float64, generator=generator)
    return weights / weights.sum(-1, keepdim=True), rewards


def all_policies(H: int, S: int, A: int) -> np.ndarray:
    """(A^(H S), H, S): every deterministic policy that may change with time."""
    return np.array(list(product(range(A), repeat=H * S))).reshape(-1, H, S)


def value_forwards(chances: np.ndarray, rewards: np.ndarray, policy: np.ndarray, start: int, first: int = 0) -> float:
    """Value of one policy in one MDP by following the distribution of states *forwards* in time.

    ``chances`` is (S, A, S), or (H, S, A, S) if it changes with time.
    """
    H, S = policy.shape
    if chances.ndim == 3:
        chances = np.stack([chances] * H)
    here = np.eye(S)[start]
    total = 0.0
    for h in range(first, H):
        actions = policy[h]
        total += sum(here[s] * rewards[s, actions[s]] for s in range(S))
        here = sum(here[s] * chances[h, s, actions[s]] for s in range(S))
    return total


def test_value_iteration_agrees_with_search_over_all_policies() -> None:
    B, H, S, A = 4, 3, 2, 2
    chances, rewards = random_mdps(B, S, A)
    q = value_iteration(chances, rewards, H)
    assert q.shape == (B, H, S, A)
    policies = all_policies(H, S, A)
    for b, h, s, a in product(range(B), range(H), range(S), range(A)):
        P, r = chances[b].numpy(), rewards[b].numpy()
        best = max(value_forwards(P, r, policy, s, first=h) for policy in policies if policy[h, s] == a)
        assert q[b, h, s, a].item() == pytest.approx(best, abs=1e-12)


def test_policy_value_agrees_with_following_the_states_forwards() -> None:
    H, S, A = 3, 2, 2
    chances, rewards = random_mdps(2, S, A, seed=1)
    policies = all_policies(H, S, A)
    for b in range(2):
        n = len(policies)
        many = [x[b].expand(n, *x.shape[1:]) for x in (chances, rewards)]
        values = policy_value(*many, torch.from_numpy(policies))
        assert values.shape == (n, H, S)
        for i, h, s in product(range(n), range(H), range(S)):
            expected = value_forwards(chances[b].numpy(), rewards[b].numpy(), policies[i], s, first=h)
            assert values[i, h, s].item() == pytest.approx(expected, abs=1e-12)


def test_optimal_actions_are_worth_the_optimal_value() -> None:
    chances, rewards = random_mdps(50, 6, 3)
    q = value_iteration(chances, rewards, 7)
    torch.testing.assert_close(policy_value(chances, rewards, q.argmax(-1)), q.amax(-1))


def test_values_by_hand() -> None:
    # State 0: stay for 1 a step, or move for nothing to state 1, which pays 2 a step for ever.
    chances = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    rewards = torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    tasks = torch.cat([chances, rewards[..., None]], dim=-1)[None]
    assert [optimal_value(tasks, horizon).item() for horizon in (1, 2, 3, 4)] == [1, 2, 4, 6]
    q = value_iteration(chances[None], rewards[None], 3)[0]
    assert q[:, 0].tolist() == [[3, 4], [2, 2], [1, 0]]
    assert q[:, 1].tolist() == [[6, 6], [4, 4], [2, 2]]


def test_many_mdps_are_solved_each_on_its_own() -> None:
    chances, rewards = random_mdps(5, 4, 3)
    together = value_iteration(chances, rewards, 4)
    alone = torch.cat([value_iteration(chances[b : b + 1], rewards[b : b + 1], 4) for b in range(5)])
    torch.testing.assert_close(together, alone)


def test_optimistic_expectation_agrees_with_search_over_a_grid() -> None:
    # Centre and radius lie on the grid of all distributions in steps of 1/n, and with them the maximum.
    n, S, A, B = 12, 4, 3, 5
    generator = np.random.default_rng(0)
    grid = np.array([p for p in product(range(n + 1), repeat=S) if sum(p) == n]) / n  # (G, S)
    chances = grid[generator.integers(len(grid), size=(B, S, A))]
    radius = 2 * generator.integers(n + 3, size=(B, S, A)) / n  # up to beyond 2, where all is allowed
    radius[0, 0], radius[0, 1] = 0, 2
    values = generator.normal(size=(B, S))
    values[1, 0] = values[1, 2]  # a tie
    result = optimistic_expectation(*map(torch.from_numpy, (chances, radius, values)))
    for b, s, a in np.ndindex(B, S, A):
        near = np.abs(grid - chances[b, s, a]).sum(-1) <= radius[b, s, a] + 1e-9
        assert result[b, s, a].item() == pytest.approx((grid[near] @ values[b]).max(), abs=1e-9)


def test_optimistic_expectation_bounds_every_distribution_in_the_ball() -> None:
    B, S, A, n = 20, 5, 3, 400
    generator = torch.Generator().manual_seed(0)
    chances, _ = random_mdps(B, S, A)
    values = torch.randn(B, S, dtype=torch.float64, generator=generator)
    others, _ = random_mdps(n, S, A, seed=1)
    radius = (others[:, None] - chances).abs().sum(-1)  # (n, B, S, A)
    for other, distance in zip(others, radius, strict=True):
        bound = optimistic_expectation(chances, distance, values)
        assert (torch.einsum("san,bn->bsa", other, values) <= bound + 1e-12).all()


def test_extended_value_iteration_agrees_with_search_over_policies_and_mdps() -> None:
    # With two states a ball is an interval of P(1), and the best MDP is at one of its ends in each state and step.
    B, H, S, A = 2, 3, 2, 2
    chances, rewards = random_mdps(B, S, A, seed=2)
    radius = torch.rand(B, S, A, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = extended_value_iteration(chances, rewards, radius, H)
    assert q.shape == (B, H, S, A)
    for b in range(B):
        middle, half, r = chances[b, ..., 1].numpy(), radius[b].numpy() / 2, rewards[b].numpy()
        ends = np.stack([np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)])  # (2, S, A)
        best = np.full((S, A), -np.inf)
        for policy in all_policies(H, S, A):
            for choice in product((0, 1), repeat=(H - 1) * S):  # the last step leads nowhere that matters
                up = np.zeros((H, S, A))
                for h, s in product(range(H - 1), range(S)):
                    up[h, s] = ends[choice[h * S + s], s]
                P = np.stack([1 - up, up], axis=-1)  # (H, S, A, S)
                for s in range(S):
                    a = policy[0, s]
                    best[s, a] = max(best[s, a], value_forwards(P, r, policy, s))
        np.testing.assert_allclose(q[b, 0].numpy(), best, atol=1e-12)


def test_extended_value_iteration_without_slack_is_value_iteration() -> None:
    chances, rewards = random_mdps(10, 5, 3)
    torch.testing.assert_close(
        extended_value_iteration(chances, rewards, torch.zeros_like(rewards), 6), value_iteration(chances, rewards, 6)
    )

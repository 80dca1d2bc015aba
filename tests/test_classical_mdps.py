"""Classical learners of tabular MDPs: their statistics, their decisions, and what they earn."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.mdps import (
    BEB,
    OPSRL,
    PSRL,
    UCRL2,
    EpsilonGreedyPolicy,
    GreedyPolicy,
    MDPMethod,
    Oracle,
    RandomPolicy,
    Statistics,
)
from baselines.planning import optimal_value, policy_value, value_iteration
from envs import BernoulliBanditVectorEnv, TabularMDPVectorEnv

LEARNERS: list[MDPMethod] = [GreedyPolicy(), EpsilonGreedyPolicy(), PSRL(), OPSRL(), BEB(), UCRL2()]
METHODS: list[MDPMethod] = [RandomPolicy(), *LEARNERS, Oracle()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(num_envs: int, episodes: int = 10, seed: int = 0, **kwargs: Any) -> TabularMDPVectorEnv:
    mdps = TabularMDPVectorEnv(num_envs, episodes=episodes, autoreset_mode="Disabled", **kwargs)
    mdps.reset(seed=seed)
    return mdps


def some_statistics(B: int = 50, S: int = 4, A: int = 3, most: int = 6) -> Statistics:
    tasks = TabularMDPVectorEnv(B, S, A).sample_tasks(B, generator(1))
    transitions = torch.randint(most, (B, S, A, S), generator=generator(2)).float()
    visits = transitions.sum(-1) + torch.randint(2, (B, S, A), generator=generator(3))
    sums = visits * tasks[..., -1] + visits.sqrt() * torch.randn(B, S, A, generator=generator(4))
    return Statistics(transitions, visits, sums, tasks)


def mean_and_error(x: Tensor) -> tuple[float, float]:
    return x.mean().item(), x.std().item() / len(x) ** 0.5


class Recording(TabularMDPVectorEnv):
    """Keeps (states, actions, rewards, observations) of every step."""

    def step(self, actions: Any) -> Any:
        before = self._observations.clone()
        result = super().step(actions)
        self.steps.append((before, torch.as_tensor(actions).clone(), result[1].clone(), result[0].clone()))
        return result

    def reset(self, **kwargs: Any) -> Any:
        self.steps: list[tuple[Tensor, ...]] = []
        return super().reset(**kwargs)


class Watching(PSRL):
    """Keeps what it was shown at each plan, and its plans."""

    def plan(self, seen: Statistics, horizon: int, generator: torch.Generator) -> Tensor:
        policy = super().plan(seen, horizon, generator)
        PLANS.append((Statistics(*(x.clone() for x in vars(seen).values())), policy))
        return policy


PLANS: list[tuple[Statistics, Tensor]] = []


def test_posterior_by_hand() -> None:
    tasks = TabularMDPVectorEnv(2, states=2, actions=2).sample_tasks(2, generator())
    seen = Statistics.none(tasks)
    assert torch.equal(seen.mean_chances(), torch.full((2, 2, 2, 2), 0.5))
    assert torch.equal(seen.mean_rewards(3.0), torch.full((2, 2, 2), 3.0))
    # Row 0 takes action 1 in state 0 three times; row 1 something else, which is not to be seen in row 0.
    for reward, after in [(2.0, 1), (4.0, 1), (6.0, None)]:
        seen.add(
            torch.tensor([0, 1]),
            torch.tensor([1, 0]),
            torch.tensor([reward, -1.0]),
            None if after is None else torch.tensor([after, 0]),
        )
    assert seen.visits.tolist() == [[[0, 3], [0, 0]], [[0, 0], [3, 0]]]
    assert seen.reward_sums.tolist() == [[[0, 12], [0, 0]], [[0, 0], [-3, 0]]]
    assert seen.transitions[0].tolist() == [[[0, 0], [0, 2]], [[0, 0], [0, 0]]]
    assert seen.transitions[1].tolist() == [[[0, 0], [0, 0]], [[2, 0], [0, 0]]]
    assert seen.mean_rewards(1.0)[0, 0, 1] == (1 + 12) / 4
    assert seen.mean_rewards(0.0)[1, 1, 0] == -3 / 4
    assert seen.mean_chances()[0, 0, 1].tolist() == [0.25, 0.75]
    assert seen.mean_chances()[0, 1].tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize("prior_mean", [0.0, 1.0])
def test_samples_have_the_moments_of_the_posterior(prior_mean: float) -> None:
    n = 40_000
    counts, visits, total = torch.tensor([0.0, 2.0, 5.0]), 9.0, 13.0
    seen = Statistics(
        counts.expand(n, 1, 1, 3), torch.full((n, 1, 1), visits), torch.full((n, 1, 1), total), torch.zeros(n, 1, 1, 4)
    )
    chances, rewards = (x.double().squeeze((1, 2)) for x in seen.sample(prior_mean, generator()))
    torch.testing.assert_close(chances.sum(-1), torch.ones(n, dtype=torch.float64), atol=1e-6, rtol=0)
    alpha = torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64)
    mean = alpha / 10
    covariance = (mean.diag() - mean[:, None] * mean) / 11
    assert ((chances.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt()).all()
    torch.testing.assert_close(chances.T.cov(), covariance, atol=4e-4, rtol=0)
    assert rewards.mean().item() == pytest.approx((prior_mean + 13) / 10, abs=4 * (0.1 / n) ** 0.5)
    assert rewards.var().item() == pytest.approx(0.1, rel=4 * (2 / n) ** 0.5)


def test_rows_and_pairs_are_sampled_independently() -> None:
    n = 20_000
    tasks = torch.zeros(n, 2, 1, 3)
    chances, rewards = Statistics.none(tasks).sample(0.0, generator())
    values = torch.cat([chances[:, :, 0, 0], rewards[:, :, 0]], dim=1)  # (n, 4)
    values = torch.cat([values[: n // 2], values[n // 2 :]], dim=1)
    assert (torch.corrcoef(values.T) - torch.eye(8)).abs().max() < 4.5 / (n / 2) ** 0.5


def test_play_counts_what_happened() -> None:
    B, S, A, N, H = 7, 3, 2, 4, 5
    mdps = Recording(B, S, A, N, H, autoreset_mode="Disabled")
    mdps.reset(seed=0)
    PLANS.clear()
    rewards = Watching().play(mdps, generator())
    assert rewards.shape == (B, N * H) and rewards.dtype == torch.float32
    assert torch.equal(rewards, torch.stack([step[2] for step in mdps.steps], dim=1))
    transitions, visits, sums = np.zeros((B, S, A, S)), np.zeros((B, S, A)), np.zeros((B, S, A))
    assert len(PLANS) == N
    for episode, (seen, policy) in enumerate(PLANS):
        np.testing.assert_array_equal(seen.transitions, transitions)
        np.testing.assert_array_equal(seen.visits, visits)
        np.testing.assert_allclose(seen.reward_sums, sums, atol=1e-5)
        assert torch.equal(seen.tasks, mdps.tasks)
        for h in range(H):
            states, actions, paid, after = (x.tolist() for x in mdps.steps[episode * H + h])
            for b, (s, a, r, n) in enumerate(zip(states, actions, paid, after, strict=True)):
                assert a == policy[b, h, s]
                visits[b, s, a] += 1
                sums[b, s, a] += r
                if h < H - 1:
                    transitions[b, s, a, n] += 1


def test_the_start_of_the_next_episode_is_no_transition() -> None:
    tasks = torch.zeros(3, 2, 2, 3)
    tasks[..., 1] = 1  # all leads to state 1, nothing ever to state 0
    PLANS.clear()
    Watching().play(make(3, episodes=6, states=2, actions=2, episode_length=4), generator(), tasks)
    seen, _ = PLANS[-1]
    assert (seen.transitions[..., 0] == 0).all()
    assert (seen.transitions.sum((1, 2, 3)) == 5 * 3).all()
    assert (seen.visits.sum((1, 2)) == 5 * 4).all()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_methods_are_plain_data(method: MDPMethod) -> None:
    assert type(method)(**json.loads(json.dumps(asdict(method)))) == method  # type: ignore[call-overload]
    assert len({method, type(method)()}) == 1
    assert all(type(value) in (int, float) for value in asdict(method).values())  # type: ignore[call-overload]
    for field in fields(method):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(method, field.name, 0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_generators_determine_play(method: MDPMethod) -> None:
    mdps = make(8, episodes=3)
    tasks = mdps.tasks
    runs = []
    for seed in (0, 0, 1):
        mdps.reset(seed=5)
        runs.append(method.play(mdps, generator(seed), tasks))
        assert torch.equal(mdps.tasks, tasks)
        assert runs[-1].shape == (8, 30) and runs[-1].dtype == torch.float32
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2]) == isinstance(method, Oracle)
    mdps.reset(seed=5)
    method.play(mdps, generator())
    assert not torch.equal(mdps.tasks, tasks)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_only_the_oracle_looks_at_the_true_mdps(method: MDPMethod) -> None:
    seen = some_statistics()
    plan = method.plan(seen, 5, generator())
    assert plan.shape == (50, 5, 4) and plan.dtype == torch.int64
    assert plan.min() >= 0 and plan.max() < 3
    seen.tasks = seen.tasks.flip(0)
    assert torch.equal(method.plan(seen, 5, generator()), plan) != isinstance(method, Oracle)


@pytest.mark.parametrize("method", LEARNERS, ids=lambda m: type(m).__name__)
def test_learners_use_all_that_they_have_seen_and_their_prior(method: MDPMethod) -> None:
    plan = method.plan(some_statistics(), 5, generator())
    for name in ("transitions", "visits", "reward_sums"):
        changed = some_statistics()
        setattr(changed, name, getattr(changed, name).flip(0))
        assert not torch.equal(method.plan(changed, 5, generator()), plan)
    if not isinstance(method, UCRL2):  # whose m matters for pairs never tried, see below
        other = type(method)(prior_mean=-20.0)  # type: ignore[call-arg]
        assert not torch.equal(other.plan(some_statistics(), 5, generator()), plan)


def test_grids_are_those_of_rl2() -> None:
    scales = np.geomspace(1e-4, 1, 21)
    for prior_mean in (0.0, 1.0):
        assert OPSRL(7, prior_mean).grid() == tuple(OPSRL(i, prior_mean) for i in range(1, 21))
        epsilons = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        assert EpsilonGreedyPolicy(0.05, prior_mean).grid() == tuple(
            EpsilonGreedyPolicy(e, prior_mean) for e in epsilons
        )
        for kind in (BEB, UCRL2):
            grid = kind(0.5, prior_mean).grid()
            assert all(isinstance(m, kind) and m.prior_mean == prior_mean for m in grid)
            np.testing.assert_allclose([m.scale for m in grid if isinstance(m, kind)], scales)
        for method in (GreedyPolicy(prior_mean), PSRL(prior_mean)):
            assert method.grid() == (method,)
    assert RandomPolicy().grid() == (RandomPolicy(),) and Oracle().grid() == (Oracle(),)


@pytest.mark.parametrize(
    ("make_method", "message"),
    [
        (lambda: EpsilonGreedyPolicy(1.5), "epsilon must be between 0 and 1, got 1.5"),
        (lambda: EpsilonGreedyPolicy(-0.5), "epsilon must be between 0 and 1, got -0.5"),
        (lambda: OPSRL(0), "samples must be at least 1, got 0"),
        (lambda: BEB(-1.0), "scale must not be negative, got -1.0"),
        (lambda: UCRL2(float("nan")), "scale must not be negative, got nan"),
    ],
)
def test_impossible_settings_are_refused(make_method: Callable[[], MDPMethod], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_method()


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 5, 2\), got \(5,\)"):
        RandomPolicy().play(BernoulliBanditVectorEnv(2, arms=5), generator())


def test_methods_that_must_agree() -> None:
    seen = some_statistics()

    def plan(method: MDPMethod) -> Tensor:
        return method.plan(seen, 5, generator())

    greedy = plan(GreedyPolicy())
    assert torch.equal(plan(OPSRL(1)), plan(PSRL()))
    assert not torch.equal(plan(OPSRL(2)), plan(PSRL()))
    assert torch.equal(plan(EpsilonGreedyPolicy(0.0)), greedy)
    assert torch.equal(plan(BEB(0.0)), greedy)
    # Without confidence widths UCRL2 solves the empirical MDP.
    seen = some_statistics(most=3)
    P, r = torch.full_like(seen.transitions, 0.25), torch.full_like(seen.visits, 0.5)
    for b, s, a in np.ndindex(*seen.visits.shape):
        if seen.visits[b, s, a]:
            r[b, s, a] = seen.reward_sums[b, s, a] / seen.visits[b, s, a]
        if total := seen.transitions[b, s, a].sum():
            P[b, s, a] = seen.transitions[b, s, a] / total
    assert ((seen.visits > 0) & (seen.transitions.sum(-1) == 0)).any() and (seen.visits == 0).any()
    q = value_iteration(P, r, 5)
    assert torch.equal(plan(UCRL2(0.0, prior_mean=0.5)), q.argmax(-1))


def one_state(rewards: list[list[float]]) -> Statistics:
    """One state, whose actions paid these rewards."""
    visits = torch.tensor([[[float(len(r)) for r in rewards]]])
    sums = torch.tensor([[[sum(r) for r in rewards]]])
    return Statistics(visits[..., None], visits, sums, torch.zeros(1, 1, len(rewards), 2))


def test_greedy_by_hand() -> None:
    seen = one_state([[0.5, 0.5], [], [0.8]])  # posterior means (m + 1) / 3, m and (m + 0.8) / 2
    for prior_mean, action in [(0.0, 2), (0.7, 2), (0.9, 1)]:
        assert GreedyPolicy(prior_mean).plan(seen, 1, generator()).item() == action


def test_beb_by_hand() -> None:
    # With H = 2 and S = 1 the bonus is 8 scale / (2 + n): the untried action wins if 1 + 4 b > 7 / 4 + 8 b / 5.
    seen = one_state([[2.0, 2.0, 2.0], []])
    for scale, action in [(0.9, 0), (1.1, 1)]:
        scale *= (7 / 4 - 1) / (4 - 8 / 5)
        assert (BEB(scale).plan(seen, 2, generator()) == action).all()
        # One step has a fourth of the bonus of two.
        assert (BEB(4 * scale).plan(seen, 1, generator()) == action).all()


@pytest.mark.parametrize("prior_mean", [0.0, 1.0])
def test_width_of_rewards_in_ucrl2_by_hand(prior_mean: float) -> None:
    # Three episodes of one step are over, so k = 4. An untried action counts as tried once.
    seen = one_state([[2.0, 1.0, 3.0], []])
    L = 4 * np.log(2 * 1 * 2 * 5 / 0.05)
    threshold = (2 - prior_mean) / (L**0.5 - (L / 3) ** 0.5)
    for factor, action in [(0.99, 0), (1.01, 1)]:
        assert UCRL2(factor * threshold, prior_mean).plan(seen, 1, generator()).item() == action


def test_width_of_transitions_in_ucrl2_by_hand() -> None:
    # State 1 pays 1 and state 0 nothing. Action 0 led there 4 times out of 16, action 1 never out of 4. Rewards
    # were seen so often, and as often for each action, that their widths hardly matter.
    transitions = torch.tensor([[[12.0, 4.0], [4.0, 0.0]], [[8.0, 8.0], [8.0, 8.0]]])[None]
    visits = torch.full((1, 2, 2), 1e6)
    sums = torch.tensor([[[0.0, 0.0], [1e6, 1e6]]])
    seen = Statistics(transitions, visits, sums, torch.zeros(1, 2, 2, 3))
    L = 4 * np.log(2 * 2 * 2 * (1 + 4e6 / 2 + 1) / 0.05)
    threshold = 0.25 / ((2 * L / 4) ** 0.5 / 2 - (2 * L / 16) ** 0.5 / 2)
    for factor, action in [(0.98, 0), (1.02, 1)]:
        assert UCRL2(factor * threshold).plan(seen, 2, generator())[0, 0, 0] == action


def test_opsrl_takes_the_largest_value_of_any_sample() -> None:
    # Two actions for one step: the best of K normal samples of the worse must beat that of the better one.
    n = 4000
    rewards = torch.tensor([0.0, 1.5]).expand(n, 1, 2)  # n = 1 each: posterior means 0 and 0.75, variance 1 / 2
    seen = Statistics(torch.ones(n, 1, 2, 1), torch.ones(n, 1, 2), rewards, torch.zeros(n, 1, 2, 2))
    draws = np.random.default_rng(0).normal([0, 0.75], 0.5**0.5, size=(100_000, 8, 2))
    for samples in (1, 3, 8):
        chosen = OPSRL(samples, prior_mean=0.0).plan(seen, 1, generator()).float().mean().item()
        expected = (draws[:, :samples, 1].max(1) > draws[:, :samples, 0].max(1)).mean()
        assert chosen == pytest.approx(expected, abs=4 * 0.5 / n**0.5)


@pytest.mark.parametrize("epsilon", [0.25, 1.0])
def test_rate_of_exploration(epsilon: float) -> None:
    seen = some_statistics(B=400)
    greedy = GreedyPolicy().plan(seen, 10, generator())
    changed = (EpsilonGreedyPolicy(epsilon).plan(seen, 10, generator()) != greedy).float()
    expected = epsilon * 2 / 3  # one of three random actions is the greedy one
    assert changed.mean().item() == pytest.approx(expected, abs=4 * 0.5 / changed.numel() ** 0.5)


@pytest.mark.parametrize("method", [m for m in METHODS if not isinstance(m, Oracle)], ids=lambda m: type(m).__name__)
def test_no_action_is_preferred_before_anything_is_seen(method: MDPMethod) -> None:
    B, H, S, A = 500, 3, 4, 5
    plan = method.plan(Statistics.none(torch.zeros(B, S, A, S + 1)), H, generator())
    counts = plan[:, 0, 0].bincount(minlength=A).double()
    assert ((counts - B / A) ** 2 / (B / A)).sum() < 23.5  # chi-squared with 4 degrees of freedom at 0.01 percent
    assert (plan[:, 0, 0] != plan[:, 0, 1]).any()  # each state has a choice of its own


def test_oracle_is_exactly_optimal() -> None:
    tasks = make(200).tasks
    plan = Oracle().plan(Statistics.none(tasks), 10, generator())
    values = policy_value(tasks[..., :-1], tasks[..., -1], plan)
    torch.testing.assert_close(values[:, 0, 0], optimal_value(tasks, 10))


@pytest.mark.slow
def test_the_oracle_earns_the_optimal_value_and_nobody_more() -> None:
    episodes = 5
    mdps = make(1000, episodes)
    tasks = mdps.tasks
    limit = episodes * optimal_value(tasks, 10)  # (B,)
    for method in METHODS:
        excess, error = mean_and_error(method.play(mdps, generator(), tasks).sum(1) - limit)
        if isinstance(method, Oracle):
            assert abs(excess) < 4 * error
        else:
            assert excess < -10 * error


@pytest.mark.parametrize(
    "method", [*LEARNERS[2:4], GreedyPolicy(), BEB(0.01), UCRL2(0.01)], ids=lambda m: type(m).__name__
)
def test_with_all_data_learners_are_as_good_as_the_oracle(method: MDPMethod) -> None:
    n, H = 1e6, 6
    tasks = make(100, states=5, actions=3).tasks
    P, r = tasks[..., :-1], tasks[..., -1]
    visits = torch.full_like(r, n)
    plan = method.plan(Statistics((n * P).round(), visits, n * r, tasks), H, generator())
    value = policy_value(P, r, plan)[:, 0, 0]
    torch.testing.assert_close(value, optimal_value(tasks, H), atol=0.02, rtol=0)


def test_psrl_learns_a_small_mdp() -> None:
    B, H = 200, 5
    tasks = make(1, states=3, actions=2, seed=4).tasks.expand(B, 3, 2, 4)
    rewards = PSRL().play(make(B, episodes=80, states=3, actions=2, episode_length=H), generator(), tasks)
    best = optimal_value(tasks[:1], H).item()
    first, _ = mean_and_error(rewards[:, :H].sum(1))
    last, error = mean_and_error(rewards[:, -20 * H :].sum(1) / 20)
    assert first < best - 0.5
    assert last == pytest.approx(best, abs=0.1 + 4 * error)


def test_random_play_earns_the_mean_reward() -> None:
    mean, error = mean_and_error(RandomPolicy().play(make(2000), generator()).mean(1))
    assert abs(mean - 1) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "published"),
    [
        (RandomPolicy(), 100.1),
        (GreedyPolicy(prior_mean=0.0), 134.8),
        (PSRL(prior_mean=0.0), 138.1),
        (OPSRL(8, prior_mean=0.0), 144.1),
        (BEB(10**-0.8, prior_mean=0.0), 150.2),
        (UCRL2(10**-0.4, prior_mean=0.0), 146.6),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, MDPMethod) else "",
)
def test_returns_agree_with_rl2(method: MDPMethod, published: float) -> None:
    """Table 2 of Duan et al. (2016), N = 10: means over 1000 trials, at the best settings of the grids."""
    mean, error = mean_and_error(method.play(make(1000), generator()).sum(1))
    assert abs(mean - published) < 4 * 2**0.5 * error


def test_knowing_the_prior_helps() -> None:
    mdps = make(500)
    tasks = mdps.tasks
    returns = [
        method.play(mdps, generator(), tasks).sum(1)
        for method in (GreedyPolicy(1.0), GreedyPolicy(0.0), RandomPolicy())
    ]
    for better, worse in ((0, 1), (1, 2)):
        gain, error = mean_and_error(returns[better] - returns[worse])
        assert gain > 5 * error and gain > 10

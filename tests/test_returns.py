"""Returns, advantages, losses and schedules: golden values and brute-force twins."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical

from runs.algorithms.learner import Measurement
from runs.algorithms.policy_gradient import ReturnNormalizer
from runs.algorithms.returns import (
    clipped_surrogate_loss,
    generalized_advantages,
    standardized,
)
from runs.algorithms.schedules import geometric_growth, warmup_cosine


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# ----- advantages


def test_advantages_by_hand():
    """delta = (1, -1/4, 1/2) with discount 1/2; discount lambda = 1/4 then carries them back."""
    rewards, values = doubles([1.0, 0.0, 2.0]), doubles([0.5, 1.0, 1.5])
    advantages = generalized_advantages(rewards, values, discount=0.5, gae_lambda=0.5)
    assert advantages.tolist() == [[0.96875, -0.125, 0.5]]


def test_advantage_of_a_single_step():
    assert generalized_advantages(doubles([3.0]), doubles([1.0]), 0.9, 0.5).tolist() == [[2.0]]


@pytest.fixture
def trials():
    """Rewards and values (B, T)."""
    return torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.3, 0.0])
def test_advantages_are_the_double_sum(trials, discount, gae_lambda):
    rewards, values = trials
    B, T = rewards.shape
    expected = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            for later in range(t, T):
                following = values[b, later + 1] if later + 1 < T else 0.0
                delta = rewards[b, later] + discount * following - values[b, later]
                expected[b, t] += (discount * gae_lambda) ** (later - t) * delta
    advantages = generalized_advantages(rewards, values, discount, gae_lambda)
    torch.testing.assert_close(advantages, expected, rtol=1e-12, atol=1e-12)
    assert advantages.dtype == torch.float64


def test_lambda_1_is_the_discounted_return_minus_the_value(trials):
    rewards, values = trials
    returns = torch.stack(
        [sum(0.9 ** (u - t) * rewards[:, u] for u in range(t, 7)) for t in range(7)],
        dim=1,
    )
    torch.testing.assert_close(generalized_advantages(rewards, values, 0.9, 1.0), returns - values)


def test_lambda_0_is_the_one_step_error(trials):
    rewards, values = trials
    following = torch.cat([values[:, 1:], torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(generalized_advantages(rewards, values, 0.9, 0.0), rewards + 0.9 * following - values)


def test_advantage_plus_value_is_the_lambda_return(trials):
    """G^lambda = (1 - lambda) sum_n lambda^(n-1) G^(n) + lambda^(N-1) G, with the n-step returns G^(n)."""
    rewards, values = trials
    discount, lam, T = 0.9, 0.3, 7
    for t in range(T):
        left = T - t
        expected = torch.zeros(3, dtype=torch.float64)
        for n in range(1, left + 1):
            n_step = sum(discount**i * rewards[:, t + i] for i in range(n))
            if n < left:
                expected += (1 - lam) * lam ** (n - 1) * (n_step + discount**n * values[:, t + n])
            else:
                expected += lam ** (n - 1) * n_step
        advantages = generalized_advantages(rewards, values, discount, lam)
        torch.testing.assert_close(advantages[:, t] + values[:, t], expected)


# ----- losses


@pytest.mark.parametrize(
    "ratio, advantage, loss, slope",
    [  # slope is the derivative for the logarithm of the ratio: ratio times that for the ratio
        (1.5, 2.0, -2.4, 0.0),  # better and already much likelier: nothing more to gain
        (1.5, -2.0, 3.0, 3.0),  # worse and likelier: the full way back
        (0.5, 2.0, -1.0, -1.0),  # better and less likely: the full way back
        (0.5, -2.0, 1.6, 0.0),  # worse and already much less likely: nothing more to gain
        (1.1, 2.0, -2.2, -2.2),  # inside the clip: the plain surrogate
        (0.9, -2.0, 1.8, 1.8),
        (1.0, 3.0, -3.0, -3.0),
    ],
)
def test_clipped_surrogate_in_each_regime(ratio, advantage, loss, slope):
    log_ratio = doubles(math.log(ratio)).requires_grad_()
    found = clipped_surrogate_loss(log_ratio, doubles(advantage), clip=0.2)
    assert found.item() == pytest.approx(loss, rel=1e-12)
    found.backward()
    assert log_ratio.grad.item() == pytest.approx(slope, rel=1e-12)


def test_clipped_surrogate_is_a_mean_over_all_steps():
    ratios, advantages = doubles([1.5, 0.5], [1.5, 0.5]), doubles([2.0, 2.0], [-2.0, -2.0])
    assert clipped_surrogate_loss(ratios.log(), advantages, 0.2).item() == pytest.approx((-2.4 - 1.0 + 3.0 + 1.6) / 4)


def test_gradient_of_the_surrogate_at_the_old_policy_is_the_policy_gradient():
    logits = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    actions, advantages = torch.randint(3, (4, 5)), torch.randn(4, 5, dtype=torch.float64)
    log_p = Categorical(logits=logits).log_prob(actions)
    surrogate = clipped_surrogate_loss(log_p - log_p.detach(), advantages, 0.2)
    reinforce = -(log_p * advantages).mean()
    torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (surrogate, reinforce)))


def test_standardized():
    x = standardized(5 + 3 * torch.randn(40, 50, dtype=torch.float64))
    torch.testing.assert_close(x.mean(0), torch.zeros(50, dtype=torch.float64))
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(50, dtype=torch.float64))
    assert standardized(torch.tensor([[0.0, 10.0], [2.0, 30.0]])).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert standardized(torch.full((3, 4), 2.0)).abs().max() == 0  # nothing to learn from, and no division by zero


# ----- schedules


def test_warmup_cosine_at_its_turning_points():
    assert warmup_cosine(0.0, warmup=0.2) == 0
    assert warmup_cosine(0.1, warmup=0.2) == pytest.approx(0.5)
    assert warmup_cosine(0.2, warmup=0.2) == pytest.approx(1)
    assert warmup_cosine(0.6, warmup=0.2) == pytest.approx(0.5)  # half of the way down
    assert warmup_cosine(0.4, warmup=0.2) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert warmup_cosine(1.0, warmup=0.2) == pytest.approx(0)


def test_warmup_cosine_rises_then_falls():
    factors = [warmup_cosine(i / 100, warmup=0.3) for i in range(101)]
    assert factors[:31] == sorted(factors[:31])
    assert factors[30:] == sorted(factors[30:], reverse=True)
    assert all(0 <= f <= 1 for f in factors)


def test_warmup_cosine_without_warmup_starts_at_the_peak():
    assert warmup_cosine(0.0, warmup=0.0) == 1 and warmup_cosine(0.5, warmup=0.0) == pytest.approx(0.5)


def test_geometric_growth():
    at = [geometric_growth(f, 10, 160, until=0.5) for f in (0.0, 0.125, 0.25, 0.5, 1.0)]
    assert at == pytest.approx([10, 20, 40, 160, 160])
    assert geometric_growth(0.0, 10, 160, until=0.0) == 160


# ----- scale of the returns


def columns(*pairs):
    """Two trials whose returns at each step are the pairs: (2, T)."""
    return torch.tensor(pairs, dtype=torch.float32).T


def test_running_scale_takes_over_the_first_moments():
    scale = ReturnNormalizer(2)
    scale.update(columns((1, 3), (10, 30)))
    assert scale.mean.tolist() == [2, 20] and scale.std.tolist() == pytest.approx([1, 10])


def test_running_scale_moves_at_its_rate():
    scale = ReturnNormalizer(1, rate=0.25)
    scale.update(columns((1, 3)))
    scale.update(columns((8, 12)))
    assert scale.mean.tolist() == pytest.approx([0.75 * 2 + 0.25 * 10])
    assert scale.std.tolist() == pytest.approx([0.75 * 1 + 0.25 * 2])


def test_shorter_trials_are_the_end_of_longer_ones():
    """Moments belong to the number of steps that remain; those never met stay as they were."""
    scale = ReturnNormalizer(3)
    scale.update(columns((4, 6), (1, 3)))
    assert scale.mean.tolist() == [0, 5, 2]
    assert scale.normalize(columns((7, 7))).tolist() == [[5], [5]]
    assert scale.restore(columns((1, 0))).tolist() == [[3], [2]]
    scale.update(columns((8, 8), (5, 5), (2, 2)))
    assert scale.mean.tolist() == [8, 5, 2]


def test_running_scale_normalizes_and_restores():
    scale, x = ReturnNormalizer(4), 5 + 3 * torch.randn(1000, 4)
    torch.testing.assert_close(scale.normalize(x), x)  # before anything is known
    scale.update(x)
    y = scale.normalize(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scale.restore(y), x)


def test_running_scale_of_equal_returns_is_finite():
    scale = ReturnNormalizer(1)
    scale.update(torch.ones(10, 1))
    assert scale.normalize(torch.ones(10, 1)).abs().max() == 0
    assert scale.restore(torch.zeros(1, 1)).item() == 1


def test_running_scale_goes_on_from_a_saved_state():
    scale, copy = ReturnNormalizer(1), ReturnNormalizer(1)
    scale.update(columns((1, 3)))
    copy.load_state_dict(scale.state_dict())
    for each in (scale, copy):
        each.update(columns((10, 30)))
    assert torch.equal(scale.mean, copy.mean) and torch.equal(scale.std, copy.std)
    assert scale.mean.item() == pytest.approx(0.9 * 2 + 0.1 * 20)


# ----- measurements


def test_measurement_by_hand():
    """Deviations of 1/2 from a mean of 1/2: variance 4 / 4 / 3, its root over sqrt 4, times 1.96."""
    m = Measurement.of("accuracy", torch.tensor([0.0, 1.0, 1.0, 0.0]), "tasks", shots=5)
    assert (m.metric, m.mean, m.n, m.task_set, m.shots) == ("accuracy", 0.5, 4, "tasks", 5)
    assert m.ci95 == pytest.approx(1.96 * (1 / 3) ** 0.5 / 2)


def test_intervals_cover_the_truth_at_their_rate():
    samples = torch.rand(2000, 200, generator=torch.Generator().manual_seed(3))
    covered = [abs(m.mean - 0.5) <= m.ci95 for m in (Measurement.of("return", row, "") for row in samples)]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.02)

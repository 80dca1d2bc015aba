"""Distributions over actions against the library's, and encodings of observations against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions as library

from snail.actions import Categorical, Gaussian
from snail.observations import OneHot, RunningNormalizer

LOW, HIGH = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 4.0, 0.5])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_categorical_is_the_librarys():
    head = Categorical(5)
    logits, others = 3 * torch.randn(2, 4, 6, 5, dtype=torch.float64)
    actions = torch.randint(5, (4, 6))
    twin = library.Categorical(logits=logits)
    torch.testing.assert_close(head.entropy(logits), twin.entropy())
    torch.testing.assert_close(head.log_probability(logits, actions), twin.log_prob(actions))
    expected = library.kl_divergence(twin, library.Categorical(logits=others))
    torch.testing.assert_close(head.kl_divergence(logits, others), expected)
    assert head.to_environment(actions) is actions


def test_a_categorical_at_its_extremes():
    head = Categorical(3)
    assert head.entropy(torch.full((5,), 7.0)).item() == pytest.approx(math.log(5))
    assert head.entropy(torch.tensor([1e4, 0.0, 0.0])).item() == 0
    assert head.log_probability(torch.tensor([1e4, 0.0]), torch.tensor(0)).item() == 0


def gaussian(squash: bool) -> Gaussian:
    head = Gaussian(LOW, HIGH, squash).double()
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([-0.5, 0.2, -1.0]))
    return head


def test_a_gaussian_is_the_librarys():
    head = gaussian(squash=False)
    means, others = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    parameters = head.parameters_of(means)
    assert parameters.shape == (4, 6, 6)
    twin = library.Independent(library.Normal(means, head.log_std.exp().expand_as(means)), 1)
    actions = twin.sample()
    torch.testing.assert_close(head.log_probability(parameters, actions), twin.log_prob(actions))
    torch.testing.assert_close(head.entropy(parameters), twin.entropy())
    wider = library.Independent(library.Normal(others, 2 * head.log_std.exp().expand_as(others)), 1)
    other = torch.cat([others, (head.log_std + math.log(2)).expand_as(others)], -1)
    torch.testing.assert_close(head.kl_divergence(parameters, other), library.kl_divergence(twin, wider))
    assert head.kl_divergence(parameters, parameters).abs().max() == 0


def test_a_squashed_gaussian_is_the_librarys():
    head = gaussian(squash=True)
    means = torch.randn(50, 3, dtype=torch.float64)
    parameters = head.parameters_of(means)
    normal = library.Normal(means, head.log_std.exp().expand_as(means))
    twin = library.Independent(library.TransformedDistribution(normal, library.TanhTransform(cache_size=1)), 1)
    actions = twin.sample()
    torch.testing.assert_close(head.log_probability(parameters, actions), twin.log_prob(actions))
    edge = head.log_probability(parameters[:1].float(), torch.ones(1, 3))  # as tanh rounds far draws
    assert edge.isfinite().all()


@pytest.mark.parametrize("squash", [False, True])
def test_draws_follow_the_distribution(squash):
    head = gaussian(squash)
    parameters = head.parameters_of(torch.tensor([[0.3, -0.4, 0.1]], dtype=torch.float64)).expand(100_000, -1)
    generator = torch.Generator().manual_seed(1)
    actions = head.draw(parameters, head.noise(100_000, parameters, generator))
    drawn = actions.atanh() if squash else actions
    torch.testing.assert_close(drawn.mean(0), parameters[0, :3], atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), head.log_std.exp(), atol=0.01, rtol=0.01)
    # the mean of -log p of what is drawn is the entropy, but for the squashing
    if not squash:
        found = -head.log_probability(parameters, actions).mean()
        torch.testing.assert_close(found, head.entropy(parameters[0]), atol=0.01, rtol=0)
    sent = head.to_environment(actions)
    assert (sent >= LOW).all() and (sent <= HIGH).all()
    middle = head.to_environment(torch.zeros(1, 3))
    torch.testing.assert_close(middle, (LOW + HIGH)[None] / 2, check_dtype=False)


@pytest.mark.parametrize("squash", [False, True])
def test_gradients_of_a_gaussian(squash):
    head = gaussian(squash)
    means = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = head.parameters_of(torch.randn(4, 3, dtype=torch.float64)).detach()
    actions = head.draw(other, torch.randn(4, 3, dtype=torch.float64))

    def values(means, log_std):
        head.log_std.data.copy_(log_std.detach())
        parameters = torch.cat([means, log_std.expand_as(means)], -1)
        return (
            head.log_probability(parameters, actions),
            head.entropy(parameters),
            head.kl_divergence(other, parameters),
        )

    log_std = head.log_std.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(values, (means, log_std))
    assert torch.autograd.gradgradcheck(values, (means, log_std))


def test_one_hot_and_nothing_to_observe():
    assert OneHot(3)(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert OneHot(1)(torch.zeros(4, dtype=torch.long)).shape == (4, 0)


def test_running_moments_are_those_of_all_that_was_seen():
    x = 5 + torch.tensor([3.0, 0.1]) * torch.randn(1000, 2)
    normalizer = RunningNormalizer(2)
    torch.testing.assert_close(normalizer(x[:3]), x[:3].clamp(max=10))  # nothing was seen yet
    start = 0
    for size in (1, 10, 489, 500):
        for part in x[start : start + size].split(100):
            normalizer.collect(part)
        before = normalizer(x[:3])
        assert torch.equal(before, normalizer(x[:3]))  # what is collected does not count yet
        normalizer.update()
        start += size
        seen = x[:start].double().numpy()
        np.testing.assert_allclose(normalizer.mean.numpy(), seen.mean(0), rtol=1e-10)
        if start > 1:
            np.testing.assert_allclose(normalizer.std.numpy(), seen.std(0), rtol=1e-8)
    y = normalizer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert normalizer(torch.tensor([1e9, -1e9])).tolist() == [10, -10]
    other = RunningNormalizer(2)
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other(x), y)
    constant = RunningNormalizer(1)
    constant.collect(torch.full((5, 1), 7.0))
    constant.update()
    assert constant(torch.tensor([[7.0]])).item() == 0

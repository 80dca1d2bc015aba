"""TRPO's parts against explicit matrices and library distributions, and its promise about every step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical
from torch.nn.utils import parameters_to_vector

from runs.algorithms.rollout import rollout
from runs.algorithms.trpo import TRPOTraining, conjugate_gradient, fisher_product
from runs.catalogue import find
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.training import build_learner
from snail import actions

pytestmark = pytest.mark.slow

CPU = Machine(torch.device("cpu"))
AGENTS = ("snail", "lstm", "gru", "transformer")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_conjugate_gradient_solves():
    root = torch.randn(6, 6, dtype=torch.float64)
    matrix, b = root @ root.T + 0.1 * torch.eye(6), torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(lambda x: matrix @ x, b, 12), torch.linalg.solve(matrix, b))


def test_solved_early_it_stays():
    b = torch.tensor([3.0, 4.0])
    assert conjugate_gradient(lambda x: 2 * x, b, 50).tolist() == [1.5, 2.0]
    assert conjugate_gradient(lambda x: 2 * x, torch.zeros(2), 5).tolist() == [0.0, 0.0]


def test_fisher_product_is_that_of_the_explicit_matrix():
    """F = E_x E_a~p [grad log p(a|x) grad log p(a|x)^T], written out over all actions."""
    net, x = torch.nn.Linear(3, 4).double(), torch.randn(7, 3, dtype=torch.float64)
    parameters = list(net.parameters())
    matrix = torch.zeros(16, 16, dtype=torch.float64)
    for row in x:
        log_p = net(row).log_softmax(-1)
        for a in range(4):
            score = torch.cat([g.flatten() for g in torch.autograd.grad(log_p[a], parameters, retain_graph=True)])
            matrix += log_p[a].exp().detach() * torch.outer(score, score) / len(x)
    product = fisher_product(lambda: net(x), actions.Categorical(4).kl_divergence, parameters, damping=0.1)
    vector = torch.randn(16, dtype=torch.float64)
    torch.testing.assert_close(product(vector), matrix @ vector + 0.1 * vector)


def learner_of(agent: str, **changes):
    config = find("bandit/n10-k5").config(agent, budget="smoke", algorithm="trpo")
    training = replace(config.training, **{"batch_size": 64, "minibatches": 3, "fisher_part": 0.5} | changes)
    return build_learner(replace(config, training=training), CPU)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_step_gains_and_stays_in_the_trust_region(agent):
    """Measured anew, on the whole batch: the surrogate rises, and the KL divergence is at most what was allowed."""
    learner = learner_of(agent, max_kl=0.02)
    trials = rollout(learner.model, learner.env, learner.generator)
    batch, _ = learner._compute_advantages(trials, 0.3)
    with torch.no_grad():
        before, _ = learner.model(batch.inputs)
    logs = learner.improve(batch, left=1.0)
    with torch.no_grad():
        after, _ = learner.model(batch.inputs)
    kl = torch.distributions.kl_divergence(Categorical(logits=before), Categorical(logits=after)).mean()
    ratio = (Categorical(logits=after).log_prob(batch.actions) - batch.log_probs).exp()
    gain = ((ratio - 1) * batch.advantages).mean()
    assert 0.002 < kl <= 0.02 and gain > 0
    assert logs["kl"] == pytest.approx(kl.item(), rel=1e-3) and logs["policy_loss"] == pytest.approx(
        -gain.item(), rel=1e-3
    )
    assert logs["entropy"] == pytest.approx(Categorical(logits=after).entropy().mean().item(), rel=1e-4)


def test_a_step_that_keeps_no_promise_is_not_made():
    learner = learner_of("gru", backtracks=1, max_kl=0.02, damping=1e-8, cg_steps=30)
    batch, _ = learner._compute_advantages(rollout(learner.model, learner.env, learner.generator), 0.3)
    before = parameters_to_vector(learner.model.policy.parameters()).clone()
    nothing_to_gain = replace(batch, advantages=torch.zeros_like(batch.advantages))
    logs = learner.improve(nothing_to_gain, left=1.0)
    assert logs["step_scale"] == 0 and logs["kl"] == pytest.approx(0, abs=1e-7)
    assert torch.equal(parameters_to_vector(learner.model.policy.parameters()), before)


def test_the_value_network_learns_its_targets():
    learner = learner_of("gru", value_epochs=30, value_learning_rate=1e-2)
    batch, _ = learner._compute_advantages(rollout(learner.model, learner.env, learner.generator), 0.3)

    def error() -> float:
        with torch.no_grad():
            return (learner.model(batch.inputs)[1] - batch.targets).square().mean().item()

    before = error()
    learner.improve(batch, left=1.0)
    assert error() < 0.9 * before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fisher_part": 0.0}, "fisher_part must be above 0 and at most 1, got 0.0"),
        ({"cg_steps": 0}, "cg_steps must be at least 1, got 0"),
        ({"curriculum": 1.5}, "curriculum must be between 0 and 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(RunError, match=message):
        learner_of("gru", **change)


def test_ppo_and_trpo_of_the_catalogue_play_the_same_trials():
    experiment = find("bandit/n100-k5")
    ppo, trpo = (experiment.config("snail", algorithm=a).training for a in ("ppo", "trpo"))
    assert isinstance(trpo, TRPOTraining)
    for name in ("steps", "batch_size", "discount", "gae_lambda", "value_lambda", "curriculum"):
        assert getattr(ppo, name) == getattr(trpo, name)

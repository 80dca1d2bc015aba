"""Policy improvement by lookahead in belief states of bandits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta
from tiny_runs import BANDIT, CPU, learner_for
from torch._subclasses.fake_tensor import FakeTensorMode

import runs.algorithms.lookahead
from baselines.bayes_optimal import bayes_optimal_value
from baselines.beliefs import bandit_expected_best, pulls_and_wins
from baselines.regret_network import RegretNetwork
from runs.agents import AGENTS, GRUConfig, MAMLPolicyConfig
from runs.algorithms import passes
from runs.algorithms.lookahead import LookaheadLearner, LookaheadTraining, control_variate_returns
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.rollout import rollout
from runs.system.errors import RunError
from runs.tasks import BanditTask, MDPTask
from runs.training import build_learner

TASK = BanditTask(arms=3, pulls=5)
TRAINING = LookaheadTraining(4, 16, minibatches=2)


def learner_of(model=GRUConfig(8), **changes) -> LookaheadLearner:  # noqa: B008
    built = build_learner(replace(BANDIT, task=TASK, model=model, training=replace(TRAINING, **changes)), CPU)
    assert isinstance(built, LookaheadLearner)
    return built


def played(pulls: int, arms: int, trials: int = 4):
    """Arms, outcomes, and the counts before each pull; in half of the trials mostly of one arm."""
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(arms, (trials, pulls), generator=generator)
    actions[: trials // 2] = torch.where(torch.rand(trials // 2, pulls, generator=generator) < 0.9, 1, 0)
    rewards = torch.rand(trials, pulls, generator=generator).round()
    return actions, rewards, *pulls_and_wins(actions, rewards, arms)


# ----- what Bayes' rule says


def test_the_expected_best_is_the_integral_over_the_posterior():
    actions, rewards, pulls, wins = played(200, 3)
    found = bandit_expected_best(actions, rewards, 3)
    for b, t in itertools.product((0, 3), (0, 1, 7, 199)):
        posterior = [beta(1 + float(wins[b, t, k]), 1 + float(pulls[b, t, k] - wins[b, t, k])) for k in range(3)]
        below, _ = quad(lambda x, p=posterior: np.prod([arm.cdf(x) for arm in p]), 0, 1, limit=400)
        assert float(found[b, t]) == pytest.approx(1 - below, abs=1e-6)


def test_looking_ahead_does_not_change_the_expected_best():
    """It is a martingale: the mean over outcomes, weighted with their posterior probabilities, is the present one."""
    actions, rewards, pulls, wins = played(6, 3)
    before = bandit_expected_best(actions, rewards, 3)[:, -1]
    for arm in range(3):
        last = torch.full((4, 1), arm)
        after = [
            bandit_expected_best(
                torch.cat([actions[:, :-1], last, last], 1),
                torch.cat([rewards[:, :-1], torch.full((4, 2), outcome)], 1),
                3,
            )[:, -1]
            for outcome in (0.0, 1.0)
        ]
        chance = (1 + wins[:, -1, arm]) / (2 + pulls[:, -1, arm])
        torch.testing.assert_close(torch.lerp(*after, chance), before)


# ----- the regret network


def test_values_after_a_pull_are_those_of_the_changed_counts():
    torch.manual_seed(0)
    network = RegretNetwork(7)
    _, _, pulls, wins = played(7, 3)
    left = torch.arange(7.0, 0.0, -1).expand(4, 7)
    found = network.after_pulls(pulls, wins, left)
    for arm in range(3):
        one = torch.nn.functional.one_hot(torch.tensor(arm), 3)
        lost, won = (network(pulls + one, wins + outcome * one, left - 1) for outcome in (0, 1))
        chance = (1 + wins[..., arm]) / (2 + pulls[..., arm])
        torch.testing.assert_close(found[..., arm], (1 - chance) * lost + chance * won)
    assert not torch.allclose(found[:, 1:-1, 0], found[:, 1:-1, 1])
    assert torch.equal(found[:, -1], torch.zeros(4, 3))  # nothing follows the last pull


def test_the_order_of_the_arms_does_not_matter():
    torch.manual_seed(0)
    network, order = RegretNetwork(7), [2, 0, 1]
    _, _, pulls, wins = played(7, 3)
    left = torch.arange(7.0, 0.0, -1).expand(4, 7)
    torch.testing.assert_close(network(pulls[..., order], wins[..., order], left), network(pulls, wins, left))
    assert network(pulls, wins, left).shape == (4, 7)


# ----- targets


def test_returns_with_a_control_variate_are_the_definition():
    expected, estimated, costs = (torch.tensor([x]) for x in ([3.0, 5.0], [2.0, 4.0], [1.0, 0.5]))
    last = 5.0 + 0.5 * (0.5 + 0.0 - 4.0)
    first = 3.0 + 0.5 * (1.0 + last - 2.0)
    assert control_variate_returns(expected, estimated, costs, 0.5).tolist() == [[first, last]]


def test_with_lambda_1_their_mean_is_that_of_the_costs_to_go():
    """Whatever the estimates are: over many plays of a policy, with costs that depend on the action."""
    generator = torch.Generator().manual_seed(0)
    policy, cost = torch.tensor([0.2, 0.8]), torch.tensor([1.0, 3.0])
    estimates = torch.tensor([[5.0, -2.0], [1.0, 4.0], [0.0, 7.0]])  # wrong ones, of 3 steps
    actions = torch.multinomial(policy, 3 * 20_000, replacement=True, generator=generator).view(-1, 3)
    expected = (estimates @ policy).expand(20_000, 3)
    taken = estimates.expand(20_000, 3, 2).gather(2, actions[..., None])[..., 0]
    found = control_variate_returns(expected, taken, cost[actions], 1.0)
    for t in range(3):
        assert abs(found[:, t].mean() - (3 - t) * cost @ policy) < 4 * found[:, t].std() / 20_000**0.5


def states_of(learner: LookaheadLearner):
    states, mismatch = learner._states(rollout(learner.model, learner.env, learner.generator))
    assert mismatch.max() < 1e-5
    return states


def test_the_improved_policy_is_the_definition():
    """Of one state, from counts: regrets now by the integral, later ones by the network, then the exponential."""
    learner = learner_of(temperature=0.3)
    states = states_of(learner)
    improved, gain = learner._improved(states)
    pulls, wins = states.pulls[5, 2], states.wins[5, 2]
    with torch.no_grad():
        log_policy = learner.model.policy(states.inputs)[5, 2, :3].log_softmax(-1)
        regrets = []
        for arm, one in enumerate(torch.eye(3)):
            mean = (1 + wins[arm]) / (2 + pulls[arm])
            lost, won = (learner.regret_network(pulls + one, wins + o * one, torch.tensor(2.0)) for o in (0, 1))
            regrets.append(float(states.best[5, 2] - mean + (1 - mean) * lost + mean * won))
    weights = torch.tensor([math.exp(float(p) - q / 0.3) for p, q in zip(log_policy, regrets, strict=True)])
    torch.testing.assert_close(improved.policy[5, 2], weights / weights.sum())
    torch.testing.assert_close(improved.means[5, 2], (1 + wins) / (2 + pulls))
    torch.testing.assert_close(learner._regrets(states)[5, 2], torch.tensor(regrets))
    assert gain.shape == (16,) and gain.min() > 0


def test_parts_of_a_batch_are_all_of_it(monkeypatch):
    learner = learner_of()
    states = states_of(learner)
    whole = learner._regrets(states)
    monkeypatch.setattr(runs.algorithms.lookahead, "STEPS_AT_ONCE", 2 * 5 * 3)
    torch.testing.assert_close(learner._regrets(states), whole)


def test_the_policys_loss_is_its_divergence_and_the_error_of_its_predictions():
    learner = learner_of()
    improved, _ = learner._improved(states_of(learner))
    loss, _ = learner._policy_losses(improved)
    outputs = learner.model.policy(improved.inputs)
    divergence = (improved.policy * (improved.policy.log() - outputs[..., :3].log_softmax(-1))).sum(-1).mean()
    expected = divergence + (outputs[..., 3:] - improved.means).square().mean()
    torch.testing.assert_close(loss, expected)
    weights = [*learner.model.policy.parameters()]
    wanted = torch.autograd.grad(expected, weights)
    for a, b in zip(torch.autograd.grad(loss, weights), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_an_update_fits_the_regrets_first_and_then_learns_the_policy_improved_by_them():
    """Both move towards what they should: errors and divergence fall, on the trials of the update."""
    learner = learner_of(epochs=100, value_epochs=200, learning_rate=1e-2, value_learning_rate=1e-2, steps=10**6)
    trials = rollout(learner.model, learner.env, learner.generator)
    states, _ = learner._states(trials)
    targets = learner._regret_targets(states)
    before = learner._regret_losses(targets)[1]["value_loss"]
    learner.learn(trials, 0.0)
    assert learner._regret_losses(targets)[1]["value_loss"] < 0.2 * before
    wanted, _ = learner._improved(states)  # by the fitted network, from the policy that played
    after = learner._policy_losses(wanted)[1]["policy_loss"]
    divergence = (wanted.policy * (wanted.policy.log() - states.log_policy)).sum(-1).mean()
    assert after < 0.8 * divergence


def test_the_regret_network_is_fitted_to_some_of_the_states():
    learner = learner_of(value_states=21)
    found = learner._regret_targets(states_of(learner))
    some = learner._some(found)
    assert len(found) == 16 * 5 and len(some) == 20  # in 2 minibatches
    whole = torch.cat([found.pulls, found.wins, found.left[:, None], found.targets[:, None]], dim=1).tolist()
    for row in torch.cat([some.pulls, some.wins, some.left[:, None], some.targets[:, None]], dim=1).tolist():
        assert row in whole


# ----- learning


@pytest.mark.slow
@pytest.mark.parametrize("agent, rate", [("snail", 2e-3), ("gru", 1e-2)])
def test_it_comes_close_to_the_bayes_optimal_agent(agent, rate):
    """Of which dynamic programming knows the value: 5.03 of 8 pulls of 3 arms. Random pulls earn 4."""
    training = LookaheadTraining(25, 128, minibatches=4, learning_rate=rate)
    learner = learner_for(training, BanditTask(3, 8), AGENTS[agent], TrialTest(8000), 0, CPU)
    for step in range(25):
        learner.update(step)
    (found,) = learner.evaluate(lambda done, of: None)
    assert 0.94 * bayes_optimal_value(8, 3) < found.mean < bayes_optimal_value(8, 3) + found.ci95


def test_maml_learns_by_it_too():
    learner = learner_of(MAMLPolicyConfig(hidden_size=8, layers=1, inner_steps=2), steps=20, learning_rate=1e-1)
    regrets = [float(learner.update(step)["regret"]) for step in range(20)]
    assert sum(regrets[-5:]) < 0.9 * sum(regrets[:5])


def test_a_step_reads_nothing_back_to_the_host(monkeypatch):
    monkeypatch.setattr(passes, "require_finite", lambda *_: None)  # which looks, on a processor alone
    learner = learner_of()
    states = states_of(learner)
    regrets = learner._regret_targets(states)
    improved, _ = learner._improved(states)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert set(learner.fit_regrets.step(*vars(regrets).values())) == {"value_loss"}
        logs = learner.fit_policy.step(*vars(improved).values())
    assert set(logs) == {"loss", "policy_loss", "reward_error"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"minibatches": 3}, "batch_size must be a multiple of minibatches, got 16 and 3"),
        ({"epochs": 0}, "epochs must be"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(RunError, match=message):
        learner_of(**changes)


def test_other_tasks_have_no_such_belief_states():
    with pytest.raises(RunError, match="lookahead needs belief states of bandits, not MDPTask; give --algorithm ppo"):
        build_learner(replace(BANDIT, task=MDPTask(2), training=TRAINING), CPU)

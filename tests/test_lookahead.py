"""Policy improvement by lookahead in belief states of bandits and MDPs."""

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
from torch.distributions import Categorical, kl_divergence

import baselines.mdp_values
import runs.algorithms.belief_values
import runs.algorithms.lookahead
from baselines.bayes_optimal import bayes_optimal_value
from baselines.beliefs import bandit_expected_best, pulls_and_wins
from baselines.mdp_values import MDPValueNetwork, mdp_plans
from baselines.mdps import GreedyPolicy, Statistics
from baselines.planning import value_iteration
from baselines.regret_network import RegretNetwork
from runs.agents import AGENTS, GRUConfig, MAMLPolicyConfig
from runs.algorithms import passes
from runs.algorithms.belief_values import chosen
from runs.algorithms.lookahead import LookaheadLearner, LookaheadTraining, control_variate_returns
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.rollout import rollout
from runs.system.errors import RunError
from runs.tasks import BanditTask, MDPTask, RecallTask
from runs.training import build_learner

TASK = BanditTask(arms=3, pulls=5)
MDPS = MDPTask(episodes=2, states=4, actions=3, episode_length=4)
TRAINING = LookaheadTraining(4, 16, minibatches=2)


def learner_of(model=GRUConfig(8), task=TASK, **changes) -> LookaheadLearner:  # noqa: B008
    built = build_learner(replace(BANDIT, task=task, model=model, training=replace(TRAINING, **changes)), CPU)
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


LEARNERS = pytest.mark.parametrize("task", [TASK, MDPS], ids=["bandit", "mdp"])


def played_by(learner: LookaheadLearner):
    """Trials, their belief states, and the log-probabilities of all actions."""
    trials = rollout(learner.model, learner.env, learner.generator)
    log_policy = learner._log_policy(trials.inputs)
    torch.testing.assert_close(chosen(log_policy, trials.actions), trials.log_probs)
    seen = learner.model.observations(trials.inputs)
    return trials, learner.values.beliefs(seen, trials.actions, trials.rewards), log_policy


def examples_of(learner: LookaheadLearner):
    trials, beliefs, log_policy = played_by(learner)
    return learner._examples(beliefs, trials.actions, log_policy)


def improved_by(learner: LookaheadLearner):
    trials, beliefs, log_policy = played_by(learner)
    return learner._improved(trials.inputs, beliefs, log_policy)


def test_values_of_arms_are_regrets_now_and_later():
    """Of one state, from counts: regrets now by the integral, later ones by the network."""
    learner = learner_of()
    network = learner.values.network
    trials, beliefs, _ = played_by(learner)
    pulls, wins = beliefs.pulls[5, 2], beliefs.wins[5, 2]
    best = bandit_expected_best(trials.actions, trials.rewards, 3)[5, 2]
    found = learner.values.action_values(beliefs)[5, 2]
    for arm, one in enumerate(torch.eye(3)):
        mean = (1 + wins[arm]) / (2 + pulls[arm])
        lost, won = (network(pulls + one, wins + o * one, torch.tensor(2.0)) for o in (0, 1))
        torch.testing.assert_close(found[arm], mean - best - (1 - mean) * lost - mean * won)


@LEARNERS
def test_the_improved_policy_is_the_definition(task):
    learner = learner_of(task=task, temperature=0.3)
    trials, beliefs, log_policy = played_by(learner)
    improved, gain = learner._improved(trials.inputs, beliefs, log_policy)
    values = learner.values.action_values(beliefs)[5, 2].tolist()
    weights = torch.tensor([math.exp(float(p) + q / 0.3) for p, q in zip(log_policy[5, 2], values, strict=True)])
    torch.testing.assert_close(improved.log_policy[5, 2].exp(), weights / weights.sum())
    torch.testing.assert_close(improved.means, learner.task.posterior_rewards(*seen_in(learner, trials)))
    assert gain.shape == (16,) and gain.min() > 0


def seen_in(learner, trials):
    return learner.model.observations(trials.inputs), trials.actions, trials.rewards


@LEARNERS
def test_examples_are_lambda_returns(task):
    """By the recursion, of one trial."""
    learner = learner_of(task=task, value_lambda=0.7)
    trials, beliefs, log_policy = played_by(learner)
    values = learner.values.action_values(beliefs)[3].detach()
    later, returns, of_actions = 0.0, [], []
    for t in reversed(range(values.shape[0])):
        action = trials.actions[3, t]
        of_actions.append(float(beliefs.rewards[3, t, action]) + later)
        expected = float(log_policy[3, t].exp() @ values[t])
        later = expected + 0.7 * (of_actions[-1] - float(values[t, action]))
        returns.append(later)
    examples = learner._examples(beliefs, trials.actions, log_policy)
    if task is TASK:
        found, wanted = -examples.regrets.view(16, -1)[3], returns
    else:
        found, wanted = examples.values.view(16, -1)[3], of_actions
    torch.testing.assert_close(found, torch.tensor(wanted[::-1]))


def test_parts_of_a_batch_are_all_of_it(monkeypatch):
    learner = learner_of()
    trials, beliefs, log_policy = played_by(learner)
    whole = learner.values.action_values(beliefs)
    for module in (runs.algorithms.lookahead, runs.algorithms.belief_values):
        monkeypatch.setattr(module, "STEPS_AT_ONCE", 2 * 5 * 3)
    torch.testing.assert_close(learner.values.action_values(beliefs), whole)
    torch.testing.assert_close(learner._log_policy(trials.inputs), log_policy)


@LEARNERS
@pytest.mark.parametrize("reverse", [0.0, 0.3, 1.0])
def test_the_policys_loss_is_its_divergence_and_the_error_of_its_predictions(task, reverse):
    learner = learner_of(task=task, reverse=reverse)
    improved, _ = improved_by(learner)
    loss, _ = learner._policy_losses(improved)
    A = improved.log_policy.shape[-1]
    outputs = learner.model.policy(improved.inputs)
    policy, wanted = Categorical(logits=outputs[..., :A]), Categorical(logits=improved.log_policy)
    divergence = (1 - reverse) * kl_divergence(wanted, policy) + reverse * kl_divergence(policy, wanted)
    expected = divergence.mean() + (outputs[..., A:] - improved.means).square().mean()
    torch.testing.assert_close(loss, expected)
    weights = [*learner.model.policy.parameters()]
    wanted = torch.autograd.grad(expected, weights)
    for a, b in zip(torch.autograd.grad(loss, weights), wanted, strict=True):
        torch.testing.assert_close(a, b)


@LEARNERS
def test_an_update_fits_the_values_first_and_then_learns_the_policy_improved_by_them(task):
    """Both move towards what they should: errors and divergence fall, on the trials of the update."""
    learner = learner_of(
        task=task, epochs=100, value_epochs=200, learning_rate=1e-2, value_learning_rate=1e-2, steps=10**6
    )
    trials, beliefs, log_policy = played_by(learner)
    examples = learner._examples(beliefs, trials.actions, log_policy)
    before = learner._value_losses(examples)[1]["value_loss"]
    learner.learn(trials, 0.0)
    assert learner._value_losses(examples)[1]["value_loss"] < 0.5 * before
    wanted, _ = learner._improved(
        trials.inputs, beliefs, log_policy
    )  # by the fitted network, from the policy that played
    after = learner._policy_losses(wanted)[1]["policy_loss"]
    divergence = (wanted.log_policy.exp() * (wanted.log_policy - log_policy)).sum(-1).mean()
    assert after < 0.8 * divergence


@LEARNERS
def test_the_value_network_is_fitted_to_some_of_the_states(task):
    learner = learner_of(task=task, value_states=21)
    found = examples_of(learner)
    some = learner._some(found)
    assert len(found) == 16 * learner.horizon and len(some) == 20  # in 2 minibatches

    def rows(examples):
        return torch.cat(
            [x.double().flatten(1) if x.ndim > 1 else x[:, None].double() for x in vars(examples).values()], 1
        )

    whole = rows(found).tolist()
    for row in rows(some).tolist():
        assert row in whole


# ----- values of MDPs


def test_plans_are_those_of_value_iteration_step_by_step(monkeypatch):
    """All steps at once, in parts, against a loop that counts and plans before each step."""
    monkeypatch.setattr(baselines.mdp_values, "STEPS_AT_ONCE", 16)
    learner = learner_of(task=MDPS)
    trials, _, _ = played_by(learner)
    states = learner.model.observations(trials.inputs)
    found = mdp_plans(states, trials.actions, trials.rewards, 4, 3, 4)
    (B, T), H = states.shape, 4
    seen, rows = Statistics.none(trials.tasks), torch.arange(B)
    for t in range(T):
        h, now, means = t % H, states[:, t], seen.mean_rewards(prior_mean=1.0)
        plans = [value_iteration(seen.mean_chances(), means + b / (1 + seen.visits), H) for b in (0.0, 1.0, 4.0)]
        here, whole = [q[rows, h, now] for q in plans], [q[:, 0, 0].amax(-1) for q in plans]
        best = [q.amax(-1) for q in here]
        visits = seen.visits[rows, now]
        of_actions = [q - v[:, None] for q, v in zip(here, best, strict=True)]
        of_actions += [means[rows, now] - 1, 1 / (1 + visits), visits.log1p() / 2]
        torch.testing.assert_close(found.of_actions[:, t], torch.stack(of_actions, -1))
        tried = (seen.visits > 0).float().mean((1, 2))
        later = (T - 1 - t) // H
        of_states = [best[0] / (H - h) - 1.3, whole[0] / H - 1.5]
        of_states += [(best[i] - best[0]) / H for i in (1, 2)] + [(whole[i] - whole[0]) / H for i in (1, 2)]
        of_states += [torch.full((B,), h / H), torch.full((B,), later / (T // H)), tried]
        torch.testing.assert_close(found.of_states[:, t], torch.stack(of_states, -1))
        torch.testing.assert_close(found.planned[:, t], best[0] + later * whole[0])
        torch.testing.assert_close(found.means[:, t], means[rows, now])
        following = None if h == H - 1 else states[:, t + 1]
        seen.add(now, trials.actions[:, t], trials.rewards[:, t], following)


def test_plans_know_nothing_of_what_comes_later():
    learner = learner_of(task=MDPS)
    trials, beliefs, _ = played_by(learner)
    states, actions, rewards = (x.clone() for x in seen_in(learner, trials))
    actions[:, 5:] = (actions[:, 5:] + 1) % 3
    rewards[:, 5:] += 1
    changed = learner.values.beliefs(states, actions, rewards)
    for a, b in zip(vars(beliefs).values(), vars(changed).values(), strict=True):
        torch.testing.assert_close(a[:, :6], b[:, :6])
    assert not torch.equal(beliefs.planned[:, 6], changed.planned[:, 6])


def test_the_order_of_actions_does_not_matter():
    torch.manual_seed(0)
    network, order = MDPValueNetwork(2), [2, 0, 1]
    of_actions, of_states, planned = torch.randn(5, 3, 6), torch.randn(5, 9), torch.randn(5)
    found = network(of_actions, of_states, planned)
    torch.testing.assert_close(network(of_actions[:, order], of_states, planned), found[:, order])
    torch.testing.assert_close(network(of_actions, of_states, planned + 3), found + 3)


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


@pytest.mark.slow
def test_in_small_mdps_it_earns_more_than_plans_on_present_knowledge():
    """2 episodes of 4 steps in 4 states with 3 actions: random actions earn 8, the greedy planner about 9.2."""
    training = LookaheadTraining(30, 128, minibatches=8, learning_rate=4e-3)
    learner = learner_for(training, MDPS, AGENTS["snail"], TrialTest(8000), 0, CPU)
    for step in range(30):
        learner.update(step)
    (found,) = learner.evaluate(lambda done, of: None)
    env = MDPS.make_env(8000, "cpu")
    env.reset(seed=0)
    greedy = float(GreedyPolicy().play(env, torch.Generator().manual_seed(0)).sum(1).mean())
    assert found.mean > greedy + 0.1


def test_maml_learns_by_it_too():
    learner = learner_of(MAMLPolicyConfig(hidden_size=8, layers=1, inner_steps=2), steps=20, learning_rate=1e-1)
    regrets = [float(learner.update(step)["regret"]) for step in range(20)]
    assert sum(regrets[-5:]) < 0.9 * sum(regrets[:5])


@LEARNERS
def test_a_step_reads_nothing_back_to_the_host(task, monkeypatch):
    monkeypatch.setattr(passes, "require_finite", lambda *_: None)  # which looks, on a processor alone
    learner = learner_of(task=task)
    examples, (improved, _) = examples_of(learner), improved_by(learner)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert set(learner.fit_values.step(*vars(examples).values())) == {"value_loss"}
        logs = learner.fit_policy.step(*vars(improved).values())
    assert set(logs) == {"gradient_norm", "loss", "policy_loss", "reward_error"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reverse": 1.5}, "reverse must be between 0 and 1, got 1.5"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"minibatches": 3}, "batch_size must be a multiple of minibatches, got 16 and 3"),
        ({"epochs": 0}, "epochs must be"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(RunError, match=message):
        learner_of(**changes)


def test_other_tasks_have_no_such_belief_states():
    message = "lookahead needs belief states of bandits or MDPs, not of RecallTask; give --algorithm ppo"
    with pytest.raises(RunError, match=message):
        learner_of(task=RecallTask(2, 2))

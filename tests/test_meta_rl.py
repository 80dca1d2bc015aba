"""How trials are judged, and played on frozen tasks."""

from __future__ import annotations

from dataclasses import replace

import torch

from runs.algorithms.meta_rl import MetaRLLearner
from runs.algorithms.rollout import rollout
from runs.catalogue import find
from runs.system.machine import Machine
from runs.training import build_learner

CPU = Machine(torch.device("cpu"))


def learner_of(**changes) -> MetaRLLearner:
    config = find("mdp/n10").config("gru", budget="smoke")
    training = replace(config.training, **{"batch_size": 16, "discount": 0.9} | changes)
    return build_learner(replace(config, task=replace(config.task, episodes=2), training=training), CPU)


def judged(**changes):
    """Rewards and values (B, T) as the learner sees them before its first update, and what it makes of them."""
    torch.manual_seed(0)
    learner = learner_of(**changes)
    trials = rollout(learner.model, learner.env, learner.generator)
    with torch.no_grad():
        values = learner.model(trials.inputs)[1]  # nothing is known of their scale yet
    batch, mismatch = learner._compute_advantages(trials, learner.training.gae_lambda)
    assert mismatch < 1e-5
    return learner, trials.rewards, values, batch


def test_values_learn_the_return_and_actions_are_judged_by_lambda():
    """Two lambdas: 1 makes targets of what was collected, 0 judges an action by the next value alone."""
    learner, rewards, values, batch = judged(value_lambda=1.0, gae_lambda=0.0)
    collected = torch.zeros_like(rewards)
    following = torch.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        following = collected[:, t] = rewards[:, t] + 0.9 * following
    targets = (collected - collected.mean(0)) / collected.std(0, correction=0)
    torch.testing.assert_close(batch.targets, targets, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(learner.return_normalizer.restore(batch.targets), collected, atol=1e-4, rtol=1e-4)
    delta = rewards - values
    delta[:, :-1] += 0.9 * values[:, 1:]
    advantages = (delta - delta.mean(0)) / delta.std(0, correction=0)
    torch.testing.assert_close(batch.advantages, advantages, atol=1e-4, rtol=1e-4)


def test_every_step_of_the_trial_has_the_same_say():
    """However much larger the rewards of one step are."""
    _, _, _, batch = judged()
    for x in (batch.advantages, batch.targets):
        torch.testing.assert_close(x.std(0, correction=0), torch.ones(x.shape[1]), atol=1e-3, rtol=0)


def test_frozen_tasks_are_the_same_for_every_agent_and_setting():
    found = []
    for agent in ("gru", "lstm"):
        config = find("bandit/n10-k5").config(agent, seed=len(found), budget="smoke")
        config = replace(config, test=replace(config.test, trials=50))
        (measured,) = build_learner(config, CPU).evaluate(lambda done, of: None)
        found.append(measured)
    assert found[0].task_set == found[1].task_set
    assert not torch.equal(found[0].samples, found[1].samples)  # other agents
    other = replace(config.test, seed=1)
    (measured,) = build_learner(replace(config, test=other), CPU).evaluate(lambda done, of: None)
    assert measured.task_set != found[0].task_set

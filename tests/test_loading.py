"""Loaded agents do what their runs do: they act as in the rollouts, and classify as in the test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_runs import BANDIT, CPU, FEWSHOT, few_classes, go, quicken

import runs
from runs.agents import SNAILConfig
from runs.algorithms.rollout import rollout
from runs.loading import Actor, Classifier
from runs.system.errors import RunError
from runs.training import build_learner, load_model


@pytest.mark.parametrize("model", [BANDIT.model, SNAILConfig(width=0.25)], ids=["gru", "snail"])
def test_an_actor_plays_as_in_the_rollout(tmp_path, monkeypatch, model):
    quicken(monkeypatch)
    config = replace(BANDIT, model=model)
    go(config, tmp_path)
    agent = runs.load(tmp_path)
    assert isinstance(agent, Actor)
    learner = build_learner(config, CPU)
    load_model(learner, runs.results.folder.RunFolder(tmp_path), config)
    env = config.task.make_env(20, "cpu")
    env.reset(seed=3)
    trials = rollout(learner.model, env, torch.Generator().manual_seed(5), env.tasks)
    env.reset(seed=3)
    observation, _ = env.reset(options={"tasks": trials.tasks})
    generator = torch.Generator().manual_seed(5)
    action, state = agent.act(observation, generator=generator)
    for t in range(env.horizon):
        assert torch.equal(action, trials.actions[:, t])
        observation, reward, _, _, info = env.step(action)
        assert torch.equal(reward, trials.rewards[:, t])
        if t + 1 < env.horizon:
            action, state = agent.act(observation, state, action, reward, info["episode_end"], generator)
    with pytest.raises(ValueError, match="after the first step, give previous_action"):
        agent.act(observation, state)


def test_a_classifier_classifies_as_in_the_test(tmp_path, monkeypatch, bfloat16_anywhere):
    quicken(monkeypatch)
    go(FEWSHOT, tmp_path)
    agent = runs.load(str(tmp_path))
    assert isinstance(agent, Classifier)
    learner = build_learner(FEWSHOT, CPU)
    load_model(learner, runs.results.folder.RunFolder(tmp_path), FEWSHOT)
    learner._take_selected()
    learner.model.eval()
    images = few_classes("glyphs", "test").images
    support, labels, queries = images[:2, 0], torch.tensor([0, 1]), images[:2, 1:4].flatten(0, 1)
    found = agent.classify(support, labels, queries)
    assert found.shape == (6, 2)
    torch.testing.assert_close(found.sum(1), torch.ones(6))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = learner.model(support[None], labels[None], queries[None])[0]
    torch.testing.assert_close(found, expected.float().softmax(-1))
    with pytest.raises(ValueError, match="labels must be from 0 to 1"):
        agent.classify(support, torch.tensor([0, 2]), queries)


def test_published_agents_are_found_by_name():
    agent = runs.load("bandit/n10-k5/snail")
    assert isinstance(agent, Actor) and agent.horizon == 10
    with pytest.raises(RunError, match="in nothing/here; is it the folder of a run"):
        runs.load("nothing/here")
    with pytest.raises(RunError, match="has no weights"):
        runs.load("bandit/n10-k5/ucb1")


@pytest.mark.slow
def test_a_loaded_agent_is_good():
    """It beats the greedy method's 6.63 on bandits that it has never seen."""
    from runs.tasks import BanditTask

    agent = runs.load("bandit/n10-k5/snail")
    env = BanditTask(5, 10).make_env(20_000, "cpu")
    observation, _ = env.reset(seed=1)
    generator, total = torch.Generator().manual_seed(1), torch.zeros(20_000)
    action, state = agent.act(observation, generator=generator)
    for pull in range(10):
        observation, reward, _, _, info = env.step(action)
        total += reward
        if pull < 9:
            action, state = agent.act(observation, state, action, reward, info["episode_end"], generator)
    assert total.mean() > 6.6

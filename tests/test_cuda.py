"""What must hold on a GPU too; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_runs import learner_for

from baselines.flash import kernels
from baselines.linear_attention import read_and_write, unit
from runs.agents import AGENTS, ActorCriticSpec
from runs.algorithms.fewshot import FewShotTest, SupervisedTraining
from runs.algorithms.lookahead import LookaheadTraining
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.passes import Passes
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.rollout import RecordedRollout, rollout
from runs.catalogue import find
from runs.results.folder import RunFolder
from runs.system.machine import Machine
from runs.training import train
from snail import SNAIL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_step_prefill_and_branch_equal_forward():
    torch.manual_seed(0)
    model = SNAIL.fewshot(embedding_size=8, ways=3, max_shots=2).cuda()
    x = torch.randn(4, 7, 11, device="cuda")
    with torch.no_grad():
        expected = model(x)
        cache, steps = model.init_cache(4, 7), []
        for t in range(7):
            y, cache = model.step(x[:, t], cache)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps, dim=1), expected, atol=1e-4, rtol=1e-4)
        _, cache = model.prefill(x[:, :6])
        torch.testing.assert_close(model.branch(x[:, 6:], cache), expected[:, 6:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("delta", [True, False])
def test_kernels_of_flash_linear_attention_are_our_recurrence(delta):
    pytest.importorskip("fla")
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 150, 32, device="cuda")
    inputs = [unit(q), unit(k), v, -torch.rand(2, 4, 150, device="cuda"), torch.randn(2, 4, 32, 32, device="cuda")]
    inputs += [torch.rand(2, 4, 150, device="cuda")] if delta else []
    weights = torch.randn(2, 4, 150, 32, device="cuda")
    found = []
    for rule in (kernels, read_and_write):
        leaves = [x.clone().requires_grad_() for x in inputs]
        read, memory = rule(*leaves)
        found.append([read, memory, *torch.autograd.grad((read * weights).sum() + memory.square().sum(), leaves)])
    for ours, expected in zip(*found, strict=True):
        assert (ours - expected).abs().max() < 0.01 * expected.abs().max()  # TF32


@pytest.mark.parametrize("agent", AGENTS)
def test_the_gpu_runs_both_loops(agent, tmp_path):
    machine = Machine.named("cuda")
    bandit = replace(
        find("bandit/n10-k5").config(agent, budget="smoke"), training=PPOTraining(3, batch_size=32), test=TrialTest(100)
    )
    record = train(bandit, RunFolder(tmp_path / "bandit"), machine, tracker="none", quiet=True)
    assert 0 <= record["results"][0]["mean"] <= 10
    fewshot = replace(
        find("glyphs/5way-1shot").config(agent, budget="smoke"),
        training=SupervisedTraining(3, batch_size=2, validation_episodes=4, validations=1),
        test=FewShotTest(episodes=10),
    )
    record = train(fewshot, RunFolder(tmp_path / "fewshot"), machine, tracker="none", quiet=True)
    assert 0 <= record["results"][0]["mean"] <= 1


@pytest.mark.parametrize("experiment", ["bandit/n10-k5", "mdp/n10"])
@pytest.mark.parametrize("agent", AGENTS)
def test_the_recorded_rollout_plays_what_the_plain_one_plays(agent, experiment):
    config = find(experiment).config(agent, budget="smoke")

    def parts():
        torch.manual_seed(0)
        env = config.task.make_env(16, "cuda")
        env.reset(seed=1)
        spec = ActorCriticSpec(env.num_observations, env.num_actions, env.horizon)
        model = config.model.build_actor_critic(spec)
        return model.cuda(), env, torch.Generator("cuda").manual_seed(2)

    plain, recorded = parts(), parts()
    play = RecordedRollout(*recorded)
    for _ in range(3):  # new tasks each time, and other weights
        expected, found = rollout(*plain), play()
        for name, x in vars(expected).items():
            torch.testing.assert_close(vars(found)[name], x, atol=1e-5, rtol=1e-5)
        for model, _, _ in (plain, recorded):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(1.1)
    assert torch.equal(plain[1].generator.get_state(), recorded[1].generator.get_state())
    assert torch.equal(plain[2].get_state(), recorded[2].get_state())


@pytest.mark.parametrize(
    "experiment, training",
    [
        ("bandit/n10-k5", PPOTraining(4, batch_size=32, minibatches=4, epochs=2)),
        ("bandit/n10-k5", LookaheadTraining(4, 32, minibatches=4)),
        ("mdp/n10", LookaheadTraining(4, 32, minibatches=4, reverse=0.5)),
    ],
    ids=["ppo", "lookahead", "lookahead-mdp"],
)
def test_replayed_steps_learn_what_plain_ones_learn(experiment, training):
    def weights(graphs):
        config = find(experiment).config("snail", budget="smoke")
        learner = learner_for(training, config.task, config.model, TrialTest(10), 0, Machine.named("cuda"))
        for passes in (x for x in vars(learner).values() if isinstance(x, Passes)):
            passes.replayed.graphs = graphs
        logs = [learner.update(step) for step in range(4)]
        return [*learner.model.parameters(), *(x["loss"] for x in logs)]

    for replayed, plain in zip(weights(True), weights(False), strict=True):
        torch.testing.assert_close(replayed, plain, rtol=1e-3, atol=1e-4)

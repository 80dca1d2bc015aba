"""What must hold on a GPU too; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from runs.agents import AGENTS
from runs.catalogue import find
from runs.folder import RunFolder
from runs.machine import Machine
from runs.meta_rl import TrialTest
from runs.ppo import PPOTraining
from runs.supervised import FewShotTest, SupervisedTraining
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
            y, cache = model.step(x[:, t], cache, in_place=True)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps, dim=1), expected, atol=1e-4, rtol=1e-4)
        _, cache = model.prefill(x[:, :6])
        torch.testing.assert_close(model.branch(x[:, 6:], cache), expected[:, 6:], atol=1e-4, rtol=1e-4)


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

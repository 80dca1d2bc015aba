"""Every agent learns a trivial task of each kind in seconds: wiring mistakes that leave all shapes right end here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny_runs import learner_for

import runs.algorithms.fewshot
import runs.tasks
from envs.bandits import BernoulliBanditVectorEnv
from envs.fewshot.datasets.base import ImageClasses
from runs.agents import AGENTS, GRUConfig, LSTMConfig, TransformerConfig
from runs.agents.embeddings import OmniglotEmbeddingConfig
from runs.algorithms.fewshot import FewShotTest, SupervisedTraining
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.trpo import TRPOTraining
from runs.system.machine import Machine
from runs.tasks import FewShotTask, TrialTask

pytestmark = pytest.mark.slow

CPU = Machine(torch.device("cpu"))
PULLS = 6


def learned(learner: Any) -> tuple[float, float]:
    """What the learner measures before and after its training."""

    def measure() -> float:
        (found,) = learner.evaluate(lambda done, of: None)
        return found.mean

    before = measure()
    for step in range(learner.steps):
        learner.update(step)
    return before, measure()


# ----- meta-reinforcement learning


class OneGoodArm(BernoulliBanditVectorEnv):
    """Two arms, of which one, at random, always pays and the other never does."""

    def sample_tasks(self, n: int, generator: torch.Generator) -> torch.Tensor:
        first = torch.rand(n, generator=generator, device=generator.device) < 0.5
        return torch.stack([first, ~first], dim=1).float()


@dataclass(frozen=True)
class OneGoodArmTask(TrialTask):
    def make_env(self, num_envs: int, device: torch.device, episodes: int | None = None) -> OneGoodArm:
        return OneGoodArm(num_envs, 2, episodes or PULLS, device=device, autoreset_mode="Disabled")


RL = PPOTraining(
    steps=24,
    batch_size=64,
    epochs=4,
    minibatches=2,
    learning_rate=3e-3,
    discount=0.99,
    gae_lambda=0.3,
    clip_eps=0.2,
    entropy_coef=0.01,
    max_grad_norm=1.0,
)
TRPO = TRPOTraining(steps=40, batch_size=64, max_kl=0.03, discount=0.99, minibatches=2)
RL_AGENTS = {
    "snail": (AGENTS["snail"], RL),
    "lstm": (LSTMConfig(hidden_size=32), replace(RL, steps=40, learning_rate=1e-2)),
    "gru": (GRUConfig(hidden_size=32), replace(RL, steps=40, learning_rate=1e-2)),
    "transformer": (TransformerConfig(width=32), RL),
    "snail, one network": (AGENTS["snail"], replace(RL, shared_trunk=True)),
    "snail, predicting rewards": (AGENTS["snail"], replace(RL, reward_prediction=1.0)),
    "snail, growing trials": (AGENTS["snail"], replace(RL, curriculum=0.5, curriculum_episodes=2)),
    "gru, trpo": (GRUConfig(hidden_size=32), TRPO),
}


@pytest.mark.parametrize("agent", RL_AGENTS)
def test_agents_learn_which_arm_pays(agent):
    """One pull tells: the best return is 1/2 for it and 1 for each of the others; guessing gets half of all."""
    model, training = RL_AGENTS[agent]
    learner = learner_for(training, OneGoodArmTask(), model, TrialTest(trials=500), 0, CPU)
    before, after = learned(learner)
    best, chance = PULLS - 0.5, PULLS / 2
    assert before == pytest.approx(chance, abs=0.4)
    assert chance + 0.75 * (best - chance) < after < best + 0.2


def test_foreseen_rewards_come_true():
    """After one pull that paid or did not, both arms' rewards are known."""
    training = replace(RL, reward_prediction=1.0)
    learner = learner_for(training, OneGoodArmTask(), AGENTS["snail"], TrialTest(trials=500), 0, CPU)
    errors = [learner.update(step)["reward_error"].item() for step in range(learner.steps)]
    assert errors[0] > 0.2 and errors[-1] < 0.1  # 1/4 is the variance of a reward that nobody can predict


# ----- few-shot classification


def patterns(name: str, split: str, **options: Any) -> ImageClasses:
    """Each class is a random 4x4 pattern, its examples differ by noise; every split has classes of its own."""
    generator = torch.Generator().manual_seed(("train", "val", "test").index(split))
    classes = 200 if split == "train" else 30
    pattern = torch.rand(classes, 1, 1, 4, 4, generator=generator).round()
    images = 200 * pattern.repeat_interleave(7, 3).repeat_interleave(7, 4)
    return ImageClasses((images + 55 * torch.rand(classes, 6, 1, 28, 28, generator=generator)).byte(), name, split)


FEWSHOT = SupervisedTraining(
    steps=250,
    batch_size=16,
    queries=4,
    learning_rate=1e-2,
    warmup=0.1,
    weight_decay=1e-4,
    max_grad_norm=1.0,
    bfloat16=False,
)
FEWSHOT_AGENTS = {
    "snail": (AGENTS["snail"], replace(FEWSHOT, steps=100, learning_rate=3e-3)),
    "lstm": (LSTMConfig(hidden_size=64), FEWSHOT),
    "gru": (GRUConfig(hidden_size=64), FEWSHOT),
    "transformer": (TransformerConfig(width=32), FEWSHOT),
}


@pytest.mark.parametrize("agent", FEWSHOT_AGENTS)
def test_agents_learn_to_match_new_classes(agent, monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", patterns)
    model, training = FEWSHOT_AGENTS[agent]
    small = OmniglotEmbeddingConfig(size=16, filters=16)  # for speed
    task = FewShotTask("glyphs", ways=2, shots=(1,), test_shots=(1,), embedding=small)
    learner = learner_for(training, task, model, FewShotTest(episodes=200, queries=4), 0, CPU)
    before, after = learned(learner)
    assert before == pytest.approx(0.5, abs=0.12)
    assert after > 0.85

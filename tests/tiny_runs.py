"""Runs of a second, of every loop, and what tells whether two of them are the same: for several test files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import runs.tasks
import runs.training
from envs.fewshot.augmentation import Augmentation
from envs.fewshot.datasets.base import ImageClasses
from runs.agents import GRUConfig
from runs.algorithms.fewshot import FewShotLearner, FewShotTest, SupervisedTraining
from runs.algorithms.lookahead import LookaheadLearner, LookaheadTraining
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOLearner, PPOTraining
from runs.algorithms.trpo import TRPOLearner, TRPOTraining
from runs.catalogue import RunConfig
from runs.results.folder import RunFolder
from runs.results.records import Result
from runs.system.machine import Machine
from runs.tasks import BanditTask, FewShotTask, MDPTask
from runs.training import train

CPU = Machine(torch.device("cpu"))
STEPS = 6
BANDIT = RunConfig(
    "bandit/n10-k5",
    "gru",
    "smoke",
    1,
    BanditTask(arms=3, pulls=4),
    GRUConfig(hidden_size=8),
    PPOTraining(STEPS, batch_size=32, epochs=2, minibatches=2, curriculum=0.5, curriculum_episodes=2),
    TrialTest(trials=100),
)
TRPO = replace(
    BANDIT, training=TRPOTraining(STEPS, batch_size=32, minibatches=2, curriculum=0.5, curriculum_episodes=2)
)
FEWSHOT = RunConfig(
    "glyphs/5way",
    "gru",
    "smoke",
    1,
    FewShotTask("glyphs", ways=2, shots=(1, 2), test_shots=(1, 2)),
    GRUConfig(hidden_size=8),
    SupervisedTraining(
        STEPS,
        batch_size=2,
        queries=2,
        class_loss=0.5,
        prototype_loss=0.5,
        recombined=2,
        augmentation=Augmentation(shift=1),
        validation_episodes=4,
        validations=2,
    ),
    FewShotTest(episodes=10, queries=3),
)
PRIVILEGED = replace(
    BANDIT,
    training=replace(
        BANDIT.training,
        expected_rewards=True,
        regrets=True,
        belief_critic=True,
        posterior_rewards=True,
        final_lambda=0.9,
        bfloat16=True,
    ),
)
LOOKAHEAD = replace(
    BANDIT, training=LookaheadTraining(STEPS, 32, minibatches=2, curriculum=0.5, curriculum_episodes=2, bfloat16=True)
)
IN_MDPS = replace(
    LOOKAHEAD, experiment="mdp/n10", task=MDPTask(2, 3, 2, 4), training=replace(LOOKAHEAD.training, reverse=0.5)
)
LOOPS: dict[str, tuple[RunConfig, type]] = {
    "bandit": (BANDIT, PPOLearner),
    "privileged": (PRIVILEGED, PPOLearner),
    "lookahead": (LOOKAHEAD, LookaheadLearner),
    "lookahead-mdp": (IN_MDPS, LookaheadLearner),
    "trpo": (TRPO, TRPOLearner),
    "few-shot": (FEWSHOT, FewShotLearner),
}


def learner_for(training: Any, task: Any, model: Any, test: Any, seed: int = 0, machine: Machine = CPU) -> Any:
    """What trains ``model`` on ``task``."""
    return training.learner(RunConfig("", "", "", seed, task, model, training, test), machine)


def few_classes(name: str, split: str, **options: Any) -> ImageClasses:
    """A data set that needs no drawing, no download and no time."""
    generator = torch.Generator().manual_seed(("train", "val", "test").index(split))
    return ImageClasses(torch.randint(0, 256, (4, 5, 1, 28, 28), generator=generator, dtype=torch.uint8), name, split)


def noise_classes(name: str, split: str, **options: Any) -> ImageClasses:
    """A data set of noise that is large enough for the catalogue's experiments on drawings."""
    generator = torch.Generator().manual_seed(("train", "val", "test").index(split))
    images = torch.randint(0, 256, (25, 20, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return ImageClasses(images, name, split)


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Metrics and a checkpoint at every step, and small data."""
    patch.setattr(runs.training, "SHOW_SECONDS", -1.0)
    patch.setattr(runs.training, "CHECKPOINT_SECONDS", -1.0)
    patch.setattr(runs.tasks, "load_classes", few_classes)


def go(config: RunConfig, path: Path, tracker: str = "none", **options: Any) -> dict[str, Any]:
    return train(config, RunFolder(path), CPU, tracker=tracker, quiet=True, **options)


def saved_state(path: Path) -> dict[str, Any]:
    return torch.load(path / "checkpoint.pt", weights_only=True)


def assert_identical(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, tensors included."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def untimed_metrics(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def assert_same_run(path: Path, whole: Path) -> None:
    """Weights, optimiser, randomness, metrics and results are those of the uninterrupted run."""
    state, expected = saved_state(path), saved_state(whole)
    assert state["progress"]["step"] == expected["progress"]["step"] == STEPS
    assert_identical(state["learner"], expected["learner"])
    assert untimed_metrics(path) == untimed_metrics(whole)
    results = [json.loads((p / "result.json").read_text())["results"] for p in (path, whole)]
    assert results[0] == results[1]


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}


def result(**changes) -> Result:
    """A record that no run has left."""
    base = Result(
        experiment="bandit/n10-k5",
        agent="snail",
        seed=0,
        budget="demo",
        metric="return",
        shots=None,
        mean=6.5,
        ci95=0.03,
        n=100,
        task_set="x",
        as_catalogued=True,
        current=True,
        settings="s",
        train_seconds=60.0,
        parameters=1234567,
        path=Path("a"),
    )
    return replace(base, **changes)

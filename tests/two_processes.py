"""What each of the two processes does that torchrun starts in test_data_parallel; the argument is a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from torch import nn

import runs.algorithms.fewshot
import runs.tasks
import runs.training
from baselines.learn2learn import MissingLibrary, import_learn2learn
from envs.fewshot.augmentation import Augmentation
from envs.fewshot.datasets.base import ImageClasses
from runs.agents import GRUConfig, MAMLConfig
from runs.agents.embeddings import OmniglotEmbeddingConfig, ResidualEmbeddingConfig
from runs.algorithms.fewshot import FewShotTest, SupervisedTraining
from runs.algorithms.lookahead import LookaheadTraining
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.trpo import TRPOTraining
from runs.catalogue import RunConfig
from runs.results.folder import RunFolder
from runs.system.deadline import Deadline
from runs.system.distributed.layers import use_distributed_layers
from runs.system.distributed.process_group import ProcessGroup
from runs.system.errors import OutOfTime, RunError
from runs.system.machine import Machine
from runs.tasks import FewShotTask, MDPTask
from runs.training import train

STEPS, HALF = 4, 2
TRIALS = {"batch_size": 96, "minibatches": 2, "curriculum": 0.5, "curriculum_episodes": 2}
BANDIT = replace(tiny_runs.BANDIT, training=PPOTraining(STEPS, epochs=2, **TRIALS), test=TrialTest(trials=50))
DRAWINGS = RunConfig(
    "glyphs/5way",
    "gru",
    "smoke",
    1,
    FewShotTask("glyphs", ways=3, shots=(1, 2), test_shots=(1,), embedding=OmniglotEmbeddingConfig(size=16, filters=8)),
    GRUConfig(hidden_size=8),
    SupervisedTraining(
        STEPS,
        batch_size=4,
        queries=4,
        bfloat16=False,
        class_loss=0.5,
        prototype_loss=0.5,
        prototype_pool="batch",
        augmentation=Augmentation(shift=1),
        validation_episodes=4,
        validations=2,
    ),
    FewShotTest(episodes=4, queries=3),
)
PHOTOGRAPHS = replace(
    DRAWINGS,
    experiment="mini-imagenet/5way",
    task=replace(
        DRAWINGS.task,
        data="mini-imagenet",
        embedding=ResidualEmbeddingConfig(size=8, filters=(4, 4, 4, 4), wide=8, dropout=0.3),
    ),
)
CONFIGS = {
    "ppo": BANDIT,
    "trpo": replace(BANDIT, training=TRPOTraining(STEPS, fisher_part=0.2, **TRIALS)),  # 19 trials: uneven parts
    "lookahead": replace(BANDIT, training=LookaheadTraining(STEPS, **TRIALS)),
    "lookahead-mdp": replace(BANDIT, task=MDPTask(2, 3, 2, 4), training=LookaheadTraining(STEPS, **TRIALS)),
    "drawings": DRAWINGS,
    "photographs": PHOTOGRAPHS,  # with dropout
}
with suppress(MissingLibrary):
    import_learn2learn()
    CONFIGS["maml"] = replace(DRAWINGS, agent="maml", model=MAMLConfig())
RESUMED = ("ppo", "drawings")
WRONG = ("own norms", "own gradients")


def few_classes(name: str, split: str, **options: Any) -> ImageClasses:
    """A data set that needs no drawing, no download and no time."""
    generator = torch.Generator().manual_seed(("train", "val", "test").index(split))
    shape = (3, 84, 84) if name == "mini-imagenet" else (1, 28, 28)
    return ImageClasses(torch.randint(0, 256, (5, 6, *shape), generator=generator, dtype=torch.uint8), name, split)


@contextmanager
def settings(config: RunConfig) -> Iterator[pytest.MonkeyPatch]:
    """Metrics at every step and small data; images in double precision, where rounding hides no error.

    There the gradient's rounding errors are 10,000 times as large as the loss's.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.tasks, "load_classes", few_classes)
        before = torch.get_default_dtype()
        if isinstance(config.task, FewShotTask):
            torch.set_default_dtype(torch.float64)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        try:
            yield patch
        finally:
            torch.set_default_dtype(before)


class StopAfter(Deadline):
    """Near after so many updates."""

    def __init__(self, updates: int):
        super().__init__()
        self.left = updates

    def near(self) -> bool:
        self.left -= 1
        return self.left == 0


def go(config: RunConfig, path: Path, machine: Machine, stops: bool = False, **options: Any) -> None:
    """Train; ``stops`` stops half way."""
    deadline = StopAfter(HALF) if stops else None
    with settings(config), suppress(OutOfTime):
        train(config, RunFolder(path), machine, tracker="none", quiet=True, deadline=deadline, **options)


def go_wrong(what: str, path: Path, machine: Machine) -> None:
    """Train with an error of which the tests have to become aware."""
    with pytest.MonkeyPatch.context() as patch:
        if what == "own norms":
            patch.setattr(runs.algorithms.fewshot, "use_distributed_layers", lambda model, group: None)
        else:
            patch.setattr(ProcessGroup, "average_gradients", lambda self, parameters: None)
        go(DRAWINGS, path, machine)


def batch() -> torch.Tensor:
    return torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7


def new_norm() -> nn.Sequential:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
    return nn.Sequential(norm)


def normalize(norm: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Values, gradients and averages of two batches, and the values of a test."""
    x = x.clone().requires_grad_()
    found = {"first": norm(x), "second": norm(x.square())}
    (found["first"].sin().mean() + found["second"].cos().mean()).backward()
    return found | {"gradient": x.grad, "state": norm.state_dict(), "test": norm.eval()(x)}


def team_outcomes(group: ProcessGroup) -> dict[str, Any]:
    """What each method of the group comes to in this process."""
    part = (10.0 * group.rank + torch.arange(2.0))[:, None].requires_grad_()  # (2, 1)
    gathered = group.gather(part.expand(2, 3))  # (4, 3)
    (gathered * torch.arange(12.0).view(4, 3) * (group.rank + 1)).sum().backward()
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (group.rank + 1)
    parameters[1].grad = torch.tensor(float(group.rank))
    group.average_gradients(parameters)
    try:
        with group.barrier():
            if group.rank == 1:
                raise RunError("no room")
    except RunError as e:
        error = str(e)
    with group.barrier():
        pass
    group.require_same("number", 7)
    different = ""
    try:
        group.require_same("checkpoint", group.rank)
    except RunError as e:
        different = str(e)
    norm = new_norm()
    use_distributed_layers(norm, group)
    normalized = normalize(norm, group.shard(batch()))
    group.average_gradients(norm.parameters())
    return {
        "gathered": gathered,
        "gradient": part.grad,
        "total": group.total(torch.tensor([1.0, group.rank])),
        "averaged": [p.grad for p in parameters],
        "mean": group.mean({"a": 1.0, "b": float(group.rank)}),
        "any": group.any(False, True, group.rank == 1),
        "error": error,
        "different": different,
        "normalized": normalized | {"weights": [p.grad for p in norm.parameters()]},
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with Machine.named("cpu").in_process_group() as machine:
        group = machine.group
        torch.save(team_outcomes(group), folder / f"outcomes{group.rank}.pt")
        for name, config in CONFIGS.items():
            go(config, folder / "two" / name, machine)
        for name in RESUMED:
            # one of them wants to stop: the other has to follow
            go(CONFIGS[name], folder / "two, one" / name, machine, stops=group.rank == 1)
            go(CONFIGS[name], folder / "one, two" / name, machine, resume=True)
        for what in WRONG:
            go_wrong(what, folder / what, machine)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""No kernel reads memory that was never written, nor any beside its operands: all fresh memory holds NaN here.

Matrix kernels may read past the columns of a slice and count on what they find being finite (oneDNN's for bfloat16 with
AMX do). Which do depends on the processor; so it is checked on every one that what products read lies in tensors that
were written everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny_runs import BANDIT, CPU, FEWSHOT, few_classes
from torch.utils._python_dispatch import TorchDispatchMode

import runs.algorithms.finite
from runs.agents import AGENTS, ATTENTION_VARIANTS, FEWSHOT_AGENTS, FEWSHOT_VARIANTS, SequenceAgent
from runs.agents.embeddings import ResidualEmbeddingConfig
from runs.algorithms.fewshot import FewShotLearner
from runs.algorithms.finite import NotFinite
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.trpo import TRPOTraining
from runs.catalogue import RunConfig
from runs.tasks import BanditTask, MDPTask
from runs.training import build_learner, evaluate
from snail.convolution import DenseStack

pytestmark = pytest.mark.slow

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "mv", "dot", "linear", "convolution")
FUSED = ("scaled_dot_product", "mkldnn_rnn_layer")


class WrittenOperands(TorchDispatchMode):
    """Checks that the tensors which products read were written everywhere, also beside what is read of them."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), options=None):
        name = function.name().split("::")[1].split(".")[0].strip("_")
        if name in PRODUCTS or name.startswith(FUSED):
            self.products += 1
            added = name.startswith(("add", "badd"))  # what a product is added to is no factor
            for i, x in enumerate(args[1:] if added else args):
                if isinstance(x, torch.Tensor) and x.is_floating_point() and x.layout is torch.strided:
                    whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
                    if whole.isnan().any():
                        raise AssertionError(f"argument {i} of {name}, {tuple(x.shape)}, lies beside unwritten memory")
        return function(*args, **(options or {}))


@contextmanager
def fresh_memory_is_nan() -> Iterator[WrittenOperands]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    try:
        with WrittenOperands() as watch:
            yield watch
    finally:
        torch.use_deterministic_algorithms(False)
    assert watch.products


def learn_and_test(config: RunConfig) -> None:
    learner = build_learner(config, CPU)
    for step in range(2):
        assert all(x.isfinite().all() for x in learner.update(step).values())
    learner.validate()
    assert all(m.samples.isfinite().all() for m in evaluate(learner, quiet=True))
    assert runs.algorithms.finite.strange_weight(learner.model) is None


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    monkeypatch.setattr("runs.tasks.load_classes", few_classes)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("agent", [*FEWSHOT_AGENTS, *FEWSHOT_VARIANTS])
def test_few_shot_agents(agent, bfloat16, request, bfloat16_anywhere):
    if agent == "maml":
        request.getfixturevalue("learn2learn")
    training = replace(FEWSHOT.training, bfloat16=bfloat16)
    with fresh_memory_is_nan():
        learn_and_test(replace(FEWSHOT, model={**FEWSHOT_AGENTS, **FEWSHOT_VARIANTS}[agent], training=training))


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
@pytest.mark.parametrize("agent", [*AGENTS, *ATTENTION_VARIANTS])
def test_agents_in_trials(agent, algorithm):
    model = {**AGENTS, **ATTENTION_VARIANTS}[agent]
    if algorithm == "ppo":
        config = replace(BANDIT, model=model)
    else:
        task = MDPTask(episodes=2)
        training = TRPOTraining(2, batch_size=8, minibatches=2, cg_steps=2)
        config = replace(BANDIT, model=model, task=task, training=training, test=TrialTest(trials=8))
    with fresh_memory_is_nan():
        learn_and_test(config)


@pytest.mark.parametrize("agent", [*AGENTS, *ATTENTION_VARIANTS])
def test_sequence_models_in_half_precision(agent):
    """In all their forms, and backwards."""
    model: SequenceAgent = {**AGENTS, **ATTENTION_VARIANTS}[agent]
    with fresh_memory_is_nan(), torch.autocast("cpu", torch.bfloat16):
        built = model.build("classifier", 69, 5, 20)
        x = torch.randn(17, 20, 69)
        built(x).float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in built.parameters() if p.grad is not None)
        with torch.no_grad():
            past, cache = built.prefill(x[:, :12], 20)
            y, cache = built.step(x[:, 12], cache)
            found = past, y, built.branch(x[:, 13:16], cache), built.step(x[:, 13], cache)[0]
    assert all(y.isfinite().all() for y in found)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_embedding_of_photographs(bfloat16):
    with fresh_memory_is_nan(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        embedding = ResidualEmbeddingConfig(size=20, filters=(7, 9, 11, 13), wide=17).build()
        y = embedding(torch.randint(0, 256, (3, 3, 84, 84), dtype=torch.uint8))
        y.float().sum().backward()
    assert y.isfinite().all() and all(p.grad.isfinite().all() for p in embedding.parameters())


def test_the_watch_sees_a_slice_beside_unwritten_memory():
    with pytest.raises(AssertionError, match="beside unwritten memory"), fresh_memory_is_nan():
        buffer = torch.empty(4, 8)
        buffer[:, :3] = 1.0
        buffer[:, :3] @ torch.ones(3, 2)


# ----- what is said of numbers that are not finite


def spoiled_stack(monkeypatch, only_half: bool) -> None:
    """Dense stacks whose output has a NaN; ``only_half``: in half precision alone."""

    def spoiled(y: torch.Tensor) -> torch.Tensor:
        bad = torch.zeros_like(y)
        bad[..., 0, -1] = float("nan")
        return y + bad if not only_half or y.element_size() == 2 else y

    def spoiled_step(self, x_t, cache):
        row, cache = step(self, x_t, cache)
        return spoiled(row), cache

    run, step = DenseStack._run, DenseStack.step
    monkeypatch.setattr(DenseStack, "_run", lambda self, *args: spoiled(run(self, *args)))
    monkeypatch.setattr(DenseStack, "step", spoiled_step)


SNAIL = replace(FEWSHOT, model=AGENTS["snail"])
IN_TRIALS = replace(
    BANDIT, model=AGENTS["snail"], task=BanditTask(arms=3, pulls=4), training=PPOTraining(2, 8, minibatches=1)
)


@pytest.mark.parametrize(
    "config, only_half, advice",
    [
        (SNAIL, True, "in float32 it is finite: try --training.no-bfloat16"),
        (SNAIL, False, "try a smaller --training.learning-rate"),
        (IN_TRIALS, False, "try a smaller --training.learning-rate"),
        (replace(IN_TRIALS, training=TRPOTraining(2, 8, minibatches=1)), False, "try a smaller"),
    ],
)
def test_training_names_what_went_wrong_first_and_keeps_its_weights(
    monkeypatch, bfloat16_anywhere, config, only_half, advice
):
    learner = build_learner(config, CPU)
    spoiled_stack(monkeypatch, only_half)
    before = [p.detach().clone() for p in learner.model.parameters()]
    with pytest.raises(NotFinite, match=r"the output of .*blocks\.[01] \(TCBlock\) is not finite; ") as e:
        learner.update(0)
    assert advice in str(e.value)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


@pytest.mark.parametrize("config", [SNAIL, IN_TRIALS])
def test_an_evaluation_does_not_take_nan_for_an_answer(monkeypatch, config):
    learner = build_learner(config, CPU)
    spoiled_stack(monkeypatch, only_half=False)
    with pytest.raises(NotFinite, match=r"the output of .*blocks\.[01] \(TCBlock\) is not finite"):
        evaluate(learner, quiet=True)


def test_a_strange_weight_is_named():
    learner = build_learner(SNAIL, CPU)
    assert isinstance(learner, FewShotLearner)
    with torch.no_grad():
        learner.model.embedding.project.bias[3] = float("inf")
    with pytest.raises(NotFinite, match=r"the weight model\.embedding\.project\.bias is not finite"):
        evaluate(learner, quiet=True)


def test_a_gradient_that_overflows_is_named(monkeypatch):
    learner = build_learner(SNAIL, CPU)
    learner.model.embedding.project.bias.register_hook(lambda g: g * float("inf"))
    with pytest.raises(NotFinite, match=r"the gradient of model\.embedding\.project\.bias is not finite"):
        learner.update(0)

"""MAML against gradients of gradients from ``torch.func`` and by hand, and what its normalisation lets episodes see."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import learner_for
from torch import Tensor, nn

import runs.algorithms.fewshot
import runs.tasks
from baselines.maml import MAML, EpisodeNorm
from envs.fewshot.datasets.base import ImageClasses
from envs.fewshot.episodes import Episodes
from runs.agents import MAMLConfig
from runs.agents.embeddings import OmniglotEmbeddingConfig
from runs.algorithms.fewshot import FewShotTest, SupervisedTraining
from runs.catalogue import find
from runs.cli import run
from runs.system.machine import Machine
from runs.tasks import FewShotTask

pytestmark = pytest.mark.slow

needs_learn2learn = pytest.mark.usefixtures("learn2learn")
B, N, K, Q, C = 3, 4, 2, 6, 5
EACH_NORM = pytest.mark.parametrize("transductive", [True, False], ids=["transductive", "not transductive"])


def episodes(seed: int = 0, dtype: torch.dtype = torch.float64) -> Episodes:
    g = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randperm(N * K, generator=g) % N for _ in range(B)])
    query_y = torch.randint(N, (B, Q), generator=g)

    def items(*shape: int) -> Tensor:
        return torch.randn(*shape, C, 6, 6, generator=g, dtype=dtype)

    return Episodes(items(B, N * K), labels, items(B, Q), query_y)


def embedding() -> nn.Module:
    """Convolution, normalisation, smooth non-linearity, pooling: all that the suite's embedding has."""
    blocks = (nn.Conv2d(C, 7, 3, bias=False), nn.BatchNorm2d(7), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*blocks, nn.Linear(28, 8))


def agent(dtype: torch.dtype = torch.float64, **settings) -> MAML:
    torch.manual_seed(0)
    settings = {"inner_lr": 0.3, "inner_steps": 2, "test_steps": 2, **settings}
    return MAML(embedding(), 8, N, **settings).to(dtype)


def outer_loss(logits: Tensor, batch: Episodes) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())


# ----- the gradients


@needs_learn2learn
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradients_are_those_of_torch_func(steps, first_order):
    """The network is a function of its weights, its steps are written out, and torch.func differentiates twice."""
    model, batch = agent(inner_steps=steps, first_order=first_order), episodes()
    network = model.learner.module
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def logits(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(network, w, (x,))

    def query_logits(w: dict[str, Tensor], b: int) -> Tensor:
        for _ in range(steps):
            gradient = torch.func.grad(lambda w: F.cross_entropy(logits(w, batch.support_x[b]), batch.support_y[b]))(w)
            if first_order:
                gradient = {name: g.detach() for name, g in gradient.items()}
            w = {name: p - 0.3 * gradient[name] for name, p in w.items()}
        return logits(w, batch.query_x[b])

    def loss(w: dict[str, Tensor]) -> Tensor:
        return outer_loss(torch.stack([query_logits(w, b) for b in range(B)]), batch)

    expected, expected_loss = torch.func.grad_and_value(loss)(weights)
    found_loss = outer_loss(model(*batch.inputs), batch)
    found_loss.backward()
    torch.testing.assert_close(found_loss, expected_loss)
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=lambda m, name=name: f"{name}: {m}")


@needs_learn2learn
def test_second_order_differs_from_first_order():
    """Guards the test above: were the second-order terms tiny, it would say nothing."""
    gradients = []
    for first_order in (False, True):
        model, batch = agent(first_order=first_order), episodes()
        outer_loss(model(*batch.inputs), batch).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    exact, approximate = gradients
    assert (exact - approximate).norm() > 0.1 * exact.norm()


@needs_learn2learn
@pytest.mark.parametrize("training", [True, False])
def test_a_step_of_a_linear_model_is_the_formula(training):
    """Softmax regression: the gradient of the mean cross-entropy is (softmax - one-hot)^T x / S."""
    model = MAML(nn.Flatten(), C * 36, N, inner_lr=0.05, inner_steps=1, test_steps=1).double().train(training)
    batch = episodes()
    W, b = (p.detach() for p in model.parameters())
    for i, found in enumerate(model(*batch.inputs)):
        x = batch.support_x[i].flatten(1)  # (S, C')
        error = torch.softmax(x @ W.T + b, -1) - F.one_hot(batch.support_y[i], N)  # (S, N)
        adapted_W, adapted_b = W - 0.05 * error.T @ x / len(x), b - 0.05 * error.mean(0)
        torch.testing.assert_close(found, batch.query_x[i].flatten(1) @ adapted_W.T + adapted_b)


@needs_learn2learn
@EACH_NORM
def test_gradients_are_those_of_finite_differences(transductive):
    """Through the statistics of the support too, where the queries are normalised by them."""
    model, batch = agent(transductive=transductive), episodes()
    parameters = list(model.parameters())
    torch.manual_seed(1)
    directions = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(outer_loss(model(*batch.inputs), batch), parameters)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def at(distance: float) -> Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=distance)
            loss = outer_loss(model(*batch.inputs), batch)
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(d, alpha=distance)
        return loss

    h = 1e-6
    torch.testing.assert_close(slope, (at(h) - at(-h)) / (2 * h), rtol=1e-5, atol=1e-7)


# ----- training and evaluation


@needs_learn2learn
@EACH_NORM
def test_evaluation_without_gradients_gives_the_same_logits(transductive):
    model, batch = agent(transductive=transductive), episodes()
    trained = model.train()(*batch.inputs)
    assert trained.requires_grad
    torch.testing.assert_close(model.eval()(*batch.inputs), trained)
    with torch.no_grad():
        found = model(*batch.inputs)
    assert not found.requires_grad
    torch.testing.assert_close(found, trained)


@needs_learn2learn
def test_each_mode_takes_its_number_of_steps():
    model, batch = agent(inner_steps=1, test_steps=3), episodes()
    assert torch.equal(model.train()(*batch.inputs), agent(inner_steps=1)(*batch.inputs))
    assert torch.equal(model.eval()(*batch.inputs), agent(inner_steps=3)(*batch.inputs))
    assert not torch.allclose(model.train()(*batch.inputs), model.eval()(*batch.inputs))


@needs_learn2learn
@EACH_NORM
@pytest.mark.parametrize("training", [True, False])
def test_predicting_changes_nothing_in_the_model(transductive, training):
    model = agent(transductive=transductive).train(training)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    model(*episodes(1).inputs).sum().backward()
    with torch.no_grad():
        model(*episodes(2).inputs)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(m.reference is None for m in model.modules() if isinstance(m, EpisodeNorm))
    assert model.training == training


@needs_learn2learn
def test_under_autocast_the_steps_are_in_float32():
    model, batch = agent(torch.float32), episodes(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*batch.inputs)
    assert found.dtype == torch.float32 and torch.equal(found, model(*batch.inputs))


# ----- who sees whom


def seen(model: MAML, change: str, row: int) -> Tensor:
    """Whether (B, Q) logits change with what is at [0, row] of support or queries."""
    batch = episodes()
    before = model(*batch.inputs)
    getattr(batch, change)[0, row] += 1
    return (model(*batch.inputs) != before).any(-1)


@needs_learn2learn
@EACH_NORM
def test_episodes_do_not_see_each_other(transductive):
    model = agent(transductive=transductive).eval()
    for change in ("support_x", "query_x"):
        assert not seen(model, change, 2)[1:].any()
    assert seen(model, "support_x", 2)[0].all()


@needs_learn2learn
@pytest.mark.parametrize("training", [True, False])
def test_queries_see_each_other_only_if_transductive(training):
    assert seen(agent(transductive=True).train(training), "query_x", 2)[0].sum() > 1
    assert seen(agent(transductive=False).train(training), "query_x", 2)[0].tolist() == [q == 2 for q in range(Q)]


@pytest.mark.parametrize("reference", [None, 3])
def test_the_normalisation_is_that_of_the_library(reference):
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(4), torch.randn(8, 4, 5, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    ours = EpisodeNorm(norm)
    ours.reference = reference
    if reference is None:
        expected = norm(x)
    else:
        of = x[:reference].transpose(0, 1).flatten(1)  # (C, M * H * W)
        expected = F.batch_norm(x, of.mean(1), of.var(1, correction=0), norm.weight, norm.bias)
    torch.testing.assert_close(ours(x), expected)


@needs_learn2learn
def test_a_single_query_has_no_statistics_of_its_own():
    batch = episodes()
    single = Episodes(batch.support_x, batch.support_y, batch.query_x[:, :1], batch.query_y[:, :1])
    with pytest.raises(ValueError, match="at least 2 queries in an episode, got 1"):
        agent()(*single.inputs)
    alone = agent(transductive=False)
    torch.testing.assert_close(alone(*single.inputs), alone(*batch.inputs)[:, :1])


# ----- in the suite


def patterns(name: str, split: str, **options) -> ImageClasses:
    """Each class is a faint random 4x4 pattern under noise; every split has classes of its own."""
    generator = torch.Generator().manual_seed(("train", "val", "test").index(split))
    pattern = torch.rand(200, 1, 1, 4, 4, generator=generator).round()
    images = 70 * pattern.repeat_interleave(7, 3).repeat_interleave(7, 4)
    return ImageClasses((images + 185 * torch.rand(200, 6, 1, 28, 28, generator=generator)).byte(), name, split)


@needs_learn2learn
@EACH_NORM
def test_it_learns_to_match_new_classes(transductive, monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", patterns)
    training = SupervisedTraining(steps=150, batch_size=8, queries=4, learning_rate=1e-2)
    small = OmniglotEmbeddingConfig(size=16, filters=16)
    task = FewShotTask("glyphs", ways=3, shots=(1,), test_shots=(1,), embedding=small)
    test = FewShotTest(episodes=100, queries=4)
    learner = learner_for(training, task, MAMLConfig(transductive=transductive), test, 0, Machine(torch.device("cpu")))

    def accuracy() -> float:
        (found,) = learner.evaluate(lambda done, of: None)
        return found.mean

    before = accuracy()  # above chance: a step from random weights says something already
    for step in range(learner.steps):
        learner.update(step)
    assert accuracy() > before + 0.15


@needs_learn2learn
def test_a_run_leaves_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", patterns)  # drawing the real ones takes a while
    options = "--budget smoke --training.steps 4 --training.queries 4 --training.validations 1 --threads 1"
    options += " --training.validation-episodes 4 --test.episodes 4 --test.queries 4 --tracker none"
    assert run(["train", "glyphs/5way-1shot", "--agent", "maml", *options.split(), "--results", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("result.json"))) == 1


def test_settings_are_those_of_the_paper():
    """Finn et al., appendix A.1."""
    assert find("omniglot/5way").agents["maml"] == MAMLConfig(inner_lr=0.4, inner_steps=1, test_steps=3)
    assert find("omniglot/20way").agents["maml"] == MAMLConfig(inner_lr=0.1, inner_steps=5, test_steps=5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"test_steps": 0}, "test_steps must be at least 1, got 0"),
        ({"inner_lr": 0.0}, "inner_lr must be positive, got 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(MAMLConfig(), **change).build_classifier(nn.Identity(), 3, 2, 2)


def test_without_learn2learn_one_line_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runs.tasks, "load_classes", patterns)
    monkeypatch.setitem(sys.modules, "learn2learn", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "torchvision", sys)  # and nothing in the way
    with pytest.raises(ImportError, match="run: make maml"):
        MAMLConfig().build_classifier(nn.Identity(), 3, 2, 2)
    assert run(["train", "glyphs/5way-1shot", "--agent", "maml", "--budget", "smoke", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "glyphs/5way-1shot: the agent maml needs learn2learn" in error
    assert not list(tmp_path.rglob("*.json"))


@needs_learn2learn
def test_importing_it_prints_nothing():
    script = "from baselines.learn2learn import import_learn2learn as load; assert load() is load()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

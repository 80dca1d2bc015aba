"""What few-shot training adds to its loop: selection on the validation classes, and the auxiliary loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import runs.algorithms.fewshot
import runs.tasks
from baselines.prototypical import PrototypicalNetwork
from envs.fewshot.augmentation import UNCHANGED
from envs.fewshot.datasets.base import ImageClasses
from envs.fewshot.episodes import recombined
from runs.agents import GRUConfig, PrototypicalConfig, SNAILConfig
from runs.algorithms.fewshot import FewShotLearner, FewShotTest, SupervisedTraining
from runs.catalogue import RunConfig, find
from runs.results.folder import RunFolder
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.tasks import FewShotTask
from runs.training import build_learner, evaluate, load_model, train
from snail.classifier import EpisodeModel

CPU = Machine(torch.device("cpu"))
TRAINING = SupervisedTraining(6, batch_size=2, queries=2, validation_episodes=4, validations=3, learning_rate=0.1)
CONFIG = RunConfig(
    "glyphs/5way",
    "gru",
    "smoke",
    1,
    FewShotTask("glyphs", ways=2, shots=(1, 2), test_shots=(1, 2)),
    GRUConfig(hidden_size=8),
    TRAINING,
    FewShotTest(episodes=10, queries=3),
)


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    def load(name: str, split: str, **options: Any) -> ImageClasses:
        generator = torch.Generator().manual_seed(("train", "val", "test").index(split))
        images = torch.randint(0, 256, (4, 5, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return ImageClasses(images, name, split)

    monkeypatch.setattr(runs.tasks, "load_classes", load)


def learner(**changes: Any) -> FewShotLearner:
    config = replace(CONFIG, training=replace(TRAINING, **changes))
    built = build_learner(config, CPU)
    assert isinstance(built, FewShotLearner)
    return built


def weights(built: FewShotLearner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in built.model.parameters()])


def after_looks(built: FewShotLearner, accuracies: list[float], monkeypatch) -> list[torch.Tensor]:
    """Train, each update followed by a look that finds this accuracy for every number of shots; weights after each."""
    found = []
    for step, accuracy in enumerate(accuracies):
        built.update(step)
        monkeypatch.setattr(built, "_accuracies", lambda *args, a=accuracy: (torch.full((4,), a), []))
        built.validate()
        found.append(weights(built))
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("selection, tested", [("best", 1), ("final", 3)])
def test_the_first_best_look_at_the_validation_classes_decides(selection, tested, monkeypatch, few_classes):
    built = learner(selection=selection)
    with monkeypatch.context() as patch:
        looks = after_looks(built, [0.5, 0.9, 0.9, 0.7], patch)
    assert not torch.equal(looks[1], looks[3])
    built.evaluate(lambda done, of: None)
    assert torch.equal(weights(built), looks[tested])
    selected = {"selected": {"step": 2, "validation_accuracy": pytest.approx(0.9)}}
    assert built.details() == (selected if selection == "best" else {})


def test_training_goes_on_with_its_own_weights(monkeypatch):
    """A state holds both: what is trained on, and what has been selected."""
    built, again = learner(), learner()
    with monkeypatch.context() as patch:
        looks = after_looks(built, [0.5, 0.9, 0.7], patch)
    again.load_state_dict(built.state_dict())
    assert torch.equal(weights(again), looks[2])
    again.evaluate(lambda done, of: None)
    assert torch.equal(weights(again), looks[1])


def test_evaluating_a_run_again_gives_its_record(tmp_path, monkeypatch):
    """Also where the weights selected are not the last ones."""
    accuracies = iter([0.9, 0.9, 0.3, 0.3, 0.3, 0.3])
    real = FewShotLearner._accuracies

    def fake(self, split, *args):
        return (torch.full((4,), next(accuracies)), []) if split == "val" else real(self, split, *args)

    monkeypatch.setattr(FewShotLearner, "_accuracies", fake)
    folder = RunFolder(tmp_path / "run")
    record = train(CONFIG, folder, CPU, tracker="none", quiet=True)
    assert record["selected"]["step"] == 2 and record["steps"] == 6
    again = build_learner(CONFIG, CPU)
    load_model(again, folder, CONFIG)
    assert [m.mean for m in evaluate(again, quiet=True)] == [r["mean"] for r in record["results"]]


SNAIL = SNAILConfig(width=0.2)


def gradients_of_an_update(**changes: Any) -> dict[str, torch.Tensor]:
    """Gradients (not clipped) that the first update leaves, by parameter."""
    model = changes.pop("model", SNAIL)
    training = replace(TRAINING, bfloat16=False, max_grad_norm=1e9, **changes)
    built = build_learner(replace(CONFIG, model=model, training=training), CPU)
    torch.manual_seed(7)  # hard attention draws its choices
    built.update(0)
    return {name: p.grad for name, p in built.model.named_parameters()}


def gradients_of_auxiliary_losses(model: SNAILConfig) -> tuple[dict[str, torch.Tensor], ...]:
    """Those of the class loss and of the prototype loss on the first update's episodes, computed anew."""
    training = replace(TRAINING, bfloat16=False, class_loss=1.0)
    built = build_learner(replace(CONFIG, model=model, training=training), CPU)
    assert isinstance(built, FewShotLearner)
    shots = CONFIG.task.shots[int(torch.randint(2, (), generator=built.shots_generator))]
    indices = built.sampler.sample_indices(training.batch_size, shots, built.generator)
    episodes = built.sampler.gather(indices)
    support, queries = built.model.train().encode_episodes(episodes.support_x, episodes.query_x)
    x = torch.cat([support, queries], dim=1).flatten(0, 1)
    classes = torch.cat([indices.support_x, indices.query_x], dim=1).flatten() // 5
    chance = built.class_head(x).softmax(-1)[torch.arange(len(x)), classes]
    class_loss = -chance.log().mean()
    prototype_loss = torch.zeros(())
    for sx, sy, qx, qy in zip(support, indices.support_y, queries, indices.query_y, strict=True):
        centres = torch.stack([sx[sy == way].mean(0) for way in range(2)])
        chance = (-torch.cdist(qx, centres).square()).softmax(-1)[torch.arange(len(qy)), qy]
        prototype_loss = prototype_loss - chance.log().mean() / training.batch_size
    found = []
    for loss in (class_loss, prototype_loss):
        built.model.zero_grad()
        loss.backward(retain_graph=True)
        found.append({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in built.model.named_parameters()})
    return tuple(found)


@pytest.mark.parametrize("selection", ["soft", "hard", "gumbel"])
@pytest.mark.parametrize("class_loss, prototype_loss", [(0.5, 0.0), (0.0, 0.25), (0.5, 0.25)])
def test_gradients_are_the_sum_over_all_losses_asked_for(selection, class_loss, prototype_loss):
    model = replace(SNAIL, selection=selection)
    of_episodes = gradients_of_an_update(model=model)
    of_classes, of_prototypes = gradients_of_auxiliary_losses(model)
    found = gradients_of_an_update(model=model, class_loss=class_loss, prototype_loss=prototype_loss)
    for name, gradient in found.items():
        expected = of_episodes[name] + class_loss * of_classes[name] + prototype_loss * of_prototypes[name]
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)


def test_recombined_episodes_count_like_those_of_the_batch():
    """Read one at a time, but for those in which a class meets itself under two labels."""
    of_batch = gradients_of_an_update()
    training = replace(TRAINING, bfloat16=False)
    built = build_learner(replace(CONFIG, model=SNAIL, training=training), CPU)
    assert isinstance(built, FewShotLearner)
    shots = CONFIG.task.shots[int(torch.randint(2, (), generator=built.shots_generator))]
    indices = built.sampler.sample_indices(training.batch_size, shots, built.generator)
    labels = torch.cat([indices.support_y, indices.query_y], dim=1)
    again = recombined(labels, ways=2, queries=2, shots=shots, count=6, generator=built.generator)
    classes = torch.cat([indices.support_x, indices.query_x], dim=1).flatten() // 5
    images = built.sampler.gather(indices)
    embedded = built.model.train().encode(torch.cat([images.support_x, images.query_x], dim=1).flatten(0, 1))
    loss, ambiguous = torch.zeros(()), 0
    for sx, sy, qx, qy in zip(*again.inputs, again.query_y, strict=True):
        if len(classes[sx].unique()) < 2:
            ambiguous += 1
            continue
        logits = built.model.predict(embedded[sx][None], sy[None], embedded[qx][None])[0]
        for logit, label in zip(logits, qy, strict=True):
            loss = loss - logit.softmax(-1)[label].log() / 2 / 6
    assert 0 < ambiguous < 6
    loss.backward()
    found = gradients_of_an_update(recombined=6)
    for name, p in built.model.named_parameters():
        expected = 2 / 8 * of_batch[name] + 6 / 8 * (torch.zeros_like(p) if p.grad is None else p.grad)
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-3)


def test_what_is_logged_is_of_the_episodes_of_the_batch():
    usual, recombining = learner(bfloat16=False).update(0), learner(bfloat16=False, recombined=6).update(0)
    for name in ("loss", "train_accuracy"):
        torch.testing.assert_close(recombining[name], usual[name])


@pytest.mark.parametrize("name", ["omniglot/5way", "omniglot/20way", "mini-imagenet/5way"])
def test_the_papers_training_has_none_of_our_additions(name):
    paper = find(name).config("snail", algorithm="paper").training
    assert (paper.queries, paper.recombined, paper.class_loss, paper.prototype_loss) == (1, 0, 0.0, 0.0)
    assert paper.augmentation == UNCHANGED


def test_recombined_episodes_need_as_many_images_of_each_class():
    with pytest.raises(RunError, match="queries must be a multiple of 2, the ways, got 3"):
        learner(queries=3, recombined=1)
    with pytest.raises(RunError, match="recombined must be at least 0, got -1"):
        learner(recombined=-1)
    learner(queries=3)


@pytest.mark.parametrize("losses", [{}, {"class_loss": 0.5}, {"prototype_loss": 0.5}])
def test_the_queries_of_hard_attention_learn_beside_all_losses(losses):
    """Nothing but the score-function gradient reaches them."""
    model = replace(SNAIL, selection="hard")
    block = build_learner(replace(CONFIG, model=model), CPU).model.model.blocks[0]
    asking = gradients_of_an_update(model=model, **losses)["model.blocks.0.qkv.weight"][: 2 * block.key_size]
    assert asking.abs().max() > 1e-4


def test_the_class_loss_changes_what_the_embedding_learns():
    plain, with_classes = learner(), learner(class_loss=1.0)
    assert torch.equal(weights(plain), weights(with_classes))
    plain.update(0), with_classes.update(0)
    assert not torch.equal(weights(plain), weights(with_classes))


def test_the_prototype_loss_is_that_of_prototypical_networks():
    """Beside their own loss, it is that once more: the gradient is twice as large."""
    once, twice = (
        build_learner(
            replace(CONFIG, model=PrototypicalConfig(), training=replace(TRAINING, prototype_loss=w, bfloat16=False)),
            CPU,
        ).update(0)
        for w in (0.0, 1.0)
    )
    assert twice["loss"] == once["loss"]
    torch.testing.assert_close(twice["gradient_norm"], 2 * once["gradient_norm"])


def test_prototypes_of_the_whole_batch_are_more_to_tell_apart():
    """With one episode there is nothing to pool; with several, the gradient is another."""

    def norm(pool, batch_size):
        training = replace(TRAINING, prototype_loss=1.0, bfloat16=False, prototype_pool=pool, batch_size=batch_size)
        return build_learner(replace(CONFIG, training=training), CPU).update(0)["gradient_norm"]

    torch.testing.assert_close(norm("batch", 1), norm("episode", 1))
    assert not torch.isclose(norm("batch", 4), norm("episode", 4), rtol=1e-2)


@pytest.mark.parametrize("changes", [{"training": replace(TRAINING, queries=1)}, {"test": FewShotTest(50, queries=1)}])
def test_queries_that_a_model_cannot_learn_from_are_refused_before_training(monkeypatch, changes):
    def check(self, queries):
        if queries < 2:
            raise ValueError(f"at least 2 queries, got {queries}")

    build_learner(replace(CONFIG, **changes), CPU)
    monkeypatch.setattr(EpisodeModel, "check_queries", check)
    with pytest.raises(RunError, match="at least 2 queries, got 1"):
        build_learner(replace(CONFIG, **changes), CPU)


def test_agents_that_do_not_embed_images_do_without(monkeypatch):
    expected = learner().update(0)
    monkeypatch.setattr(
        runs.algorithms.fewshot, "EmbeddingClassifier", PrototypicalNetwork
    )  # this agent's model is none
    torch.testing.assert_close(learner(class_loss=1.0, prototype_loss=1.0).update(0), expected)


def test_prototypical_networks_take_the_class_loss_too():
    config = replace(CONFIG, model=PrototypicalConfig(), training=replace(TRAINING, class_loss=0.5))
    assert build_learner(config, CPU).update(0)["loss"].isfinite()


@pytest.mark.parametrize("emulated", [False, True])
def test_bfloat16_is_used_where_there_are_instructions_for_it(monkeypatch, emulated):
    """Emulated, it would take many times as long as float32."""
    monkeypatch.setattr("runs.system.machine.emulates_bfloat16", lambda device: emulated)
    parts = [
        torch.cat([p.grad.flatten() for p in built.model.parameters()])
        for built in (learner(bfloat16=True), learner(bfloat16=False))
        if built.update(0)
    ]
    assert torch.equal(*parts) == emulated

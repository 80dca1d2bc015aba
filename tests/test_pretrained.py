"""Agents that read an embedding which another run has trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from tiny_runs import CPU as CPU_MACHINE
from tiny_runs import FEWSHOT, STEPS, assert_same_run, few_classes, go, quicken, saved_state
from torch import nn

import runs
from baselines.prototypical import PrototypicalNetwork, prototypical_logits
from envs.fewshot.augmentation import UNCHANGED, Augmentation
from envs.fewshot.episodes import EpisodeSampler
from runs.agents import MAMLConfig, PrototypicalConfig, TransferConfig
from runs.agents.embeddings import OmniglotEmbeddingConfig
from runs.algorithms.fewshot import build_classifier
from runs.catalogue import PRETRAINED, find
from runs.commands.verify import verify
from runs.results.folder import RunFolder
from runs.results.publish import publish
from runs.system.errors import Interrupted, RunError
from snail import PretrainedClassifier

TASK = replace(FEWSHOT.task, embedding=OmniglotEmbeddingConfig(size=6, filters=16))
# enough steps for running statistics with which its features differ
CLASSES = replace(FEWSHOT.training, steps=60, selection="final", class_loss=1.0, prototype_loss=0.0)
TRANSFER = replace(
    FEWSHOT, experiment=PRETRAINED, agent="transfer", task=TASK, model=TransferConfig(steps=5), training=CLASSES
)
SOURCE = f"{PRETRAINED}/transfer"
READING = replace(FEWSHOT.training, bfloat16=False, class_loss=0.0, augmentation=UNCHANGED, embedding_from=SOURCE)
READER = replace(FEWSHOT, experiment=PRETRAINED, task=TASK, training=READING)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with the run that the others take their embedding from."""
    top = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        go(TRANSFER, top / SOURCE / "full-seed0")
    return top


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)


def embedding_of(path):
    weights = RunFolder(path).tested_weights(TRANSFER)
    return {name.removeprefix("embedding."): x for name, x in weights.items()}


def test_the_features_get_no_gradient_and_stay_in_evaluation_mode():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model = PretrainedClassifier(features, PrototypicalNetwork(nn.Linear(3, 2), 2)).train()
    assert model.head.training and not any(m.training for m in features.modules())
    support, labels, queries = torch.randn(2, 4, 4), torch.tensor([[0, 1, 0, 1]] * 2), torch.randn(2, 5, 4)
    logits = model(support, labels, queries)
    logits.square().sum().backward()
    assert all(p.grad is None for p in features.parameters())
    assert model.head.embedding.weight.grad.abs().sum() > 0
    by_hand = [
        model.head.embedding((x @ features[0].weight.T + features[0].bias) / (1 + 1e-5) ** 0.5)
        for x in (support, queries)
    ]
    torch.testing.assert_close(logits, prototypical_logits(by_hand[0], labels, by_hand[1], 2))


@pytest.mark.parametrize("agent", ["gru", "protonet", "maml"])
def test_an_agent_reads_the_embedding_of_another_run_and_leaves_it_unchanged(results, agent, request):
    models = {"gru": FEWSHOT.model, "protonet": PrototypicalConfig(), "maml": MAMLConfig()}
    if agent == "maml":
        request.getfixturevalue("learn2learn")
    config, path = replace(READER, agent=agent, model=models[agent]), results / PRETRAINED / agent / "smoke-seed1"
    record = go(config, path)
    assert record["pretrained"]["run"] == f"{SOURCE}/full-seed0"
    assert record["pretrained"]["train_seconds"] == RunFolder(results / SOURCE / "full-seed0").result()["train_seconds"]
    state = saved_state(path)["learner"]["model"]
    for name, x in embedding_of(results / SOURCE / "full-seed0").items():
        assert torch.equal(state[f"features.{name}"], x), name
    heads = [name for name in state if name.startswith("head.") and name.endswith("weight")]
    torch.manual_seed(config.seed)
    untrained = config.training.learner(config, CPU_MACHINE).model.state_dict()
    assert any(not torch.equal(state[name], untrained[name]) for name in heads)


def test_an_agent_reads_a_few_channels_dropped_out_in_training_alone():
    torch.manual_seed(0)
    config = replace(READER, model=PrototypicalConfig(), training=replace(READING, feature_size=3, feature_dropout=0.5))
    head = build_classifier(config).head
    features = torch.randn(4, 6)
    drawn = head.train().encode(features), head.encode(features)
    assert drawn[0].shape == (4, 3) and not torch.equal(*drawn)
    norm, _, linear = head.embedding
    by_hand = (features - features.mean(1, keepdim=True)) / (
        features.var(1, correction=0, keepdim=True) + norm.eps
    ).sqrt()
    torch.testing.assert_close(head.eval().encode(features), by_hand @ linear.weight.T + linear.bias)


def test_the_test_is_that_of_the_whole_network_on_images(results, monkeypatch):
    """Features that were computed once give the accuracy of embedding and agent together."""
    path = results / PRETRAINED / "gru" / "smoke-seed2"
    go(replace(READER, seed=2), path)
    trained = runs.load(path)
    config = replace(READER, seed=2)
    for shots in config.task.test_shots:
        images = few_classes("glyphs", "test").images
        sampler = EpisodeSampler(images, config.task.ways, config.test.queries)
        episodes = sampler.sample(config.test.episodes, shots, torch.Generator().manual_seed(config.test.seed + shots))
        guesses = [trained.classify(*inputs).argmax(-1) for inputs in zip(*episodes.inputs, strict=True)]
        accuracy = (torch.stack(guesses) == episodes.query_y).float().mean(1)
        with np.load(path / "samples.npz") as saved:
            np.testing.assert_allclose(saved[f"accuracy_{shots}shot"], accuracy, atol=1e-6)


def test_resumed_is_as_never_stopped(results):
    whole, path = (results / PRETRAINED / "gru" / f"smoke-seed3-{name}" for name in ("whole", "stopped"))
    config = replace(READER, seed=3)
    go(config, whole)
    with pytest.raises(Interrupted):
        go(config, path, until=STEPS // 2)
    go(config, path, resume=True)
    assert_same_run(path, whole)
    assert RunFolder(path).result()["pretrained"] == RunFolder(whole).result()["pretrained"]


def test_the_sampler_draws_features_of_the_right_images(results):
    path, config = (
        results / PRETRAINED / "gru" / "smoke-seed4",
        replace(READER, training=replace(READING, bfloat16=False)),
    )
    go(config, path)
    learner = config.training.learner(config, CPU_MACHINE)
    learner.load_weights(saved_state(path)["learner"])
    images = few_classes("glyphs", "train").images
    with torch.no_grad():
        features = learner.model.features(images.flatten(0, 1))
    assert torch.pdist(features).median() > 0.1
    drawn = learner.sampler.sample_indices(3, 2, torch.Generator().manual_seed(0))
    for _ in range(2):  # computed, and kept
        torch.testing.assert_close(learner.sampler.gather(drawn).query_x, features[drawn.query_x], atol=1e-5, rtol=0)
        del learner.sampler


def test_one_line_says_why_an_embedding_cannot_be_used(results, tmp_path):
    def refused(source: str, task=TASK) -> str:
        training = replace(READER.training, embedding_from=str(source))
        with pytest.raises(RunError) as e:
            go(replace(READER, task=task, training=training), tmp_path / "a/b/gru/smoke-seed1")
        return str(e.value)

    assert refused("a/b/nobody").startswith("no embedding to start from: ") and "a/b/nobody" in refused("a/b/nobody")
    other = replace(TASK, embedding=OmniglotEmbeddingConfig(size=6, filters=5))
    assert "has no embedding of this task's kind" in refused(results / SOURCE / "full-seed0", other)
    with pytest.raises(ValueError, match="augmentation changes images"):
        replace(READING, augmentation=Augmentation(shift=1)).learner(READER, CPU_MACHINE)
    unfinished = tmp_path / "unfinished"
    with pytest.raises(Interrupted):
        go(TRANSFER, unfinished, until=2)
    assert "is not finished" in refused(unfinished) and "--resume" in refused(unfinished)


def test_an_embedding_is_published_once_and_found_by_the_agents_that_read_it(tmp_path, monkeypatch):
    """Trained anew, since the other tests' source is a run with another budget, which is not published."""
    monkeypatch.setattr("runs.results.records.as_catalogued", lambda config: True)
    monkeypatch.setattr("runs.results.folder.PUBLISHED", published := tmp_path / "published")
    source, reader = Path(SOURCE, "full-seed0"), Path(PRETRAINED, "gru", "full-seed0")
    full = replace(READER, seed=0, budget="full")
    go(replace(TRANSFER, seed=0, budget="full"), tmp_path / source)
    go(full, tmp_path / reader)
    run, copy = RunFolder(tmp_path / reader), RunFolder(published / reader)

    publish(run, copy)  # before its embedding: with a copy of it
    assert any(name.startswith("features.") for name in load_file(copy.weights_path))
    shutil.rmtree(copy.path)
    publish(RunFolder(tmp_path / source), RunFolder(published / source))
    publish(run, copy)
    assert not any(name.startswith("features.") for name in load_file(copy.weights_path))
    found, exact = copy.tested_weights(full), run.tested_weights(full)
    assert found.keys() == exact.keys()
    assert all(torch.equal(x, exact[name]) for name, x in found.items() if name.startswith("features."))
    assert all(verdict.startswith("agrees") for *_, verdict in verify(copy, CPU_MACHINE))

    weights = RunFolder(published / source).weights_path
    changed = load_file(weights)
    changed[min(changed)] += 1
    weights.write_bytes(save(changed))
    with pytest.raises(RunError, match="has been trained again"):
        copy.tested_weights(full)
    weights.unlink()
    with pytest.raises(RunError, match="has no weights"):
        copy.tested_weights(full)


def test_all_agents_of_the_catalogue_read_the_same_embedding():
    experiment = find(PRETRAINED)
    for agent in experiment.agents:
        for budget in experiment.budgets:
            training = experiment.config(agent, budget=budget).training
            source = None if agent == "transfer" else f"{PRETRAINED}/transfer"
            assert training.embedding_from == source
            assert (training.class_loss > 0) == (agent == "transfer")

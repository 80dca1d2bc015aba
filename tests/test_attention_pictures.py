"""``snail attention``: what it shows of a run is what the model did, as pictures and a page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tiny_runs import noise_classes

import runs.tasks
from runs.agents import FEWSHOT_VARIANTS
from runs.catalogue import find
from runs.cli import run
from runs.system.machine import Machine
from runs.training import build_learner

pytestmark = pytest.mark.slow

FEWSHOT = ["--training.steps", "2", "--training.batch-size", "2", "--training.validation-episodes", "4"]
CPU = Machine.named("cpu")


def trained(tmp_path, experiment: str, agent: str, *words: str):
    """The folder of a run of two updates."""
    options = ["--budget", "smoke", "--tracker", "none", "--results", f"{tmp_path}", *words]
    assert run(["train", experiment, "--agent", agent, *options]) == 0
    (record,) = tmp_path.rglob("result.json")
    return record.parent


@pytest.mark.parametrize("agent", ["snail", "transformer"])
def test_a_few_shot_run_is_drawn(tmp_path, capsys, monkeypatch, agent):
    monkeypatch.setattr(runs.tasks, "load_classes", noise_classes)
    folder = trained(tmp_path, "glyphs/5way-1shot", agent, *FEWSHOT, "--test.episodes", "4")
    capsys.readouterr()
    assert run(["attention", f"{folder}"]) == 0
    paths = capsys.readouterr().out.split()
    layers = 3 if agent == "snail" else 2
    assert paths == [f"{folder}/attention/layer-{n + 1}.png" for n in range(layers)] + [
        f"{folder}/attention/attention.html"
    ]
    page = (folder / "attention" / "attention.html").read_text()
    assert len(re.findall('src="data:image/png;base64,', page)) == layers
    assert "http" not in page and f"glyphs/5way-1shot {agent}" in page


def test_a_bandit_run_is_drawn(tmp_path, capsys):
    words = ["--training.steps", "1", "--training.batch-size", "8", "--test.trials", "20"]
    folder = trained(tmp_path, "bandit/n10-k5", "snail", *words)
    assert run(["attention", f"{folder}", "--seed", "3"]) == 0
    assert (folder / "attention" / "layer-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("agent", ["lstm", "random"])
def test_what_does_not_attend_is_told_in_one_line(tmp_path, capsys, agent):
    words = ["--test.trials", "20"] + (["--training.steps", "1"] if agent == "lstm" else [])
    folder = trained(tmp_path, "bandit/n10-k5", agent, *words)
    capsys.readouterr()
    assert run(["attention", f"{folder}"]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert "has no attention; try a run of snail or transformer" in err


def test_no_run_at_all_is_told_in_one_line(tmp_path, capsys):
    assert run(["attention", f"{tmp_path}"]) == 2
    assert "is it the folder of a run?" in capsys.readouterr().err


def looks(agent: str):
    config = find("glyphs/5way-1shot").config("snail", budget="smoke")
    return build_learner(replace(config, model=FEWSHOT_VARIANTS[agent]), CPU).attention_maps(0)


@pytest.mark.parametrize("agent", ["snail-4-heads", "seq2seq-aligned", "encoder-decoder", "snail-glimpses"])
def test_episodes_are_of_validation_classes_in_the_order_of_their_labels(agent):
    found = looks(agent)
    assert found.support_y.tolist() == [0, 1, 2, 3, 4]
    assert found.support.shape == (5, 1, 28, 28) and found.query.shape == (8, 1, 28, 28)
    images = find("glyphs/5way-1shot").config("snail").task.load("val", None).images.flatten(0, 1)
    for x in (*found.support, *found.query):
        assert (images == x).flatten(1).all(1).any()
    for weights in found.layers:
        assert weights.shape[1:] == (8, 5)
        assert (weights >= 0).all() and (weights.sum(-1) <= 1.001).all()
    assert len(found.layers) == {"seq2seq-aligned": 1, "encoder-decoder": 2}.get(agent, 3)
    assert len(found.glimpses) == (3 if agent == "snail-glimpses" else 0)
    for weights in found.glimpses:
        assert weights.shape == (13, 7, 7)
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(13), atol=1e-3, rtol=1e-3)


def test_a_trial_shows_the_weights_of_each_step():
    learner = build_learner(find("bandit/n10-k5").config("snail", budget="smoke"), CPU)
    found = learner.attention_maps(1)
    assert found.actions.shape == found.rewards.shape == (10,)
    (weights,) = found.layers
    assert weights.shape == (1, 10, 10) and (weights.triu(1) == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 10))
    assert torch.equal(learner.attention_maps(1).actions, found.actions)

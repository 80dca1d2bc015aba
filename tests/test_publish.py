"""Published runs: what is copied, and that anybody can test them again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from tiny_runs import BANDIT, CPU, FEWSHOT, go, quicken

from runs.errors import RunError
from runs.folder import RunFolder
from runs.publish import publish
from runs.training import build_learner, evaluate, load_model


@pytest.fixture(params=[BANDIT, FEWSHOT], ids=["bandit", "few-shot"])
def run_and_copy(request, tmp_path, monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr("runs.records.as_catalogued", lambda config: True)
    config = replace(request.param, seed=0, budget="full")
    go(config, tmp_path / "run")
    return config, RunFolder(tmp_path / "run"), RunFolder(tmp_path / "published")


def test_what_is_published_tests_the_same(run_and_copy):
    config, run, copy = run_and_copy
    assert publish(run, copy) and not publish(run, copy)  # once
    names = {"result.json", "samples.npz", "metrics.jsonl", "weights.safetensors"}
    assert {p.name for p in copy.path.iterdir()} == names
    assert copy.config() == config and copy.result() == run.result()
    learner = build_learner(config, CPU)
    assert load_model(learner, copy, config).step == learner.steps
    assert [m.record() for m in evaluate(learner, quiet=True)] == [
        {k: v for k, v in r.items() if k not in ("experiment", "agent", "seed")} for r in run.result()["results"]
    ]


def test_an_unfinished_run_is_not_published(run_and_copy):
    _, run, copy = run_and_copy
    run.result_path.unlink()
    assert not publish(run, copy) and not copy.path.exists()


def test_damaged_weights_are_named(run_and_copy):
    config, run, copy = run_and_copy
    publish(run, copy)
    copy.weights_path.write_bytes(copy.weights_path.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"weights.safetensors is damaged: "):
        load_model(build_learner(config, CPU), copy, config)


def test_weights_are_those_that_were_selected(run_and_copy):
    config, run, copy = run_and_copy
    publish(run, copy)
    state = run.load_checkpoint(config)[1]["learner"]
    tested = state["selected"]["weights"] if state.get("selected") else state["model"]
    assert all(torch.equal(x, tested[name]) for name, x in copy.weights().items())
    shutil.rmtree(copy.path)

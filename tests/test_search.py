"""Search for settings: what is proposed, what is pruned, what goes on after a stop, and what it is judged by."""

from __future__ import annotations

import json

import pytest

from runs.catalogue import find
from runs.cli import run
from runs.launch import LaunchOptions
from runs.launch.search import Range, search
from runs.results.folder import RunFolder, find_runs
from runs.results.metrics import training_score
from runs.system.errors import Interrupted, RunError
from runs.training import train

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

FIXED = {"training.steps": [9], "training.batch-size": [8], "test.trials": [20]}
OPTIONS = LaunchOptions(engine="process", tracker="none", workers=2)
RATES = {"training.learning-rate": ["1e-4..1e-1"], "training.epochs": [1, 2]}


def base(seeds=(0,)):
    return [find("bandit/n10-k5").config("gru", seed, "smoke") for seed in seeds]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("1e-4..1e-2", Range(1e-4, 1e-2, False)),
        ("1..8", Range(1, 8, True)),
        ("0.1..0.5", Range(0.1, 0.5, False)),
        ("-1..1", Range(-1, 1, True)),
        ("5..1", None),
        ("..", None),
        ("a..b", None),
        ("scaled-dot", None),
        (0.5, None),
    ],
)
def test_ranges(word, expected):
    assert Range.parse(word) == expected


def test_proposals_are_judged_in_training_and_the_worse_are_pruned(tmp_path):
    found = search(base(), FIXED | RATES, 7, "optuna", tmp_path, OPTIONS)
    assert len(found) == 7 and [p.state for p in found if p.state == "complete"]
    assert any(p.state == "pruned" for p in found)
    for proposal in found:
        (config,) = proposal.configs
        assert 1e-4 <= config.training.learning_rate <= 1e-1 and config.training.epochs in (1, 2)
        assert (config.training.steps, config.training.batch_size) == (9, 8)
    for path in find_runs(tmp_path):
        lines = RunFolder(path).metrics()
        config = RunFolder(path).config()
        (proposal,) = (p for p in found if config in p.configs)
        assert len(lines) == 9 or (proposal.state == "pruned" and len(lines) in (1, 3))
        assert proposal.score == pytest.approx(training_score(lines)[1])
        assert (path / "result.json").exists() == (proposal.state == "complete")
    complete = [p.score for p in found if p.state == "complete"]
    assert complete == sorted(complete, reverse=True)
    again = search(base(), FIXED | RATES, 7, "optuna", tmp_path, OPTIONS)
    assert again == found  # nothing is left to do


def test_the_mean_over_seeds_is_judged(tmp_path):
    found = search(base((0, 1)), FIXED | {"training.epochs": [1, 2]}, 2, "random", tmp_path, OPTIONS)
    for proposal in (p for p in found if p.state == "complete"):
        assert [c.seed for c in proposal.configs] == [0, 1]
        runs = [RunFolder(path) for path in find_runs(tmp_path)]
        scores = [training_score(r.metrics())[1] for r in runs if r.config() in proposal.configs]
        assert len(scores) == 2 and proposal.score == pytest.approx(sum(scores) / 2)


def test_a_stopped_search_goes_on_with_the_runs_that_it_had_begun(tmp_path, monkeypatch):
    whole = search(base(), FIXED | RATES, 4, "random", tmp_path / "whole", OPTIONS)
    calls = []

    def stops(config, *args, **options):
        calls.append(config)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train(config, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("runs.launch.jobs.train", stops)
        with pytest.raises(Interrupted):
            search(base(), FIXED | RATES, 4, "random", tmp_path / "stopped", OPTIONS)
    found = search(base(), FIXED | RATES, 4, "random", tmp_path / "stopped", OPTIONS)
    assert len(found) == 4 and {c for p in found for c in p.configs} >= set(calls)
    assert len(whole) == 4


def test_a_paused_run_goes_on_as_if_it_had_not_been(tmp_path):
    from tiny_runs import BANDIT, STEPS, assert_same_run, go

    from runs.system.errors import Paused

    go(BANDIT, tmp_path / "whole")
    for until in (2, 2, 4):
        with pytest.raises(Paused, match=f"{until} of {STEPS}"):
            go(BANDIT, tmp_path / "paused", resume=True, until=until)
        assert len(RunFolder(tmp_path / "paused").metrics()) == until
    go(BANDIT, tmp_path / "paused", resume=True, until=STEPS)
    assert_same_run(tmp_path / "paused", tmp_path / "whole")


def test_the_best_is_printed_as_a_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "bandit/n10-k5/gru", "--budget", "smoke", "--engine", "process", "--tracker", "none"]
    words += [w for name, (value,) in FIXED.items() for w in ("--set", f"{name}={value}")]
    assert run([*words, "--search", "random", "--trials", "2", "--set", "training.learning-rate=1e-3..1e-2"]) == 0
    out = capsys.readouterr().out.splitlines()
    rate = float(out[2].split()[-1])
    assert out[-1].startswith("best: snail train bandit/n10-k5 --agent gru --budget smoke --seed 0")
    assert float(out[-1].split("--training.learning-rate ")[1].split()[0]) == rate and 1e-3 <= rate <= 1e-2
    best = [json.loads(p.read_text())["config"]["training"]["learning_rate"] for p in tmp_path.rglob("result.json")]
    assert rate in best


def test_a_range_is_for_a_search(capsys):
    assert run(["sweep", "bandit/n10-k5", "--set", "training.learning-rate=1e-3..1e-2", "--dry-run"]) == 2
    assert "training.learning-rate has a range; give --search random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ({}, {}, "nothing to search"),
        (RATES, {"trials": 0}, "trials must be at least 1"),
        ({"training.nothing": [1, 2]}, {}, "unknown option 'training.nothing'"),
        ({"training.epochs": ["1..2", 3]}, {}, "give one range, or values"),
    ],
)
def test_what_cannot_be_searched(tmp_path, space, options, message):
    with pytest.raises(RunError, match=message):
        search(base(), space, **{"trials": 2, "sampler": "random", "results": tmp_path, "options": OPTIONS, **options})
    classical = [find("bandit/n10-k5").config("ucb1", 0, "smoke")]
    with pytest.raises(RunError, match="ucb1 is not trained"):
        search(classical, {"training.trials": [1, 2]}, 2, "random", tmp_path, OPTIONS)

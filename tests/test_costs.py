"""What runs are expected to take: by records of the same settings, else of similar ones, scaled by a probe."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_runs import BANDIT, go

import runs.launch.costs as costs
from runs.catalogue import BUDGETS, CATALOGUE, find
from runs.cli import run
from runs.launch.costs import Cost, Costs, machine_factor, work
from runs.system.deadline import show_duration


@pytest.fixture
def nothing_published(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "PUBLISHED", tmp_path / "no records")


def test_every_experiment_has_every_budget():
    for e in CATALOGUE.values():
        assert tuple(e.budgets) == BUDGETS
        sizes = [work(e.config("gru", budget=b)) for b in BUDGETS]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0


def test_recombined_episodes_cost_less_than_those_that_are_embedded():
    usual = find("omniglot/5way").config("snail", budget="demo")
    of = [
        work(replace(usual, training=replace(usual.training, **more)))
        for more in ({}, {"recombined": 16}, {"batch_size": 32})
    ]
    assert of == sorted(set(of))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0s"), (59.6, "1m00s"), (725, "12m05s"), (3900, "1h05m"), (260_000, "3.0 days")]
)
def test_durations(seconds, shown):
    assert show_duration(seconds) == shown


def test_a_record_of_the_same_settings_tells_the_seconds(nothing_published, tmp_path):
    folder = tmp_path / "results" / "bandit" / "n10-k5" / "snail" / "smoke-seed1"
    record = go(BANDIT, folder)
    known = Costs(tmp_path / "results")
    assert known.of(replace(BANDIT, seed=7)) == Cost(pytest.approx(record["train_seconds"], abs=1e-3), similar=False)
    longer = replace(BANDIT, training=replace(BANDIT.training, steps=4 * BANDIT.training.steps))
    assert known.of(longer) == Cost(pytest.approx(4 * record["train_seconds"], rel=1e-3), similar=True)
    assert known.of(find("bandit/n10-k5").config("ucb1")) is None  # which does not learn
    assert Costs(tmp_path / "nowhere").of(BANDIT) is None
    total = known.total([BANDIT, replace(BANDIT, seed=3), longer], workers=2)
    assert total == f"about {show_duration(4 * record['train_seconds'])} with 2 at a time"
    assert known.total([find("omniglot/5way").config("gru")], 2) == "no records to estimate the time"


def test_no_environment_is_made_for_an_estimate(monkeypatch, tmp_path):
    """There are published records of locomotion, whose package is an extra."""
    monkeypatch.setattr("gymnasium.make", lambda *_, **__: 1 / 0)
    known = Costs(tmp_path)
    assert known.of(find("control/ant-velocity").config("snail")).similar
    assert known.of(find("bandit/n10-k5").config("snail")) is not None


def test_published_records_are_scaled_and_own_ones_are_not(monkeypatch, tmp_path):
    go(BANDIT, tmp_path / "published" / "run")
    monkeypatch.setattr(costs, "PUBLISHED", tmp_path / "published")
    one, three = (Costs(tmp_path / "results", factor).of(BANDIT).seconds for factor in (1.0, 3.0))
    assert three == pytest.approx(3 * one)
    go(BANDIT, tmp_path / "results" / "run")
    assert Costs(tmp_path / "results", 3.0).of(BANDIT) == Costs(tmp_path / "results", 1.0).of(BANDIT)


def test_a_machine_is_measured_once(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(costs, "probe", lambda: calls.append(1) or 2.0)
    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path))
    reference = json.loads(costs.REFERENCE.read_text())["seconds"]
    assert machine_factor(measure=False) == 1.0 and not calls
    assert machine_factor() == machine_factor() == machine_factor(measure=False) == pytest.approx(2.0 / reference)
    assert len(calls) == 1 and "measuring this machine for 0 s, once" in capsys.readouterr().err
    (tmp_path / "probe.json").write_text("damaged")
    assert machine_factor() == pytest.approx(2.0 / reference) and len(calls) == 2


def test_it_is_said_before_anything_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(costs, "probe", lambda: 1.0)
    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path))
    assert run(["list", "--costs", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CATALOGUE) + 1 and lines[0].split()[0] == "snail"
    assert run(["sweep", "bandit/n100-k5", "--agents", "snail", "gru", "--dry-run", "--results", str(tmp_path)]) == 0
    assert "2 runs: 0 finished already, 2 to do; about " in capsys.readouterr().out.splitlines()[-1]
    assert run(["table", "4", "--run-missing", "--dry-run", "--results", str(tmp_path)]) == 0
    assert "about" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr("runs.training._run_steps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(["train", "mdp/n25", "--results", str(tmp_path), "--tracker", "none"]) == 130
    assert "this takes about" in capsys.readouterr().err
    assert run(["train", "mdp/n25", "--budget", "smoke", "--results", str(tmp_path), "--tracker", "none"]) == 130
    assert "this takes" not in capsys.readouterr().err

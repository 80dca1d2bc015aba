"""The published transfer: of agents that are published, and right where it can be compared with their records."""

from __future__ import annotations

import math
import shutil

import pytest

import runs.bench.transfer
import runs.results.transfer
from runs.catalogue import as_catalogued
from runs.cli import run
from runs.results.folder import RunFolder, find_runs, write_json
from runs.results.records import PUBLISHED, read_results
from runs.results.transfer import render_transfer, transfers


def test_on_their_own_trials_agents_are_as_good_as_their_records_say():
    # runs with other settings have a hash in the folder's name
    records = {(r.experiment, r.agent): r for r in read_results([PUBLISHED]) if r.path.parent.name == "full-seed0"}
    own = [f for f in transfers() if f["trained"].startswith(f"bandit/n{f['pulls']}-") and f["budget"] == "full"]
    assert len(own) >= 12
    for found in own:
        record = records[found["trained"], found["agent"]]
        # of other trials: within 4 standard errors of a difference
        assert abs(found["mean"] - record.mean) < 4 / 1.96 * math.hypot(found["ci95"], record.ci95)
    gittins = {r.experiment: r.mean for r in read_results([PUBLISHED]) if r.agent == "finite-gittins"}
    for found in transfers():
        arms = found["trained"].rpartition("-")[2]
        assert found["reference"] == gittins[f"bandit/n{found['pulls']}-{arms}"]


def test_each_row_is_one_published_run_with_the_catalogues_settings():
    """An earlier run with other settings once took the place of the current one."""
    finished = {}
    for path in find_runs(PUBLISHED / "bandit"):
        folder = RunFolder(path)
        if folder.weights_path.exists() and as_catalogued(config := folder.config()):
            finished[config.experiment, config.agent, config.budget] = folder.result()["finished"]
    rows = {(f["trained"], f["agent"], f["budget"]): f["finished"] for f in transfers()}
    assert rows == {key: when for key, when in finished.items() if key in rows} and len(rows) >= 12
    assert len({(f["finished"], f["pulls"]) for f in transfers()}) == len(transfers())


def test_classical_methods_are_left_out(tmp_path, monkeypatch):
    method = "bandit/n500-k5/optimistic-thompson/full-seed0"
    shutil.copytree(PUBLISHED / method, tmp_path / method)
    assert RunFolder(tmp_path / method).weights_path.exists()  # what was tuned
    monkeypatch.setattr(runs.bench.transfer, "PUBLISHED", tmp_path)
    assert list(runs.bench.transfer.measured()) == []


def test_an_interrupted_measurement_keeps_what_it_has(tmp_path, monkeypatch):
    path = tmp_path / "transfer.json"
    write_json(path, {"transfers": [{"finished": "1", "pulls": 10, "mean": 1.0}, {"finished": "2", "pulls": 10}]})
    for module in (runs.bench.transfer, runs.results.transfer):
        monkeypatch.setattr(module, "OUTCOME", path)

    def interrupted():
        yield {"finished": "1", "pulls": 10, "mean": 2.0}
        yield {"finished": "3", "pulls": 10}
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.bench.transfer, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.bench.transfer.main()
    assert [row["finished"] for row in transfers()] == ["1", "2", "3"] and transfers()[0]["mean"] == 2.0


def test_shares_are_of_the_index(capsys):
    found = {"trained": "bandit/n10-k5", "agent": "a", "pulls": 10, "mean": 3.0, "ci95": 0.1, "reference": 4.0}
    text = render_transfer([found, {**found, "pulls": 100, "mean": 20.0, "reference": 80.0}])
    row = next(line for line in text.splitlines() if "bandit/n10-k5" in line)
    assert "75.0 ± 2.5" in row and "25.0 ± 0.1" in row
    assert run(["table", "transfer", "--agents", "snail"]) == 2  # never silently ignored
    assert "takes no options" in capsys.readouterr().err
    assert run(["table", "transfer"]) == 0
    assert capsys.readouterr().out.strip() == render_transfer(transfers()).strip()

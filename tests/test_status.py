"""What `snail status` says of a run in every state, and of damage."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runs.catalogue import RunConfig, find
from runs.cli import run
from runs.commands.track import _runs as pushable
from runs.config.serialization import to_dict
from runs.dashboard.collect import Collector
from runs.launch.jobs import Job
from runs.launch.plans import LONGEST_WAIT, Queue, keep_plan
from runs.launch.queue import _squeue
from runs.launch.status import Status, read_status, render
from runs.results.folder import RunFolder, find_runs, run_path, write_json

CONFIG = find("bandit/n10-k5").config("gru", budget="smoke")  # of 4 updates


def config(seed: int) -> RunConfig:
    return find("bandit/n10-k5").config("gru", seed, "smoke")


def begun(results: Path, seed: int, lines: int = 3, checkpoint: bool = True) -> RunFolder:
    """A run as training leaves it after some updates, one a line, two a second."""
    folder = RunFolder(run_path(results, config(seed)))
    folder.claim(config(seed), overwrite=False)
    for step in range(1, lines + 1):
        folder.append_metrics({"update": step, "time/seconds": step / 2, "train/loss": 1.0})
    if checkpoint:
        folder.checkpoint_path.touch()
    return folder


def record(seed: int) -> dict:
    key = {"experiment": "bandit/n10-k5", "agent": "gru", "seed": seed, "n": 50, "task_set": "x"}
    return {
        "results": [{**key, "metric": "return", "mean": 6.5, "ci95": 0.25}],
        "budget": "smoke",
        "as_catalogued": True,
        "steps": 4,
        "train_seconds": 2.0,
        "parameters": 100,
        "device": "a processor",
        "finished": "2026-01-01T00:00:00+00:00",
        "config": to_dict(config(seed)),
    }


@contextmanager
def launched(results: Path, *seeds: int, engine: str = "workers") -> Iterator[None]:
    with keep_plan(results, "test", engine, [Job.of(config(seed), results) for seed in seeds]):
        yield


def told(results: Path) -> dict[int, Status]:
    """Statuses by seed."""
    return {int(re.search(r"seed(\d+)", s.run)[1]): s for s in read_status(results)}


def test_every_state(tmp_path):
    with launched(tmp_path, 8):
        pass
    with ExitStack() as stack:
        stack.enter_context(launched(tmp_path, 0, 1, 2, 3, 4, 7, 9))
        stack.enter_context(RunFolder(run_path(tmp_path, config(0))).lock())  # before it has claimed the folder
        stack.enter_context(begun(tmp_path, 1).lock())
        begun(tmp_path, 2).write_result(record(2))
        begun(tmp_path, 3, checkpoint=False).write_failure("the loss is not a number", "Traceback ...")
        RunFolder(run_path(tmp_path, config(4))).write_failure("it could not even begin", "")
        begun(tmp_path, 5)
        begun(tmp_path, 6, lines=0, checkpoint=False)
        begun(tmp_path, 7)  # its worker died, and it has another turn
        found = told(tmp_path)
    states = {seed: s.state for seed, s in found.items()}
    assert states == {
        0: "starting",
        1: "running",
        2: "finished",
        3: "failed",
        4: "failed",
        5: "stopped",
        6: "stopped",
        7: "waiting",
        8: "not started",
        9: "waiting",
    }
    assert found[1].run == "bandit/n10-k5/gru/smoke-seed1"
    assert (found[1].step, found[1].steps, found[1].rate, found[1].seconds_left) == (3, 4, 2.0, 0.5)
    assert re.match(r"process \d+ on ", found[1].note)
    assert found[2].note == "return 6.5000 ± 0.2500"
    assert (found[3].note, found[3].step) == ("the loss is not a number", 3)
    assert (found[4].note, found[4].steps) == ("it could not even begin", 4)
    assert found[5].note == "continue with --resume" and found[6].note == "there is no checkpoint yet"
    assert {seed for seed, s in found.items() if s.pending} == {0, 1, 7, 9}
    # once the launch has ended, nobody's turn comes any more
    assert {told(tmp_path)[seed].state for seed in (7, 9)} == {"stopped", "not started"}
    text = render(list(found.values()))
    assert text.splitlines()[-1] == ("1 starting, 1 running, 1 finished, 2 failed, 2 stopped, 2 waiting, 1 not started")
    assert re.search(r"seed1 +running +3 of 4 +2/s +0s +process", text)


def test_what_failed_waits_again_once_it_is_launched_again(tmp_path):
    folder = RunFolder(run_path(tmp_path, config(0)))
    folder.write_failure("an older attempt", "")
    failure = json.loads(folder.failure_path.read_text())
    failure["time"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds")
    write_json(folder.failure_path, failure)
    assert told(tmp_path)[0].state == "failed"
    with launched(tmp_path, 0):
        assert told(tmp_path)[0].state == "waiting"
    assert told(tmp_path)[0].state == "failed"


def submitted(results: Path, seeds: dict[int, str], cluster: str = "slurm", hours: int = 12) -> None:
    """A launch of Slurm's that did not wait: the seeds, with the ids of their jobs."""
    jobs = {seed: Job.of(config(seed), results) for seed in seeds}
    queue = Queue(cluster, hours * 3600.0)
    with keep_plan(results, "test", "slurm", list(jobs.values()), queue) as plan:
        for seed, number in seeds.items():
            plan.submitted(jobs[seed], number)


@pytest.fixture
def squeue(monkeypatch, tmp_path_factory):
    """Replaces Slurm's program by one that says what it is told to, and keeps how it was asked."""
    folder = tmp_path_factory.mktemp("slurm")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    _squeue.cache_clear()

    def says(text: str, error: str = "", code: int = 0) -> Path:
        program = folder / "squeue"
        program.write_text(
            f"#!/bin/sh\necho \"$*\" >>{folder}/asked\nprintf '{text}'\nprintf '{error}' >&2\nexit {code}\n"
        )
        program.chmod(0o755)
        _squeue.cache_clear()
        return folder / "asked"

    yield says
    _squeue.cache_clear()


def test_what_is_in_the_queue_of_slurm_waits_until_it_has_left_it(tmp_path, squeue, capsys):
    submitted(tmp_path, {0: "70_0", 1: "70_1", 2: "70_2", 3: "70_3", 4: "71"})
    begun(tmp_path, 1)
    begun(tmp_path, 2).write_result(record(2))
    asked = squeue("70_0 PENDING\\n70_1 RUNNING\\n70_3 CANCELLED\\n9_0 RUNNING\\n")
    found = {seed: s.state for seed, s in told(tmp_path).items()}
    assert found == {0: "waiting", 1: "waiting", 2: "finished", 3: "not started", 4: "not started"}
    assert told(tmp_path)[1].step == 3
    (words,) = asked.read_text().splitlines()  # once, for all of them
    assert "--jobs=70,71" in words.split()
    squeue("", "slurm_load_jobs error: Invalid job id specified", 1)  # all are long gone
    assert {told(tmp_path)[seed].state for seed in (0, 3, 4)} == {"not started"}
    assert told(tmp_path)[1].state == "stopped"
    assert run(["status", "--results", str(tmp_path), "--watch"]) == 0  # and it ends
    assert "1 finished" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["no squeue", "no answer"])
def test_where_no_queue_can_be_asked_its_jobs_expire(tmp_path, squeue, monkeypatch, how):
    if how == "no answer":
        squeue("", "Unable to contact slurm controller", 1)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    submitted(tmp_path, {0: "72"})
    assert told(tmp_path)[0].state == "waiting"
    (plan,) = (tmp_path / "launches").glob("*.json")
    began = json.loads(plan.read_text())["began"]
    for margin, state in ((timedelta(hours=-1), "waiting"), (timedelta(hours=1), "not started")):
        earlier = datetime.fromisoformat(began) - timedelta(hours=12) - LONGEST_WAIT - margin
        write_json(plan, json.loads(plan.read_text()) | {"began": earlier.isoformat()})
        assert told(tmp_path)[0].state == state


def test_a_launch_that_has_submitted_nothing_waits_for_nothing(tmp_path):
    jobs = [Job.of(config(0), tmp_path)]
    with keep_plan(tmp_path, "test", "slurm", jobs, Queue("slurm", 60.0)):
        assert told(tmp_path)[0].state == "waiting"
    assert told(tmp_path)[0].state == "not started"


def test_plans_of_slurm_from_before_jobs_were_noted_expire(tmp_path):
    with launched(tmp_path, 0, engine="slurm"):
        pass
    assert told(tmp_path)[0].state == "waiting"
    (plan,) = (tmp_path / "launches").glob("*.json")
    earlier = datetime.now(UTC) - LONGEST_WAIT
    write_json(plan, json.loads(plan.read_text()) | {"began": earlier.isoformat()})
    assert told(tmp_path)[0].state == "not started"


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "failed.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\n{}\n", b"[]\n[]\n", b"{}\n{}\n"])
def test_damage_costs_its_own_line(tmp_path, name, content):
    damaged = begun(tmp_path, 0)
    (damaged.path / name).write_bytes(content)
    begun(tmp_path, 1)
    found = told(tmp_path)
    assert found[1].state == "stopped" and found[1].step == 3
    if (name, content) == ("metrics.jsonl", b"{"):  # a last line cut short is no damage
        assert found[0].state == "stopped"
    else:
        assert found[0].state == "damaged" and found[0].note


def test_a_damaged_plan_costs_a_warning(tmp_path, capsys):
    begun(tmp_path, 0)
    (tmp_path / "launches").mkdir()
    (tmp_path / "launches" / "x.json").write_text("[")
    assert told(tmp_path)[0].state == "stopped"
    assert "x.json is not a complete plan" in capsys.readouterr().err


def test_all_who_look_for_runs_find_the_same(tmp_path):
    """What lies inside a run's folder, such as a copy of it, is no run, and neither is a folder of other things."""
    folder = begun(tmp_path, 0)
    shutil.copytree(folder.path, folder.path / "before")
    record_alone = tmp_path / "published" / "x"
    record_alone.mkdir(parents=True)
    write_json(record_alone / "result.json", record(1))
    (tmp_path / "trackio").mkdir()
    (tmp_path / "trackio" / "metrics.jsonl").touch()
    found = [folder.path, record_alone]
    assert list(find_runs(tmp_path)) == found and list(find_runs(folder.path)) == [folder.path]
    assert [tmp_path / s.run for s in read_status(tmp_path)] == found
    assert [r.folder for r in Collector([tmp_path]).collect().runs] == found
    assert pushable(tmp_path) == [folder.path]  # a record alone has no metrics to send
    failed, starting = (RunFolder(run_path(tmp_path, config(seed))) for seed in (2, 3))
    failed.write_failure("before it had a configuration", "")
    with starting.lock():
        assert {s.state for s in read_status(tmp_path)} == {"stopped", "finished", "failed", "starting"}
        assert list(find_runs(tmp_path)) == found


def test_settings_of_its_own_are_told(tmp_path):
    from dataclasses import replace

    changed = replace(CONFIG, training=replace(CONFIG.training, steps=7, learning_rate=0.5))
    RunFolder(run_path(tmp_path, changed)).claim(changed, overwrite=False)
    (status,) = read_status(tmp_path)
    assert status.settings == "training.steps=7 training.learning-rate=0.5"


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["status"]) == 2 and "there is no folder results" in capsys.readouterr().err
    begun(tmp_path / "results", 0)
    other = find("mdp/n10").config("gru", budget="smoke")
    RunFolder(run_path(Path("results"), other)).claim(other, overwrite=False)
    assert run(["status"]) == 0 and "2 stopped" in capsys.readouterr().out
    assert run(["status", "mdp/n10"]) == 0
    out = capsys.readouterr().out
    assert "1 stopped" in out and "bandit" not in out
    assert run(["status", "mdp/n11"]) == 2 and "did you mean mdp/n10?" in capsys.readouterr().err
    assert run(["status", "bandit/n10-k10"]) == 0 and "no runs in results" in capsys.readouterr().out
    assert run(["status", "mdp/n10/gru"]) == 0 and "1 stopped" in capsys.readouterr().out
    assert run(["status", "mdp/n10/snail"]) == 0 and "no runs in results" in capsys.readouterr().out


def test_watching_ends_when_nothing_runs_any_more(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("runs.commands.status.REDRAW_SECONDS", 0.05)
    folder = begun(tmp_path, 0)
    locked, finish = threading.Event(), threading.Event()

    def train() -> None:
        with folder.lock():
            locked.set()
            finish.wait()
            folder.write_result(record(0))

    thread = threading.Thread(target=train)
    thread.start()
    locked.wait()
    threading.Timer(0.3, finish.set).start()
    assert run(["status", "--results", str(tmp_path), "--watch"]) == 0
    thread.join()
    drawn = re.findall(r"smoke-seed0 +(\w+)", capsys.readouterr().out)
    assert drawn[0] == "running" and drawn[-1] == "finished" and len(drawn) > 2


def test_many_runs_are_told_quickly(tmp_path):
    """Finished runs are told from their records alone, however long their metrics are."""
    for seed in range(200):
        folder = begun(tmp_path, seed, lines=0)
        folder.metrics_path.write_text("no JSON at all\n" * 2)
        folder.write_result(record(seed))
    found = read_status(tmp_path)
    assert {s.state for s in found} == {"finished"} and len(found) == 200

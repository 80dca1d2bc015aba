"""Runs from configuration to record: what they leave, how they survive interruptions, and what they refuse."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import (
    BANDIT,
    CPU,
    FEWSHOT,
    LOOPS,
    STEPS,
    assert_same_run,
    contents,
    go,
    quicken,
    saved_state,
    untimed_metrics,
)
from torch import nn

import runs.algorithms.meta_rl
import runs.tasks
import runs.tracking
import runs.training
from runs.agents import SNAILConfig
from runs.algorithms.fewshot import FewShotLearner, FewShotTest
from runs.algorithms.finite import first_not_finite
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOLearner
from runs.config.serialization import to_dict, to_json
from runs.results.folder import RunFolder
from runs.results.records import SAMPLES, read_results, read_samples
from runs.system.deadline import Deadline
from runs.system.errors import Interrupted, OutOfTime, RunError
from runs.system.machine import use_bfloat16
from runs.training import build_learner, evaluate, load_model, train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Path]:
    """The folders of uninterrupted runs of both loops; not to be changed."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        for loop, (config, _) in LOOPS.items():
            folders[loop] = tmp_path_factory.mktemp("whole") / loop
            go(config, folders[loop])
    return folders


# ----- what a finished run leaves


def strict_json(text: str) -> Any:
    """JSON as other programs read it, to whom NaN is not a number."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("loop", LOOPS)
def test_record(finished, loop):
    config, _ = LOOPS[loop]
    folder = finished[loop]
    record = strict_json((folder / "result.json").read_text())
    expected = {"experiment", "agent", "seed", "metric", "mean", "ci95", "n", "task_set"}
    if loop == "few-shot":
        assert [r["shots"] for r in record["results"]] == [1, 2]
        expected.add("shots")
    else:
        assert len(record["results"]) == 1
    for r in record["results"]:
        assert set(r) == expected
        assert (r["experiment"], r["agent"], r["seed"]) == (config.experiment, "gru", 1)
        assert (r["metric"], r["n"]) == (("accuracy", 10) if loop == "few-shot" else ("return", 100))
        assert 0 < r["mean"] < (16 if loop == "lookahead-mdp" else 4) and 0 < r["ci95"] < 1
        assert re.fullmatch("[0-9a-f]{16}", r["task_set"])
    assert record["steps"] == STEPS and record["train_seconds"] >= 0
    assert record["config"] == to_dict(config)
    assert record["versions"]["torch"] == torch.__version__
    assert record["device"] and "commit" in record and record["parameters"] > 0
    # trials of 2, 3 and 3 pulls (2 to 4 at a constant rate, rounded) in the curriculum, and as many as make 128 pulls
    pulls = STEPS * 32 * 8 if loop == "lookahead-mdp" else 64 * 2 + 42 * 3 + 42 * 3 + 3 * 32 * 4
    assert (record["episodes"] == STEPS * 2) if loop == "few-shot" else (record["env_steps"] == pulls)


def test_samples_are_what_the_numbers_are_of(finished):
    for folder in finished.values():
        for r in json.loads((folder / "result.json").read_text())["results"]:
            name = r["metric"] + (f"_{r['shots']}shot" if "shots" in r else "")
            samples = read_samples(folder / SAMPLES, name)
            assert samples.shape == (r["n"],) and samples.mean() == pytest.approx(r["mean"], abs=1e-6)
            assert 1.96 * samples.std(ddof=1) / r["n"] ** 0.5 == pytest.approx(r["ci95"], rel=1e-5)
        assert read_samples(folder / SAMPLES, "nothing") is None


def test_records_are_read_back(finished):
    results = read_results([folder.parent for folder in finished.values()])
    records = [json.loads((finished[loop] / "result.json").read_text()) for loop in LOOPS]
    expected = [(r["metric"], r.get("shots"), r["mean"], r["ci95"]) for record in records for r in record["results"]]
    assert [(r.metric, r.shots, r.mean, r.ci95) for r in results] == expected
    assert len(expected) == len(LOOPS) + 1  # of two numbers of shots


PPO_LOGS = {f"train/{name}" for name in ("loss", "policy_loss", "return", "kl", "clip_fraction", "learning_rate")}


@pytest.mark.parametrize("loop", LOOPS)
def test_metrics_lines(finished, loop):
    lines = [strict_json(line) for line in (finished[loop] / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == list(range(1, STEPS + 1))
    seconds = [line["time/seconds"] for line in lines]
    assert seconds == sorted(seconds)
    for line in lines:
        assert all(math.isfinite(v) for v in line.values())
        rate, logged = {
            "bandit": ("env_steps", PPO_LOGS),
            "privileged": ("env_steps", PPO_LOGS),
            "lookahead": ("env_steps", {"train/loss", "train/return", "train/regret", "train/expected_improvement"}),
            "lookahead-mdp": ("env_steps", {"train/loss", "train/return", "train/expected_return"}),
            "trpo": ("env_steps", {"train/policy_loss", "train/return", "train/kl", "diagnostics/step_scale"}),
            "few-shot": ("episodes", {"train/loss", "train/accuracy", "train/learning_rate"}),
        }[loop]
        assert line[f"time/{rate}_per_second"] > 0 and logged <= set(line)
        assert line[rate] > 0
    looks = [line["update"] for line in lines if "validation/accuracy_1shot" in line]
    assert looks == ([3, 6] if loop == "few-shot" else [])


def test_the_streaming_and_the_parallel_policy_agree(finished):
    """Before the first update of a batch the importance ratio is 1, but for rounding."""
    for loop in ("bandit", "lookahead", "lookahead-mdp", "trpo"):
        half = use_bfloat16(LOOPS[loop][0].training.bfloat16, CPU.device)
        largest = max(line["diagnostics/step_forward_mismatch"] for line in untimed_metrics(finished[loop]))
        assert largest < (1e-2 if half else 1e-5)


def test_nothing_but_the_run_is_left(finished):
    for folder in finished.values():
        assert set(contents(folder)) == {
            "config.json",
            "metrics.jsonl",
            "checkpoint.pt",
            "result.json",
            "samples.npz",
        }


@pytest.mark.parametrize("loop", LOOPS)
def test_same_seed_same_run_and_other_seed_other_run(finished, loop, tmp_path):
    config, _ = LOOPS[loop]
    torch.rand(5)  # what happened before is no business of a run
    go(config, tmp_path / "again")
    assert_same_run(tmp_path / "again", finished[loop])
    go(replace(config, seed=2), tmp_path / "other")
    assert untimed_metrics(tmp_path / "other")[0] != untimed_metrics(finished[loop])[0]
    task_sets = [
        [r["task_set"] for r in json.loads((p / "result.json").read_text())["results"]]
        for p in (tmp_path / "other", finished[loop])
    ]
    assert task_sets[0] == task_sets[1]


@pytest.mark.parametrize("loop", LOOPS)
def test_evaluation_repeats_and_changes_nothing(loop):
    config, _ = LOOPS[loop]
    learner = build_learner(config, CPU)
    before = [p.clone() for p in learner.model.state_dict().values()]
    first = evaluate(learner, quiet=True)
    learner.validate()
    assert evaluate(learner, quiet=True) == first
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.state_dict().values(), strict=True))


# ----- interruptions


def at_step(monkeypatch, learner: type, step: int, act) -> None:
    """Do something at the beginning of update number ``step``."""
    update = learner.update

    def changed(self, number):
        if number == step:
            act()
        return update(self, number)

    monkeypatch.setattr(learner, "update", changed)


class Crash(Exception):
    pass


def crash(*_, **__):
    raise Crash


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("loop", LOOPS)
def test_stopped_and_resumed_is_as_never_stopped(finished, loop, number, tmp_path):
    config, learner = LOOPS[loop]
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, learner, 2, lambda: signal.raise_signal(number))
        with pytest.raises(Interrupted, match=f"stopped after update 3 of {STEPS}; continue with --resume"):
            go(config, tmp_path)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    progress = saved_state(tmp_path)["progress"]
    assert progress["step"] == 3 and not (tmp_path / "result.json").exists()
    torch.rand(5)
    go(config, tmp_path, resume=True)
    assert_same_run(tmp_path, finished[loop])
    assert saved_state(tmp_path)["progress"]["run_id"] == progress["run_id"]


@pytest.mark.parametrize(
    "loop, place",
    [(loop, place) for loop in LOOPS for place in ("update", "checkpoint", "evaluate")] + [("few-shot", "validate")],
)
def test_crashed_and_resumed_is_as_never_crashed(finished, loop, place, tmp_path):
    config, learner = LOOPS[loop]
    with pytest.MonkeyPatch.context() as patch:
        if place == "update":
            at_step(patch, learner, 4, crash)
        elif place == "checkpoint":  # after the metrics of that step were written
            save, calls = RunFolder.save_checkpoint, []

            def save_or_crash(self, *arguments):
                calls.append(1)
                crash() if len(calls) == 4 else save(self, *arguments)

            patch.setattr(RunFolder, "save_checkpoint", save_or_crash)
        else:
            patch.setattr(learner, place, crash)
        with pytest.raises(Crash):
            go(config, tmp_path)
    go(config, tmp_path, resume=True)
    assert_same_run(tmp_path, finished[loop])


def test_stopped_again_and_again(finished, tmp_path):
    for step in (0, 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, PPOLearner, step, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted, match=f"after update {step + 1} of"):
                go(BANDIT, tmp_path, resume=True)
    go(BANDIT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["bandit"])


@pytest.mark.parametrize("loop", LOOPS)
def test_stopped_between_two_lines_of_metrics(loop, tmp_path, monkeypatch):
    """The next line is of all updates since the last one, also of those before the stop."""
    config, learner = LOOPS[loop]
    monkeypatch.setattr(runs.training, "LOGGED_STEPS", 2)
    go(config, tmp_path / "whole")
    assert [line["update"] for line in untimed_metrics(tmp_path / "whole")] == [3, 6]
    for step in (0, 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, learner, step, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted, match=f"after update {step + 1} of"):
                go(config, tmp_path / "stopped", resume=True)
    go(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(("lines", "steps"), [(2, 7), (3, 7), (4, 7), (7, 7), (1000, 7)])
def test_logged_are_some_updates_the_looks_and_the_last(tmp_path, monkeypatch, lines, steps):
    monkeypatch.setattr(runs.training, "LOGGED_STEPS", lines)
    config = replace(FEWSHOT, training=replace(FEWSHOT.training, steps=steps))
    go(config, tmp_path)
    every = math.ceil(steps / lines)
    expected = sorted({*range(every, steps + 1, every), 3, 7})
    assert [line["update"] for line in untimed_metrics(tmp_path)] == expected


def test_a_checkpoint_of_before_there_were_windows_goes_on(finished, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, PPOLearner, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            go(BANDIT, tmp_path)
    state = saved_state(tmp_path)
    assert state["progress"].pop("window") == {}
    torch.save(state, tmp_path / "checkpoint.pt")
    go(BANDIT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["bandit"])


def test_stopped_by_its_deadline_again_and_again(finished, tmp_path):
    """A time budget costs no number: at least one update is made each time, and nothing is lost between."""
    for done in (1, 2, 3):
        with pytest.raises(OutOfTime, match=f"time budget ends after update {done} of {STEPS}; .*--resume"):
            go(BANDIT, tmp_path, resume=True, deadline=Deadline(0.0))
        assert saved_state(tmp_path)["progress"]["step"] == done
    go(BANDIT, tmp_path, resume=True, deadline=Deadline(1e6))
    assert_same_run(tmp_path, finished["bandit"])


def test_a_deadline_in_the_evaluation_leaves_it_to_be_repeated(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.tasks.TrialTask, "tested_at_once", 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.training, "_run_steps", stop_the_clock_after(runs.training._run_steps))
        with pytest.raises(OutOfTime, match="before the test"):
            go(BANDIT, tmp_path, deadline=Deadline())
    assert not (tmp_path / "result.json").exists()
    monkeypatch.undo()
    quicken(monkeypatch)
    go(BANDIT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["bandit"])


def stop_the_clock_after(work):
    """``work``, after which the deadline that it was handed has passed."""

    def late(*arguments):
        work(*arguments)
        arguments[-2].__init__(0.0)

    return late


def test_stopped_while_validating(finished, tmp_path):
    """Wherever it stops, the message tells the step of a checkpoint that is there."""
    validate = FewShotLearner.validate

    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        return validate(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.training, "CHECKPOINT_SECONDS", 1e9)
        patch.setattr(FewShotLearner, "validate", interrupted)
        with pytest.raises(Interrupted) as e:
            go(FEWSHOT, tmp_path)
    assert f"stopped after update {saved_state(tmp_path)['progress']['step']} of" in str(e.value)
    go(FEWSHOT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["few-shot"])


def test_a_second_ctrl_c_stops_at_once(finished, tmp_path):
    def insist():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on after the second Ctrl-C")

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, PPOLearner, 3, insist)
        with pytest.raises(Interrupted):
            go(BANDIT, tmp_path)
    go(BANDIT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["bandit"])


def test_runs_in_another_thread(finished, tmp_path):
    """Signals are the main thread's there."""
    thread = threading.Thread(target=go, args=(BANDIT, tmp_path))
    thread.start()
    thread.join()
    assert_same_run(tmp_path, finished["bandit"])


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import runs.training
from runs.catalogue import RunConfig
from runs.config.serialization import from_dict
from runs.results.folder import RunFolder
from runs.system.machine import Machine
import json

runs.training.CHECKPOINT_SECONDS = -1.0
save, calls = torch.save, []

def save_or_die(state, file):
    calls.append(1)
    if len(calls) == 4:
        file.write(b"half of a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)

torch.save = save_or_die
config = from_dict(RunConfig, json.loads(sys.argv[1]))
runs.training.train(config, RunFolder(Path(sys.argv[2])), Machine(torch.device("cpu")), tracker="none", quiet=True)
"""


def test_killed_while_writing_and_resumed_is_as_never_killed(finished, tmp_path):
    root = Path(runs.training.__file__).parents[1]
    command = [sys.executable, "-c", KILLED, to_json(BANDIT), str(tmp_path)]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved_state(tmp_path)["progress"]["step"] == 3  # the last one that was written whole
    assert [line["update"] for line in untimed_metrics(tmp_path)] == [1, 2, 3, 4]
    go(BANDIT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["bandit"])


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_last_line_of_metrics_that_was_cut_short_is_forgotten(finished, tmp_path, lost):
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, PPOLearner, 3, crash)
        with pytest.raises(Crash):
            go(BANDIT, tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-lost])
    go(BANDIT, tmp_path, resume=True)
    expected = untimed_metrics(finished["bandit"])
    if lost > 1:  # more than the end of the line
        del expected[2]
    assert untimed_metrics(tmp_path) == expected


def test_other_damage_to_the_metrics_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_metrics({"update": step})
    folder.metrics_path.write_text(folder.metrics_path.read_text().replace('{"update": 2}', '{"up'))
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged: line 2"):
        folder.metrics()


# ----- what is refused


def test_a_finished_run_is_neither_repeated_nor_replaced(tmp_path):
    go(BANDIT, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RunError, match=r"holds a finished run.*--overwrite"):
        go(BANDIT, tmp_path)
    assert contents(tmp_path) == before


def test_resuming_a_finished_run_returns_its_record(tmp_path, monkeypatch, capsys):
    record = go(BANDIT, tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(PPOLearner, "update", crash)
    monkeypatch.setattr(PPOLearner, "evaluate", crash)
    assert go(BANDIT, tmp_path, resume=True) == record
    assert contents(tmp_path) == before
    assert "finished already" in capsys.readouterr().out


def test_overwriting_starts_anew(finished, tmp_path):
    other = replace(BANDIT, seed=5, training=replace(BANDIT.training, steps=9))
    go(other, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    go(BANDIT, tmp_path, overwrite=True)
    assert_same_run(tmp_path, finished["bandit"])
    assert RunFolder(tmp_path).plain_config() == to_dict(BANDIT)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.fixture
def unfinished(tmp_path) -> Path:
    """A run that was stopped after update 3."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, PPOLearner, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            go(BANDIT, tmp_path)
    return tmp_path


def test_an_unfinished_run_is_not_replaced_unasked(unfinished):
    before = contents(unfinished)
    with pytest.raises(RunError, match=r"holds an unfinished run.*--resume.*--overwrite"):
        go(BANDIT, unfinished)
    assert contents(unfinished) == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kept", ["everything", "config.json", "checkpoint.pt"])
def test_another_configuration_is_refused(unfinished, kept, resume):
    other = replace(BANDIT, training=replace(BANDIT.training, learning_rate=0.5))
    for path in unfinished.iterdir():
        if kept not in ("everything", path.name):
            path.unlink()
    before = contents(unfinished)
    with pytest.raises(RunError) as e:
        go(other, unfinished, resume=resume)
    if resume or kept == "config.json":
        assert f"training.learning_rate was {BANDIT.training.learning_rate}, now 0.5" in str(e.value)
    assert {k: v for k, v in contents(unfinished).items() if k in before and k != "config.json"} == {
        k: v for k, v in before.items() if k != "config.json"
    }


class Canary:
    """Writes a file when it is unpickled by a careless reader."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 4, len(data) // 2):
        data[i] ^= 0xFF
    path.write_bytes(data)


def rebuilt(**changes: Any):
    """The checkpoint with other entries."""

    def rebuild(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        torch.save({k: v for k, v in {**state, **changes}.items() if v is not None}, path)

    return rebuild


def canary_path(path: Path) -> Path:
    return path.with_name("sung")


def malicious_archive(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "learner": Canary(canary_path(path))}, path)


def malicious_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Canary(canary_path(path))))


def malicious_legacy(path: Path) -> None:
    torch.save({"config": Canary(canary_path(path))}, path, _use_new_zipfile_serialization=False)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": half,
    "flipped bytes": flipped,
    "garbage": lambda path: path.write_bytes(b"garbage " * 100),
    "a list": lambda path: torch.save([1, 2], path),
    "no config": rebuilt(config=None),
    "no learner": rebuilt(learner=None),
    "config is no JSON": rebuilt(config="{"),
    "config is a number": rebuilt(config=3),
    "learner is empty": rebuilt(learner={}),
    "progress is empty of meaning": rebuilt(progress={"pace": 1}),
    "progress is a number": rebuilt(progress=3),
    "malicious archive": malicious_archive,
    "malicious pickle": malicious_pickle,
    "malicious legacy file": malicious_legacy,
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_checkpoint_is_refused_and_not_executed(unfinished, damage):
    path = unfinished / "checkpoint.pt"
    (unfinished / "previous.pt").unlink()
    DAMAGE[damage](path)
    before = path.read_bytes()
    with pytest.raises(RunError) as e:
        go(BANDIT, unfinished, resume=True)
    assert str(path) in str(e.value) and "--overwrite" in str(e.value) and "\n" not in str(e.value)
    assert not canary_path(path).exists()
    assert path.read_bytes() == before
    assert [line["update"] for line in untimed_metrics(unfinished)] == [1, 2, 3]


def flip(path: Path, place: float) -> None:
    """Change one byte, at that part of the file."""
    data = bytearray(path.read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] ^= 0x10
    path.write_bytes(data)


def test_one_changed_byte_of_a_checkpoint_is_noticed(unfinished):
    path = unfinished / "checkpoint.pt"
    (unfinished / "previous.pt").unlink()
    whole = path.read_bytes()
    for place in range(40):
        path.write_bytes(whole)
        flip(path, place / 39)
        with pytest.raises(RunError, match=r"checkpoint.pt is damaged: .*; start over with --overwrite") as e:
            go(BANDIT, unfinished, resume=True)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("damage", [lambda path: flip(path, 0.5), lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_costs_the_way_from_the_one_before(unfinished, finished, damage, capsys):
    damage(unfinished / "checkpoint.pt")
    go(BANDIT, unfinished, resume=True)
    warning = f"warning: {unfinished / 'checkpoint.pt'} is damaged; continuing from the previous checkpoint"
    assert warning in capsys.readouterr().err
    assert_same_run(unfinished, finished["bandit"])
    assert not (unfinished / "previous.pt").exists()


def test_both_damaged_is_said(unfinished):
    for name in ("checkpoint.pt", "previous.pt"):
        flip(unfinished / name, 0.3)
    with pytest.raises(RunError, match=r"previous.pt is damaged: its digest does not match; start over"):
        go(BANDIT, unfinished, resume=True)


@pytest.mark.parametrize("name", ["config.json", "result.json", "samples.npz"])
def test_what_is_changed_by_hand_is_noticed(finished, tmp_path, name):
    folder = shutil.copytree(finished["bandit"], tmp_path / "run")
    text = (folder / name).read_bytes()
    changed = text.replace(b'"seed": 1', b'"seed": 2') if name.endswith("json") else text.replace(b"PK", b"PQ", 1)
    assert changed != text
    (folder / name).write_bytes(changed)
    with pytest.raises(RunError, match=f"{name} is damaged: its digest does not match"):
        {
            "config.json": lambda: RunFolder(folder).config(),
            "result.json": lambda: RunFolder(folder).result(),
            "samples.npz": lambda: read_samples(folder / name, "return"),
        }[name]()


def test_the_canary_sings(tmp_path):
    """Guards the test above: a careless reader would have executed it."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "sung"))).close()
    assert (tmp_path / "sung").exists()


def test_weights_of_another_shape_are_refused(unfinished):
    """As after a change of the program that leaves the configuration as it was."""
    path = unfinished / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    name = next(iter(state["learner"]["model"]))
    state["learner"]["model"][name] = torch.zeros(1, 2)
    torch.save(state, path)  # without a seal, as before there were any
    with pytest.raises(RunError) as e:
        go(BANDIT, unfinished, resume=True)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_damaged_json_is_named(unfinished, name):
    (unfinished / name).write_text('{"half of a')
    with pytest.raises(RunError, match=f"{name} is damaged"):
        go(BANDIT, unfinished, resume=True)


# ----- losses that are no numbers


def poison(monkeypatch, step: int, what: str) -> None:
    """From update ``step`` on the loss is NaN; or the weights are, as after an overflow in the gradient."""
    update = PPOLearner.update

    def poisoned(self, number):
        logs = update(self, number)
        if number == step and what == "weights":
            with torch.no_grad():
                for p in self.model.parameters():
                    p.fill_(math.nan)
        if number >= step and what in ("nan", "inf"):
            logs["loss"] = torch.tensor(float(what))
        return logs

    monkeypatch.setattr(PPOLearner, "update", poisoned)


def test_gradients_whose_norm_overflows_are_named():
    model = nn.Linear(2, 1)
    assert first_not_finite(model, lambda: model(torch.full((1, 2), 1e19)).sum()) is None
    assert first_not_finite(model, lambda: model(torch.full((1, 2), 1e20)).sum()) == "the norm of the gradients"


@pytest.mark.parametrize("what", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_the_run(finished, what, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 3, what)
        with pytest.raises(RunError) as e:
            go(BANDIT, tmp_path)
    message = str(e.value)
    assert "is not finite" in message and "at update 4" in message
    assert "smaller --training.learning-rate" in message
    assert f"the last good checkpoint is kept in {tmp_path}" in message
    assert not (tmp_path / "result.json").exists()
    assert saved_state(tmp_path)["progress"]["step"] == 3
    go(BANDIT, tmp_path, resume=True)  # with the cause gone
    assert_same_run(tmp_path, finished["bandit"])


def test_without_a_checkpoint_none_is_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.training, "CHECKPOINT_SECONDS", 1e9)
    poison(monkeypatch, 0, "nan")
    with pytest.raises(RunError, match="at update 1; there is no checkpoint yet"):
        go(BANDIT, tmp_path)


def all_finite(path: Path) -> bool:
    return all(p.isfinite().all() for p in saved_state(path)["learner"]["model"].values())


def test_a_checkpoint_is_due_when_no_metrics_are(tmp_path, monkeypatch):
    """What is saved between two lines of metrics is checked as well."""
    monkeypatch.setattr(runs.training, "LOGGED_STEPS", 1)
    monkeypatch.setattr(runs.training, "SHOW_SECONDS", 1e9)
    poison(monkeypatch, 2, "weights")
    with pytest.raises(RunError, match="learning-rate"):
        go(BANDIT, tmp_path)
    assert all_finite(tmp_path)


@pytest.mark.parametrize("step", [2, STEPS - 1])
def test_weights_that_are_no_numbers_are_not_kept(tmp_path, monkeypatch, step):
    """The loss of an update is that before it; the last good checkpoint is the one before that, too."""
    poison(monkeypatch, step, "weights")
    with pytest.raises(RunError, match="learning-rate"):
        go(BANDIT, tmp_path)
    assert all_finite(tmp_path) and not (tmp_path / "result.json").exists()


# ----- disks that are full and folders that cannot be written


def test_a_full_disk_leaves_the_old_checkpoint(finished, tmp_path):
    replace_file, calls = os.replace, []

    def full(source, to):
        if Path(to).name == "checkpoint.pt":
            calls.append(to)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match=r"cannot write .*checkpoint.pt: No space left on device; make room"):
            go(BANDIT, tmp_path)
    assert set(contents(tmp_path)) == {"config.json", "metrics.jsonl", "checkpoint.pt", "previous.pt"}
    assert saved_state(tmp_path)["progress"]["step"] == 2
    go(BANDIT, tmp_path, resume=True)
    assert_same_run(tmp_path, finished["bandit"])


def test_a_file_that_may_not_grow_is_said_to_be_so(tmp_path):
    """The operating system refuses in the middle of a write, as it does when the disk or a quota is full."""
    resource = pytest.importorskip("resource")
    config = replace(BANDIT, agent="snail", model=SNAILConfig())  # a checkpoint of a megabyte
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(RunError) as e:
            go(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"cannot write {tmp_path / 'checkpoint.pt'}: {os.strerror(errno.EFBIG)}" in str(e.value)
    assert set(contents(tmp_path)) == {"config.json", "metrics.jsonl"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_metrics_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics_path = Path("/dev/full")
    with pytest.raises(RunError, match="cannot write /dev/full: No space left on device; make room"):
        folder.append_metrics({"update": 1})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=f"cannot write {tmp_path}/file/run: .*choose another --results"):
        go(BANDIT, tmp_path / "file" / "run")


# ----- other machines and other processes


def test_weights_from_another_device_can_be_tested_but_not_trained_on(tmp_path):
    """As after a training on a GPU: the generators' states belong to that device, the weights do not."""
    train(BANDIT, RunFolder(tmp_path), CPU, tracker="none", quiet=True)
    state = saved_state(tmp_path)
    state["progress"]["device"] = "cuda"
    state["learner"]["generator"] = torch.zeros(16, dtype=torch.uint8)
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "result.json").unlink()
    learner = build_learner(BANDIT, CPU)
    assert load_model(learner, RunFolder(tmp_path), BANDIT).step == STEPS
    for name, weight in learner.model.state_dict().items():
        assert torch.equal(weight, state["learner"]["model"][name])
    with pytest.raises(RunError, match="was trained on cuda, and can be continued exactly only there"):
        train(BANDIT, RunFolder(tmp_path), CPU, tracker="none", quiet=True, resume=True)


def test_one_process_a_folder(tmp_path):
    with RunFolder(tmp_path).lock(), pytest.raises(RunError, match="another process is training into"):
        train(BANDIT, RunFolder(tmp_path), CPU, tracker="none", quiet=True)
    train(BANDIT, RunFolder(tmp_path), CPU, tracker="none", quiet=True)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": FewShotTest(episodes=1)}, "at least 2 episodes, got 1 for testing"),
        ({"test": FewShotTest(episodes=10, queries=9)}, "queries must be between 1 and 8, got 9"),
        ({"task": replace(FEWSHOT.task, test_shots=(5,))}, "shots must be between 1 and"),
        ({"training": replace(FEWSHOT.training, validation_episodes=0)}, "and 0 for validation"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(tmp_path, changes, message):
    with pytest.raises(RunError, match=message):
        train(replace(FEWSHOT, **changes), RunFolder(tmp_path / "run"), CPU, tracker="none", quiet=True)
    assert not (tmp_path / "run").exists()  # nothing is left of a run that never began


def test_a_single_trial_is_refused_before_training(tmp_path):
    with pytest.raises(RunError, match="at least 2 trials, got 1"):
        train(replace(BANDIT, test=TrialTest(trials=1)), RunFolder(tmp_path / "run"), CPU, tracker="none", quiet=True)

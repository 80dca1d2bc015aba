"""Full disks, read-only folders, damaged files, two at once: one clear line, and nothing finished is lost."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_runs import BANDIT, STEPS, assert_same_run, contents, go, quicken, untimed_metrics

from runs.algorithms.ppo import PPOLearner
from runs.catalogue import RunConfig
from runs.cli import run
from runs.commands.training import Train
from runs.results.folder import RunFolder
from runs.system.errors import Interrupted

pytestmark = pytest.mark.slow

SMALL = ["--training.steps", "3", "--training.batch-size", "8", "--test.trials", "50", "--tracker", "none"]
GRU = ["train", "bandit/n10-k5", "--agent", "gru", "--model.hidden-size", "8", *SMALL]
SNAIL = ["train", "bandit/n10-k5", *SMALL]  # a checkpoint of a megabyte


def one_line(capsys, *words: str) -> str:
    """The command fails with one line on stderr, which is returned, besides progress bars."""
    capsys.readouterr()
    assert run(words) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.strip() and "%" not in x]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def everything(path: Path) -> dict[str, bytes]:
    return {f"{p.relative_to(path)}": p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def finished_run(results: Path, words: list[str]) -> Path:
    assert run([*words, "--results", str(results)]) == 0
    (record,) = results.rglob("result.json")
    return record.parent


def mounted(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """All results of a run, by agent; not to be changed."""
    folders = {agent: tmp_path_factory.mktemp(agent) for agent in ("gru", "snail")}
    for agent, words in (("gru", GRU), ("snail", SNAIL)):
        finished_run(folders[agent], words)
    return folders


@pytest.fixture
def finished(trained, tmp_path):
    """Copies all results of a run to a folder of the test's; returns that of the run."""

    def copy(agent: str) -> Path:
        shutil.copytree(trained[agent], tmp_path, dirs_exist_ok=True)
        (record,) = tmp_path.rglob("result.json")
        return record.parent

    return copy


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 200 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted("-t", "tmpfs", "-o", "size=200k", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk(capsys, full_disk):
    done = finished_run(full_disk, GRU)
    before = everything(full_disk)
    message = one_line(capsys, *SNAIL, "--results", str(full_disk))
    assert "checkpoint.pt: No space left on device; make room" in message
    assert {k: v for k, v in everything(full_disk).items() if k in before} == before
    assert run(["evaluate", str(done)]) == 0
    assert run(["table", "3", "--results", str(full_disk)]) == 0
    subprocess.run(["mount", "-o", "remount,size=20m", str(full_disk)], check=True)  # as told
    assert run([*SNAIL, "--resume", "--results", str(full_disk)]) == 0


def test_a_disk_without_a_byte_left(capsys, full_disk):
    done = finished_run(full_disk, GRU)
    before = everything(done)
    with open(full_disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 4096)
    assert "No space left on device" in one_line(capsys, *GRU, "--seed", "1", "--results", str(full_disk))
    assert everything(done) == before


@pytest.fixture
def read_only(tmp_path):
    """Makes a folder read-only."""
    made = []

    def make(path: Path) -> None:
        mounted("--bind", str(path), str(path))
        made.append(path)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)

    yield make
    for path in made:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_read_only_folder(capsys, finished, tmp_path, read_only):
    done = finished("snail")
    before = everything(tmp_path)
    read_only(tmp_path)
    into = ["--results", f"{tmp_path}"]
    for words in ([*SNAIL, "--overwrite"], [*SNAIL, "--resume"], SNAIL, GRU):
        message = one_line(capsys, *words, *into)
        assert "Read-only file system" in message and "choose another --results" in message
    message = one_line(capsys, "attention", str(done))
    assert f"cannot write {done / 'attention'}: Read-only file system" in message
    assert run(["evaluate", str(done)]) == 0
    assert run(["table", "3", *into]) == 0
    assert everything(tmp_path) == before


def test_pictures_have_no_place(capsys, finished):
    done = finished("snail")
    (done / "attention").write_text("in the way")
    assert f"cannot write {done / 'attention'}" in one_line(capsys, "attention", str(done))


def test_a_second_launch_leaves_the_first_undisturbed(capsys, tmp_path, monkeypatch):
    quicken(monkeypatch)
    go(BANDIT, tmp_path / "whole")
    messages, update = [], PPOLearner.update

    def launched_again(self, step):
        if step == 3:
            for option in ([], ["--resume"], ["--overwrite"]):
                with monkeypatch.context() as patch:
                    patch.setattr("runs.commands.training.run_path", lambda *_: tmp_path / "run")
                    messages.append(one_line(capsys, *GRU, *option))
        return update(self, step)

    monkeypatch.setattr(PPOLearner, "update", launched_again)
    go(BANDIT, tmp_path / "run")
    assert len(messages) == 3
    assert all(f"another process is training into {tmp_path / 'run'}" in message for message in messages)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.fixture
def unfinished(tmp_path, monkeypatch) -> Path:
    """A run that was stopped after update 3."""
    quicken(monkeypatch)
    update = PPOLearner.update
    with monkeypatch.context() as patch:
        patch.setattr(
            PPOLearner,
            "update",
            lambda self, step: (signal.raise_signal(signal.SIGINT) if step == 2 else None, update(self, step))[1],
        )
        with pytest.raises(Interrupted):
            go(BANDIT, tmp_path)
    return tmp_path


TAILS = {
    "half a line": b'{"step": 4, "sec',
    "half a character": '{"step": 4, "é'.encode()[:-1],
    "zeros, as after a power cut": bytes(4096),
    "a number": b"4",
    "a line without a step": b'{"seconds": 1}\n',
    "separators of other kinds": b'{"st\x0b\x1c\xe2\x80\xa8',
    "a whole line but its end": b'{"step": 4}',
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_damaged_tail_of_the_metrics_is_forgotten(unfinished, tail):
    with open(unfinished / "metrics.jsonl", "ab") as file:
        file.write(TAILS[tail])
    go(BANDIT, unfinished, resume=True)
    assert [line["update"] for line in untimed_metrics(unfinished)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("damage", [b"nonsense", b"", b"\0\0", b"[1]", b'{"step": "2"}'])
def test_damage_in_the_middle_of_the_metrics_is_named_and_mended_as_told(capsys, unfinished, monkeypatch, damage):
    path = unfinished / "metrics.jsonl"
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + b"\n" + third)
    before = contents(unfinished)
    monkeypatch.setattr("runs.commands.training.run_path", lambda *_: unfinished)
    monkeypatch.setattr("runs.commands.training.Train.defaults", defaults_of(unfinished))
    message = one_line(capsys, "train", "bandit/n10-k5", "--resume", "--tracker", "none")
    assert f"{path} is damaged: line 2: " in message and message.rstrip().endswith("; remove that line")
    assert {k: v for k, v in contents(unfinished).items() if k in before} == before
    path.write_bytes(first + third)
    go(BANDIT, unfinished, resume=True)
    assert [line["update"] for line in untimed_metrics(unfinished)] == [1, 3, 4, 5, 6]


def defaults_of(folder: Path):
    """`Train.defaults` of the run in a folder: what a person would give as options."""
    config = RunFolder(folder).config()
    return lambda args: Train(**{f.name: getattr(config, f.name) for f in dataclasses.fields(RunConfig)})


DAMAGED_RECORDS = ["", "{", "[]", "3", "{}", '"results"', "\udcff", '{"results": [{}], "config": {}}']


@pytest.mark.parametrize("text", DAMAGED_RECORDS[:-1])
def test_a_damaged_record_is_made_anew_as_told(capsys, finished, tmp_path, text):
    done = finished("gru")
    path, whole = done / "result.json", RunFolder(done).result() or {}
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = everything(tmp_path)
    for words in ([*GRU, "--resume", "--results", str(tmp_path)], ["evaluate", str(done)]):
        message = one_line(capsys, *words)
        assert f"{path} is damaged: " in message and "; remove only that file, and continue with --resume" in message
    assert everything(tmp_path) == before
    path.unlink()
    assert run([*GRU, "--resume", "--results", str(tmp_path)]) == 0
    assert json.loads(path.read_text())["results"] == whole["results"]


@pytest.mark.parametrize("text", DAMAGED_RECORDS)
def test_a_damaged_record_costs_a_table_a_warning(capsys, tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_bytes(text.encode(errors="surrogateescape"))
    capsys.readouterr()
    assert run(["table", "3", "--results", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "Table 3" in out and len(err.splitlines()) == 1
    assert err.startswith(f"warning: {tmp_path / 'run' / 'result.json'} is damaged: ")


@pytest.mark.parametrize("command", ["evaluate", "attention"])
@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json"])
def test_what_reads_a_run_names_what_is_damaged(capsys, finished, tmp_path, command, name):
    done = finished("snail")
    (done / name).write_bytes((done / name).read_bytes()[:200])
    before = everything(tmp_path)
    assert f"{done / name} is damaged" in one_line(capsys, command, str(done))
    assert everything(tmp_path) == before


def test_a_damaged_configuration_is_restored_as_told(capsys, finished, tmp_path):
    done = finished("gru")
    path, whole = done / "config.json", (done / "config.json").read_bytes()
    (done / "result.json").unlink()
    path.write_bytes(whole[:100])
    words = [*GRU, "--resume", "--results", str(tmp_path)]
    message = one_line(capsys, *words)
    assert f"{path} is damaged: " in message and "; remove only that file, and continue with --resume" in message
    path.unlink()
    assert run(words) == 0
    assert path.read_bytes() == whole


def test_what_a_kill_leaves_is_cleaned_up(unfinished):
    for name in (".checkpoint.pt.0f.part", "attention/.layer-1.png.1e.part"):
        (unfinished / name).parent.mkdir(exist_ok=True)
        (unfinished / name).write_bytes(b"half")
    (unfinished / "my.part").write_text("mine")
    go(BANDIT, unfinished, resume=True)
    assert [path.name for path in unfinished.rglob("*.part")] == ["my.part"]

"""Whatever is typed that cannot be: one line that says what to do, and exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from tiny_runs import few_classes

from runs.cli import run

pytestmark = pytest.mark.slow

LONG = "x" * 5000
QUICK = ("--tracker", "none", "--budget", "smoke", "--threads", "1")
BANDIT, GLYPHS = ("train", "bandit/n10-k5", *QUICK), ("train", "glyphs/5way", *QUICK)
SMALL = ("--task.ways", "2", "--task.shots", "1", "--task.test-shots", "1")
SMALL += ("--training.queries", "2", "--test.queries", "2")

CASES = [
    ((*BANDIT, "--task.arms", "1000000000"), "not enough memory: .* GiB were requested at once, this machine has"),
    ((*BANDIT, "--model.width", "1e6"), "not enough memory: .* make the model, the batch or the task smaller"),
    ((*GLYPHS, "--task.shots"), "task.shots needs at least one value"),
    ((*GLYPHS, "--task.test-shots"), "task.test_shots needs at least one value"),
    ((*GLYPHS, "--task.embedding.filters", "-1"), "task.embedding.filters must not be negative, got -1"),
    ((*GLYPHS, *SMALL, "--task.embedding.filters", "0"), "at least 1 channel"),
    ((*GLYPHS, "--training.batch-size", "0"), "batch_size must be at least 1, got 0"),
    ((*GLYPHS, "--training.batch-size", "-1"), "batch_size must be at least 1, got -1"),
    ((*BANDIT, "--test.seed", str(2**64)), f"test.seed must be between 0 and {2**63 - 1}, got {2**64}"),
    ((*BANDIT, "--seed", "-1"), "seed must be between 0 and"),
    ((*BANDIT, "--training.steps", "99999999999999999999"), "training.steps must be at most 1,000,000,000,000"),
    ((*BANDIT, "--training.learning-rate", "nan"), "training.learning_rate must be finite, got nan"),
    ((*BANDIT, "--training.steps", "x"), "--training.steps must be an integer, got 'x'; `snail train --help`"),
    ((*BANDIT, "--training.clip_eps", "x"), "--training.clip-eps must be a number, got 'x'"),
    ((*BANDIT, "--training.steps"), "missing value for argument '--training.steps'"),
    ((*BANDIT, "--tracker", "x"), "invalid choice 'x' for argument '--tracker'"),
    ((*BANDIT, "--seed", "abc"), "'abc'"),
    (("sweep", "bandit/n10-k5", "--workers", "x"), r"--workers must be \{None\}\|INT, got 'x'"),
    (("sweep", "bandit/n10-k5", "--dry-run", "--seeds", *map(str, range(20_001))), "at most 20,000 runs, this one has"),
    (("sweep", "deep.toml"), "cannot read deep.toml: it is nested too deep"),
    (("evaluate", ""), "which run"),
    (("evaluate", "file"), "file is a file; give the folder of a run$"),
    (("evaluate", "run/checkpoint.pt"), "run/checkpoint.pt is a file; give the folder of a run, run$"),
    (("evaluate", LONG), r"error: x{100}\.\.\..* too long"),
    (("status", "--results", LONG), r"x{100}\.\.\.x+: File name too long"),
    (("status", LONG), r"unknown experiment 'x{99}\.\.\.x"),
    (("compare", LONG, LONG), "too long"),
    (("train", LONG), r"unknown experiment 'x{99}\.\.\.x"),
    (("--extend", LONG, "list"), "is not a Python file"),
    (("--extend", "exits.py", "list"), "exits.py, line 1, fails: SystemExit: 3"),
    (("--extend", "raises.py", "list"), "raises.py, line 2, fails: Own: no"),
    (("--extend", "empties.py", "list"), "empties.py leaves no experiment in the catalogue"),
    (("dashboard", "--output", ".", "--no-serve"), r"\. is a folder; give a file: --output report.html"),
]


@pytest.mark.parametrize("words, message", CASES)
def test_one_line(words, message, tmp_path, monkeypatch, capsys, own_catalogue):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNAIL_EXTENSIONS", "")
    monkeypatch.setattr("runs.tasks.load_classes", few_classes)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 50_000 + "]" * 50_000)
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    for name in ("config.json", "checkpoint.pt"):
        (tmp_path / "run" / name).write_text("{}")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "raises.py").write_text("class Own(BaseException): pass\nraise Own('no')")
    (tmp_path / "empties.py").write_text("from runs.catalogue import CATALOGUE\nCATALOGUE.clear()")
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 1500 and out == ""
    assert re.search(message, err.rstrip("\n")), err


@pytest.mark.parametrize("size", ["abc", "0", "-1", "1.5"])
def test_a_number_of_processes_that_is_none(size, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert run([*BANDIT, "--agent", "random"]) == 2
    assert f"error: WORLD_SIZE must be a number of processes, got '{size}'" in capsys.readouterr().err


def test_an_empty_number_of_processes_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "")
    assert run([*BANDIT, "--agent", "random"]) == 0


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    snail = f"{sys.executable} -m runs.cli"
    return subprocess.run(
        command.replace("snail", snail), shell=True, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command, message",
    [
        ("snail list > /dev/full", "error: standard output: No space left on device\n"),
        ("snail list >&-", "error: standard output is closed\n"),
    ],
)
def test_output_that_cannot_be_written(command, message):
    done = shell(command)
    assert (done.returncode, done.stderr) == (2, message)


def test_a_plain_terminal_gets_plain_signs():
    code = "import sys; from runs import cli; cli.run = lambda args: print('6.5 \\xb1 0.1') or 0; cli.main()"
    done = shell(f'{sys.executable} -c "{code}"', LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stdout) == (0, "6.5 ? 0.1\n"), done.stderr


def test_a_slow_extension_is_named(tmp_path, monkeypatch, capsys, own_catalogue):
    import runs.extensions

    monkeypatch.setenv("SNAIL_EXTENSIONS", "")
    monkeypatch.setattr(runs.extensions, "PATIENCE", 0.05)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\nraise KeyboardInterrupt")
    assert run(["--extend", str(tmp_path / "slow.py"), "list"]) == 130
    err = capsys.readouterr().err
    assert f"still loading the extension {tmp_path / 'slow.py'} ..." in err
    assert f"stopped while the extension {tmp_path / 'slow.py'}, line 3, was loading" in err

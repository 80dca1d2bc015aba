"""The command line as a person types it: what it prints, its exit codes, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from runs.cli import run
from runs.commands import tables as table_command
from runs.system.progress import progress_bar

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TINY = ["--training.steps", "2", "--training.batch-size", "8", "--test.trials", "50", "--tracker", "none"]


def snail(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr without progress bars."""
    try:
        code = run(words)
    except SystemExit as e:  # tyro's own way out, of --help and of values that do not parse
        code = int(e.code or 0)
    out, err = capsys.readouterr()
    return (
        code,
        out,
        "\n".join(line for line in err.splitlines() if "%|" not in line and not line.startswith("evaluate")),
    )


def assert_one_line(capsys, *words: str) -> str:
    """The command fails with one line on stderr, which is returned."""
    code, out, err = snail(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    return err


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A working directory of its own, so that the default results folder is too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def tiny_run(capsys, results) -> Path:
    """A finished run's folder."""
    code, _, err = snail(capsys, "train", "bandit/n10-k5", *TINY)
    assert code == 0, err
    (path,) = results.rglob("result.json")
    return path.parent


def test_overview_and_help_teach(capsys):
    code, out, _ = snail(capsys)
    assert code == 0
    for command in ("list", "train", "evaluate", "table", "data", "bench", "demo"):
        assert re.search(rf"^  {command} +\w", out, re.M), command
        code, text, _ = snail(capsys, command, "--help")
        assert code == 0 and "usage: snail " + command in text
    _, text, _ = snail(capsys, "train", "bandit/n10-k5", "--budget", "demo", "--help")
    assert "--training.gae-lambda" in text and "Discount factor" in text


def test_list_shows_every_experiment(capsys):
    from runs.catalogue import CATALOGUE

    code, out, _ = snail(capsys, "list")
    assert code == 0 and all(name in out for name in CATALOGUE)
    assert all(agent in out for e in CATALOGUE.values() for agent in e.agents)


def test_list_takes_experiments_and_kinds(capsys):
    code, out, _ = snail(capsys, "list", "bandit/n10-k5", "mdp")
    assert code == 0 and "psrl" in out and "snail train bandit/n10-k5 " in out
    assert set(re.findall(r"^\w+/\S+", out, re.M)) == {"bandit/n10-k5", *(f"mdp/n{n}" for n in (10, 25, 50, 75, 100))}
    code, out, _ = snail(capsys, "list", "mdp/n10", "--costs")
    assert code == 0 and re.findall(r"^\w+/\S+", out, re.M) == ["mdp/n10"]


def test_the_written_listing_is_up_to_date():
    """Run ``python -m runs.generate`` to bring it up to date."""
    from runs.commands.listing import LISTING, digest, listing

    assert LISTING.read_text(encoding="utf-8") == f"{digest()}\n{listing()}"


def test_list_and_help_do_without_torch():
    code = "import sys; from runs.cli import run; run([%r]); sys.exit('torch' in sys.modules)"
    for command in ("list", "--help"):
        assert subprocess.run([sys.executable, "-c", code % command], stdout=subprocess.DEVNULL).returncode == 0


def test_train_evaluate_and_table(capsys, results):
    folder = tiny_run(capsys, results)
    record = json.loads((folder / "result.json").read_text())
    (number,) = record["results"]
    code, out, _ = snail(capsys, "evaluate", str(folder))
    assert code == 0
    first, second = re.findall(r"return (\d\.\d{4}) \+- (\d\.\d{4})", out)
    assert first == second == (f"{number['mean']:.4f}", f"{number['ci95']:.4f}")  # same frozen tasks, same weights
    code, out, _ = snail(capsys, "evaluate", str(folder), "--test.trials", "20")
    assert code == 0 and "n=20)" in out
    # changed settings make it a run of its own, which no table shows
    assert not record["as_catalogued"]
    code, out, _ = snail(capsys, "table", "3", "--no-missing")
    assert code == 0 and f"{number['mean']:.3f}" not in out


def test_a_catalogued_run_enters_the_table(capsys, results, monkeypatch):
    monkeypatch.setattr(table_command, "PUBLISHED", results / "none")  # where larger budgets would go first
    code, out, _ = snail(capsys, "train", "bandit/n10-k5", "--agent", "gru", "--budget", "smoke", "--tracker", "none")
    assert code == 0
    mean = re.search(r"return (\d\.\d{4})", out).group(1)
    code, out, _ = snail(capsys, "table", "3", "--results", str(results))
    row = next(line for line in out.splitlines() if re.match(r"^(N=10 K=5)? +gru", line))
    assert f"{float(mean):.3f}" in row and "smoke" in row
    assert "6.660" in row


def test_a_run_pauses_after_some_updates_and_goes_on(capsys, results):
    code, _, err = snail(capsys, "train", "bandit/n10-k5", *TINY, "--until", "1")
    assert code == 75 and "paused after update 1 of 2" in err and "--resume" in err
    code, out, _ = snail(capsys, "train", "bandit/n10-k5", *TINY, "--resume")
    assert code == 0 and "return" in out
    assert "at least 1 update" in assert_one_line(capsys, "train", "bandit/n10-k5", *TINY, "--until", "0")


def test_a_sweep_pauses_its_runs_and_goes_on(capsys, results, tmp_path):
    words = ["--engine", "process", "--tracker", "none"]
    file = tmp_path / "some.toml"
    start = 'experiments = ["bandit/n10-k5"]\nbudget = "smoke"\nagents = ["gru"]\n'
    end = '[set]\n"training.learning-rate" = [1e-3, 4e-3]\n"training.steps" = 4\n"test.trials" = 20\n'
    file.write_text(f"{start}until = 2\n{end}")
    for _ in range(2):  # the same command again does nothing more
        code, out, _ = snail(capsys, "sweep", str(file), *words)
        first, second = out.splitlines()
        assert code == 0 and "train/return" in first and "after update 2" in first
        assert "learning-rate=0.001" in first and "learning-rate=0.004" in second
    code, out, _ = snail(capsys, "sweep", str(file), *words, "--until", "3")
    assert code == 0 and "after update 3" in out
    assert "leave out --until" in assert_one_line(
        capsys, "sweep", "bandit/n10-k5", "--search", "random", "--until", "3"
    )
    file.write_text(f"{start}until = 0\n{end}")
    assert "at least 1 update" in assert_one_line(capsys, "sweep", str(file), "--dry-run")
    file.write_text(start + end)
    code, out, _ = snail(capsys, "sweep", str(file), *words)
    assert code == 0 and out.count("(95%") == 2


def test_a_time_budget_stops_the_run_and_resuming_ends_it_as_if_it_had_not(capsys, results):
    code, _, err = snail(capsys, "train", "bandit/n10-k5", *TINY, "--time-budget", "1s")
    assert code == 75 and "after update 1 of 2; continue with --resume" in err
    assert not list(results.rglob("result.json"))
    code, out, _ = snail(capsys, "train", "bandit/n10-k5", *TINY, "--resume", "--time-budget", "10m")
    assert code == 0
    shutil.rmtree(results)
    code, whole, _ = snail(capsys, "train", "bandit/n10-k5", *TINY)
    number = r"return (\d\.\d{4}) \+- (\d\.\d{4})"
    assert re.findall(number, out) == re.findall(number, whole) != []
    assert "is not a time budget" in assert_one_line(capsys, "train", "bandit/n10-k5", *TINY, "--time-budget", "25")


def test_a_finished_run_is_not_replaced_unasked(capsys, results):
    folder = tiny_run(capsys, results)
    before, written = (folder / "result.json").read_bytes(), (folder / "result.json").stat().st_mtime_ns
    message = assert_one_line(capsys, "train", "bandit/n10-k5", *TINY)
    assert "finished run" in message and "--overwrite" in message
    code, out, _ = snail(capsys, "train", "bandit/n10-k5", *TINY, "--resume")
    assert code == 0 and "finished already" in out
    assert (folder / "result.json").read_bytes() == before
    code, _, _ = snail(capsys, "train", "bandit/n10-k5", *TINY, "--overwrite")
    assert code == 0 and (folder / "result.json").stat().st_mtime_ns > written


def test_the_name_may_stand_anywhere(capsys, results):
    code, out, _ = snail(capsys, "train", *TINY, "--agent", "gru", "bandit/n10-k5")
    assert code == 0 and "bandit/n10-k5 gru" in out
    (path,) = results.rglob("result.json")
    code, out, _ = snail(capsys, "evaluate", "--device", "cpu", str(path.parent))
    assert code == 0 and "bandit/n10-k5 gru" in out


def test_a_run_is_run_again_from_its_file_and_by_the_command_it_prints(capsys, results):
    words = [*TINY, "--training.expected-rewards", "--model.heads", "2", "--training.lambda-rise", "0.1", "0.9"]
    code, out, err = snail(capsys, "train", "bandit/n10-k5/snail", *words)
    assert code == 0, err
    (path,) = results.rglob("result.json")
    again = shlex.split(out.splitlines()[-1].removeprefix("again: snail "))
    file = ["train", "--config", str(path.parent / "config.json")]
    for number, repeated in enumerate((again, file, [*file, "--seed", "1"])):
        there = results.parent / str(number)
        code, _, err = snail(capsys, *repeated, "--tracker", "none", "--results", str(there))
        assert code == 0, err
        (found,) = there.rglob("result.json")
        same = json.loads(found.read_text())["results"] == json.loads(path.read_text())["results"]
        assert same == (number < 2) and (found.parent.name == path.parent.name) == (number < 2)
    message = assert_one_line(capsys, *file, "bandit/n10-k5", "--agent", "gru")
    assert "--config determines the run; leave out bandit/n10-k5 --agent" in message


def test_a_configuration_file_may_be_edited_and_name_an_extension(capsys, results):
    folder = tiny_run(capsys, results)
    config = json.loads((folder / "config.json").read_text())
    shutil.copy(ROOT / "docs/examples/few_arms.py", results / "mine.py")
    config |= {"extend": "mine.py", "seed": 5}
    (results / "edited.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "runs.cli", "train", "--config", str(results / "edited.json"), "--tracker", "none"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert f"snail --extend {results / 'mine.py'} train bandit/n10-k5" in done.stdout and "--seed 5" in done.stdout
    (results / "edited.json").write_text(json.dumps({**config, "extend": 3}))
    message = assert_one_line(capsys, "train", "--config", str(results / "edited.json"))
    assert "extend must name Python files, got 3" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "bandit/n10-k5", "--gamma", "0.9"], "did you mean --training.discount?"),
        (["train", "bandit/n10-k5", "--ent_coef", "0.1"], "did you mean --training.entropy-coef?"),
        (["train", "bandit/n10-k5", "--lr", "0.1"], "did you mean --training.learning-rate?"),
        (["train", "bandit/n10-k5", "--max_grad_norm", "1"], "did you mean --training.max-grad-norm?"),
        (["train", "bandit/n10-k5", "--seed", "0", "1", "2"], "snail sweep EXPERIMENT --seeds 0 1 2"),
        (["train", "bandit/n10-k5/snail", "--agent", "gru"], "names the agent snail, and --agent gru"),
        (["sweep", "bandit/n10-k5", "--set", "x"], "--set needs NAME=VALUE"),
        (["compare", "bandit/n10-k5", "--where", "x"], "--where needs NAME=VALUE"),
        (["compare", "bandit/n10-k5", "--where", "training.steps=3"], "no finished run in bandit/n10-k5 has training"),
    ],
)
def test_hints_for_people_who_know_other_suites(capsys, results, words, message):
    assert message in assert_one_line(capsys, *words)


def test_a_grid_on_the_command_line(capsys, results):
    words = ["--set", "training.learning-rate=1e-3,3e-3", "--set", "model.heads=1,4", "--dry-run"]
    code, out, _ = snail(capsys, "sweep", "bandit/n10-k5/snail", "mdp/n10/snail", *words)
    assert code == 0 and "8 runs: 0 finished already, 8 to do; " in out.splitlines()[-1]
    code, out, _ = snail(capsys, "sweep", "glyphs/5way", "--set", "task.shots=[1],[1,5]", "--dry-run")
    assert code == 0 and "task.shots=[1, 5]" in out


def test_many_threads_are_warned_of_and_bars_are_lines_in_a_log(capsys, results):
    code, _, err = snail(capsys, "train", "bandit/n10-k5", *TINY, "--threads", "999")
    torch.set_num_threads(1)
    assert code == 0 and "warning: 999 threads on" in err
    bar = progress_bar(3, "work")
    bar.update(3)
    bar.close()
    err = capsys.readouterr().err
    assert "\r" not in err and all(line.startswith("work:") for line in err.splitlines()) and err.endswith("\n")


def test_data_that_cannot_be_had_does_not_stop_the_rest(capsys, tmp_path, monkeypatch):
    import envs.fewshot.datasets.storage

    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path))
    monkeypatch.delenv("SNAIL_DATA", raising=False)

    def offline(url, path, timeout=0.0):
        raise envs.fewshot.datasets.storage.DataError("no network")

    monkeypatch.setattr(envs.fewshot.datasets.storage, "download", offline)
    code, out, err = snail(capsys, "data")
    assert code == 0 and "nowhere" in out and "glyphs" in out
    (mini,) = [line for line in out.splitlines() if "learn2learn" in line]
    assert mini.startswith("  found in:  nowhere; ImageNet's terms")  # what cannot be fetched is asked for
    monkeypatch.setattr(
        "runs.commands.data.load_classes", lambda name, *a, **k: offline("", "") if name == "omniglot" else 0
    )
    code, out, err = snail(capsys, "data", "--build")
    assert code == 2 and "glyphs" in out and err == "error: no network"


def test_data_builds_every_split_of_what_is_there_and_not_built(capsys, tmp_path, monkeypatch):
    from envs.fewshot.datasets.base import DatasetStatus

    loaded = []
    monkeypatch.setattr("runs.commands.data.load_classes", lambda name, split, **k: loaded.append((name, split)))
    for sources, obtain, cached, splits in (
        ((tmp_path,), "ask", False, ["train", "val", "test"]),
        ((), None, False, ["train", "val", "test"]),
        ((), "ask", False, []),
        ((tmp_path,), None, True, []),
    ):
        status = DatasetStatus("some", sources, tmp_path, cached, None, 20, None, obtain)
        monkeypatch.setattr("runs.commands.data.dataset_status", lambda name, root, status=status: status)
        loaded.clear()
        code, _, _ = snail(capsys, "data", "--build")
        assert code == 0 and [split for name, split in loaded if name == "mini-imagenet"] == splits


MISTAKES = [
    (["trian"], "did you mean train?"),
    (["train"], "which experiment?"),
    (["train", "bandit/n10-k6"], "did you mean bandit/n10-k5?"),
    (["train", "bandit/n10-k5", "--agent", "snial"], "did you mean snail?"),
    (["train", "bandit/n10-k5", "--budget", "huge"], "choose from full, demo, short, smoke"),
    (["train", "bandit/n10-k5", "--training.learning-rat", "1"], "did you mean --training.learning-rate?"),
    (["train", "bandit/n10-k5", "--seed", "one"], "--seed"),
    (["train", "bandit/n10-k5", *TINY, "--device", "tpu"], "choose auto, cpu or cuda"),
    (["train", "bandit/n10-k5", *TINY, "--device", "cuda:99"], "there is no cuda:99 on this machine"),
    (["train", "bandit/n10-k5", *TINY, "--threads", "0"], "threads must be at least 1, got 0"),
    (["train", "bandit/n10-k5", *TINY, "--training.minibatches", "0"], "minibatches must be at least 1, got 0"),
    (
        ["train", "bandit/n10-k5", *TINY, "--agent", "lstm", "--model.hidden-size", "0"],
        "hidden_size must be at least 1",
    ),
    (["train", "bandit/n10-k5", *TINY, "--task.arms", "0"], "arms must be at least 1, got 0"),
    (["train", "bandit/n10-k5", *TINY, "--training.minibatches", "3"], "batch_size must be a multiple of minibatches"),
    (["train", "bandit/n10-k5", *TINY, "--resume", "--overwrite"], "exclude each other"),
    (["train", "omniglot/5way", "--data-root", "nowhere"], "nowhere"),
    (["evaluate"], "which run?"),
    (["evaluate", "nowhere"], "is it the folder of a run?"),
    (["table", "7"], "there is no table 7"),
    (["table", "3", "--formt", "text"], "did you mean --format?"),
    (["list", "--everything"], "unknown option '--everything'"),
    (["list", "mdp/n11"], "did you mean mdp/n10?"),
    (["data", "mdp"], "unexpected argument 'mdp'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_every_mistake_gets_one_clear_line(capsys, results, words, message):
    assert message in assert_one_line(capsys, *words)
    assert not results.exists() or not list(results.rglob("*"))  # and leaves nothing behind


@pytest.mark.parametrize("word", ["x", "1.5"])
def test_a_value_of_another_type_is_refused(capsys, results, word):
    code, _, err = snail(capsys, "train", "bandit/n10-k5", "--training.steps", word)
    assert code == 2 and "--training.steps" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--task.ways", "5000"], "ways must be between 2 and"),
        (["--task.shots", "30"], "shots must be between 1 and"),
        (["--training.queries", "0"], "queries must be between 1 and"),
    ],
)
def test_what_the_data_cannot_give(capsys, results, omniglot, option, message):
    assert message in assert_one_line(capsys, "train", "omniglot/5way", "--budget", "smoke", *option)


def test_missing_and_damaged_data(capsys, results, tmp_path, monkeypatch):
    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SNAIL_DATA", raising=False)
    root = tmp_path / "data"
    root.mkdir()
    (root / "images_background.zip").write_bytes(b"PK\x03\x04 cut short")
    (root / "images_evaluation.zip").write_bytes(b"")
    message = assert_one_line(capsys, "train", "omniglot/5way", "--data-root", str(root))
    assert "images_background.zip" in message


def test_a_damaged_record_costs_a_warning(capsys, results):
    folder = results / "x"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"results": [')
    code, out, err = snail(capsys, "table", "3")
    assert code == 0 and "Table 3" in out
    assert "warning" in err and "results/x/result.json" in err


def test_checkpoints_that_cannot_be_trusted(capsys, results):
    folder = tiny_run(capsys, results)
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "checkpoint.pt" in assert_one_line(capsys, "evaluate", str(folder))
    path.unlink()
    assert "there is no checkpoint" in assert_one_line(capsys, "evaluate", str(folder))


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def test_ctrl_c_saves_and_resume_goes_on(tmp_path, inherited):
    words = ["train", "bandit/n10-k5", "--training.steps", "4000", "--training.batch-size", "8", "--tracker", "none"]
    command = [sys.executable, "-m", "runs.cli", *words, "--test.trials", "50", "--results", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGINT, inherited)  # which a child keeps, but for handlers
    try:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    last = err.strip().splitlines()[-1]
    assert "--resume" in last and "Traceback" not in err
    assert list(tmp_path.rglob("checkpoint.pt")) and not list(tmp_path.rglob("result.json"))
    stopped_at = int(re.search(r"update (\d+)", last).group(1))
    assert stopped_at > 0
    # without --resume the unfinished run is safe
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "--resume" in again.stderr


def test_the_installed_command_runs():
    command = shutil.which("snail", path=str(Path(sys.executable).parent))
    assert command, "the package is not installed in this environment"
    done = subprocess.run([command, "list"], capture_output=True, text=True)
    assert done.returncode == 0 and "bandit/n10-k5" in done.stdout


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m runs.cli table 3 | head -n 1", shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert "Table 3" in done.stdout and done.stderr == ""


def test_a_pipe_that_was_closed_before_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "runs.cli", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=buffered)
    os.close(writer)
    assert done.returncode == 0 and done.stderr == ""

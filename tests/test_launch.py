"""Many runs launched together: in this process, in workers, on Ray and submitit's queue; killed, stopped, failing."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runs.agents import GRUConfig
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.catalogue import RunConfig
from runs.cli import run
from runs.extensions import VARIABLE
from runs.launch import LaunchOptions, Outcome, launch, require_finished
from runs.launch.slurm import SlurmOptions
from runs.launch.status import read_status
from runs.results.folder import RunFolder, run_path
from runs.system.deadline import Deadline
from runs.system.errors import Interrupted, OutOfTime, RunError
from runs.system.machine import Machine
from runs.tasks import BanditTask
from runs.training import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CPU = Machine(torch.device("cpu"))
LONG = 150
"""Updates that take long enough to be killed in."""


def tiny(seed: int, steps: int = 3, **training: Any) -> RunConfig:
    settings = {"batch_size": 8, "epochs": 1, "minibatches": 1, **training}
    return RunConfig(
        "bandit/n10-k5",
        "gru",
        "smoke",
        seed,
        BanditTask(arms=3, pulls=4),
        GRUConfig(hidden_size=8),
        PPOTraining(steps, **settings),
        TrialTest(trials=50),
    )


def options(engine: str = "workers", workers: int = 2, **others: Any) -> LaunchOptions:
    return LaunchOptions(engine=engine, workers=workers, tracker="none", **others)  # type: ignore[arg-type]


def assert_same_runs(configs: Sequence[RunConfig], results: Path, expected: Path) -> None:
    """Numbers, samples and weights are equal to the bit."""
    for config in configs:
        mine, other = run_path(results, config), run_path(expected, config)
        a, b = RunFolder(mine).result(), RunFolder(other).result()
        assert a is not None and b is not None
        assert a["results"] == b["results"]
        with np.load(mine / "samples.npz") as x, np.load(other / "samples.npz") as y:
            assert all(np.array_equal(x[name], y[name]) for name in y)
        x, y = (torch.load(p / "checkpoint.pt", weights_only=True)["learner"]["model"] for p in (mine, other))
        assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in y)


def run_id(path: Path) -> str:
    return torch.load(path / "checkpoint.pt", weights_only=True)["progress"]["run_id"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Results of short runs and of a long one, each trained alone."""
    results = tmp_path_factory.mktemp("undisturbed")
    for config in (*(tiny(seed) for seed in range(4)), tiny(9, LONG)):
        train(config, RunFolder(run_path(results, config)), CPU, tracker="none", quiet=True)
    return results


def begun(config: RunConfig, results: Path) -> str:
    """Leave a run one update after its beginning, with a checkpoint; returns its id."""
    folder = RunFolder(run_path(results, config))
    with pytest.raises(OutOfTime):
        train(config, folder, CPU, tracker="none", quiet=True, deadline=Deadline(0.0))
    return run_id(folder.path)


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


def process_at(folder: RunFolder) -> int | None:
    """The process that trains a run, once it is about to; None if nobody does."""
    held = re.match(r"process (\d+) on", folder.holder() or "")
    return int(held[1]) if held and folder.metrics_path.exists() else None


@contextlib.contextmanager
def signalled(folder: RunFolder, number: int) -> Iterator[list[int]]:
    """Meanwhile, the first process that trains the run is sent a signal; gives which it was."""
    hit: list[int] = []

    def shoot() -> None:
        hit.append(until(lambda: process_at(folder), seconds=300))  # Ray may take a minute to start
        os.kill(hit[0], number)

    thread = threading.Thread(target=shoot)
    thread.start()
    yield hit
    thread.join()


# ----- engines


def test_each_run_is_done_once(undisturbed, tmp_path, capsys):
    configs = [tiny(seed) for seed in range(4)]
    outcomes = launch([*configs, configs[0]], tmp_path, options("process", threads=1))
    assert [o.state for o in outcomes] == ["finished"] * 5
    assert_same_runs(configs, tmp_path, undisturbed)
    require_finished(outcomes)
    assert "4 runs: 0 finished already, 4 to do" in capsys.readouterr().err
    # again: nothing is run again
    written = [run_path(tmp_path, c).joinpath("result.json").stat().st_mtime_ns for c in configs]
    assert {o.state for o in launch(configs, tmp_path, options())} == {"finished"}
    assert [run_path(tmp_path, c).joinpath("result.json").stat().st_mtime_ns for c in configs] == written
    out, err = capsys.readouterr()
    assert "4 runs: 4 finished already, 0 to do" in err and out == ""  # which is for whoever launches


def test_a_killed_worker_costs_its_job_some_time_and_the_others_nothing(undisturbed, tmp_path):
    """Two workers, one of them killed, give the numbers that this process gives."""
    long, others, impossible = tiny(9, LONG), [tiny(seed) for seed in range(4)], tiny(0, minibatches=3)
    folder = RunFolder(run_path(tmp_path, long))
    first = begun(long, tmp_path)
    with signalled(folder, signal.SIGKILL) as killed:
        outcomes = launch([long, *others, impossible], tmp_path, options())
    assert len(killed) == 1 and [o.state for o in outcomes] == [*["finished"] * 5, "failed"]
    assert "multiple of minibatches" in outcomes[-1].reason
    assert run_id(folder.path) == first  # it went on, and did not start over
    assert_same_runs([long, *others], tmp_path, undisturbed)


def test_a_job_that_keeps_dying_fails_and_can_be_launched_again(tmp_path, capsys):
    long, other = tiny(9, LONG), tiny(0)
    folder = RunFolder(run_path(tmp_path, long))
    with signalled(folder, signal.SIGKILL):
        outcomes = launch([long, other], tmp_path, options(workers=1, retries=0))
    assert [o.state for o in outcomes] == ["failed", "finished"]
    assert "its process was killed (SIGKILL" in outcomes[0].reason and "at attempt 1" in outcomes[0].reason
    assert folder.failure()["reason"] == outcomes[0].reason
    assert f"failed: {folder.path}: {outcomes[0].reason}" in capsys.readouterr().err
    with pytest.raises(RunError, match="1 of 2 runs failed"):
        require_finished(outcomes)
    (outcome,) = launch([long], tmp_path, options("process"))
    assert outcome.state == "finished" and folder.failure() is None


def test_what_fails_leaves_its_reason_and_stops_nobody(tmp_path):
    diverging, impossible = tiny(0, learning_rate=1e30), tiny(0, minibatches=3)
    outcomes = launch([diverging, impossible, tiny(1)], tmp_path, options("process"))
    assert [o.state for o in outcomes] == ["failed", "failed", "finished"]
    assert "is not finite" in outcomes[0].reason
    assert outcomes[1].reason == "bandit/n10-k5: batch_size must be a multiple of minibatches, got 8 and 3"
    for config, outcome in zip((diverging, impossible), outcomes, strict=False):
        failure = RunFolder(run_path(tmp_path, config)).failure()
        assert failure["reason"] == outcome.reason and "Traceback" in failure["traceback"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_and_a_worker_of_it_that_is_killed(undisturbed, tmp_path):
    long, other = tiny(9, LONG), tiny(0)
    folder = RunFolder(run_path(tmp_path, long))
    first = begun(long, tmp_path)
    with signalled(folder, signal.SIGKILL) as killed:
        outcomes = launch([long, other, tiny(0, minibatches=3)], tmp_path, options("ray"))
    assert len(killed) == 1 and [o.state for o in outcomes] == ["finished", "finished", "failed"]
    assert "multiple of minibatches" in outcomes[2].reason
    assert run_id(folder.path) == first
    assert_same_runs([long, other], tmp_path, undisturbed)


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of one node that knows nothing of us but where the package is."""
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="ray") as folder:  # sockets' names must be short
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"]
        command += ["--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", f"--temp-dir={folder}"]
        command += ["--include-dashboard=false", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SNAIL_")} | {"PYTHONPATH": str(ROOT)}
        head = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
        )
        try:
            assert head.stdout is not None
            assert any("Ray runtime started" in line for line in head.stdout)
            yield address
        finally:
            head.terminate()  # it ends what it has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.communicate()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_workers_of_a_cluster_have_extensions_and_know_where_data_is(cluster, tmp_path, monkeypatch):
    told = tmp_path / "told"
    code = f"import os\nopen({str(told)!r}, 'w').write(os.environ['SNAIL_DATA'] + ' ' + os.environ['SNAIL_CACHE'])\n"
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine.py"))
    monkeypatch.setenv("SNAIL_DATA", "data")
    monkeypatch.setenv("SNAIL_CACHE", str(tmp_path / "cache"))
    (outcome,) = launch([tiny(0)], tmp_path / "results", options("ray", address=cluster))
    assert outcome.state == "finished", outcome
    assert told.read_text() == f"{tmp_path / 'data'} {tmp_path / 'cache'}"


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_submitit_queues_a_preempted_job_again(undisturbed, tmp_path):
    long, other = tiny(9, LONG), tiny(0)
    folder = RunFolder(run_path(tmp_path, long))
    first = begun(long, tmp_path)
    with signalled(folder, signal.SIGUSR2) as preempted:
        chosen = options("slurm", slurm=SlurmOptions(cluster="local", wait=True))
        outcomes = launch([long, other], tmp_path, chosen)
    assert len(preempted) == 1 and {o.state for o in outcomes} == {"finished"}, outcomes
    assert run_id(folder.path) == first
    assert_same_runs([long, other], tmp_path, undisturbed)
    logs = "".join(p.read_text() for p in (tmp_path / "launches" / "slurm").glob("*_log.*"))
    assert "Requeued job" in logs


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_submitting_does_not_wait(tmp_path):
    chosen = options("slurm", slurm=SlurmOptions(cluster="local"))
    (outcome,) = launch([tiny(0)], tmp_path, chosen)
    assert outcome.state == "submitted" and outcome.reason.isdigit()
    assert all(status.pending for status in read_status(tmp_path))
    until((run_path(tmp_path, tiny(0)) / "result.json").exists)
    # one that is killed is not waited for any more
    (outcome,) = launch([tiny(9, 1_000_000)], tmp_path, chosen)
    folder = RunFolder(run_path(tmp_path, tiny(9, 1_000_000)))
    worker = until(lambda: process_at(folder))
    os.kill(int(outcome.reason), signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    until(lambda: folder.holder() is None)
    assert sorted(status.state for status in read_status(tmp_path)) == ["finished", "stopped"]


@pytest.mark.parametrize(
    ("chosen", "missing", "message"),
    [
        (options("ray"), "ray", r"pip install 'snail-suite\[ray\]'"),
        (options("slurm"), "submitit", r"pip install 'snail-suite\[slurm\]'"),
    ],
    ids=["ray", "submitit"],
)
def test_an_engine_that_is_not_installed_is_named(tmp_path, monkeypatch, chosen, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RunError, match=message):
        launch([tiny(0)], tmp_path, chosen)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:port"])
def test_a_cluster_that_does_not_answer_is_named_at_once(tmp_path, address):
    with pytest.raises(RunError, match=f"no answer from {address}"):
        launch([tiny(0)], tmp_path, options("ray", address=address))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_without_slurm_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="Slurm is not available here"):
        launch([tiny(0)], tmp_path, options("slurm"))


# ----- stopped


def sweep(results: Path, *words: str, steps: int = 3) -> subprocess.Popen:
    """`snail sweep` of two tiny runs in a process group of its own."""
    spec = results.parent / f"{results.name}.toml"
    spec.write_text(
        'experiments = ["bandit/n10-k5"]\nagents = ["gru"]\nseeds = [0, 9]\nbudget = "smoke"\n'
        "[set]\ntask.arms = 3\ntask.pulls = 4\nmodel.hidden-size = 8\ntest.trials = 50\n"
        f"training = {{steps = {steps}, batch-size = 8, epochs = 1, minibatches = 1}}\n"
    )
    command = [sys.executable, "-m", "runs.cli", "sweep", str(spec), "--results", str(results), "--tracker", "none"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


@pytest.mark.parametrize("how", ["ctrl-c", "ctrl-c, ignored by who started it", "killed"])
def test_a_launch_that_ends_early_leaves_checkpoints_and_nobody_behind(tmp_path, how):
    results = tmp_path / "results"
    workers = 1 if how == "killed" else 2
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if "ignored" in how else signal.default_int_handler)
    try:
        launched = sweep(results, "--workers", str(workers), steps=1_000_000)
    finally:
        signal.signal(signal.SIGINT, before)
    folders = [RunFolder(run_path(results, tiny(seed, 1_000_000))) for seed in (0, 9)][:workers]
    until(lambda: all(process_at(folder) for folder in folders))
    time.sleep(0.2)  # from about to train to training
    if how.startswith("ctrl-c"):
        os.killpg(launched.pid, signal.SIGINT)  # as a terminal does
    else:
        launched.kill()
    _, err = launched.communicate(timeout=60)
    until(lambda: not any(folder.holder() for folder in folders))
    assert all(folder.checkpoint_path.exists() for folder in folders)
    if how == "killed":
        assert launched.returncode == -signal.SIGKILL
        return
    assert launched.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "stopped; 0 of 2 runs are finished, the same command continues"


def test_two_launches_of_the_same_runs_share_them(undisturbed, tmp_path):
    results = tmp_path / "results"
    launches = [sweep(results, "--engine", "process") for _ in range(2)]
    ended = [p.communicate(timeout=120) for p in launches]
    assert [p.returncode for p in launches] == [0, 0], ended
    assert all(len(re.findall(r"return \d\.\d{4}", out)) == 2 for out, _ in ended)
    assert_same_runs([tiny(0)], results, undisturbed)
    assert not list(results.rglob("failed.json")) and not list(results.rglob(".lock"))


def test_a_run_that_another_process_has_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("runs.launch.launching.POLL_SECONDS", 0.01)
    config = tiny(0)
    folder = RunFolder(run_path(tmp_path, config))
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with folder.lock():
            held.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(1.0, free.set).start()
    outcomes = launch([config, tiny(1)], tmp_path, options("process"))
    assert free.is_set() and [o.state for o in outcomes] == ["finished", "finished"]
    thread.join()


def test_a_time_budget_is_for_all_of_them(tmp_path):
    """At least one update of the first is made; those whose turn comes too late do not begin."""
    configs = [tiny(0), tiny(1)]
    outcomes = launch(configs, tmp_path, options("process", time_budget="0.1s"))
    assert {o.state for o in outcomes} == {"out of time"}
    assert "before it started" in outcomes[1].reason
    with pytest.raises(OutOfTime, match="0 of 2 runs finished; the same command continues"):
        require_finished(outcomes)


@pytest.mark.parametrize(
    ("states", "error"),
    [
        (["finished", "submitted"], None),
        (["finished", "failed", "out of time", "stopped"], RunError),
        (["finished", "out of time", "stopped"], OutOfTime),
        (["finished", "stopped"], Interrupted),
    ],
)
def test_a_launch_ends_as_its_runs_did(states, error):
    outcomes = [Outcome(state) for state in states]
    if error is None:
        require_finished(outcomes)
        return
    with pytest.raises(RunError, match=f"of {len(states)} runs|1 of 2 runs finished") as raised:
        require_finished(outcomes)
    assert type(raised.value) is error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_ctrl_c_in_this_process_stops_all_of_them(tmp_path, monkeypatch, number):
    import runs.algorithms.ppo

    update = runs.algorithms.ppo.PPOLearner.update

    def interrupted(self, step):
        if self.seed_of_run == 1:
            signal.raise_signal(number)
        return update(self, step)

    build = runs.algorithms.ppo.PPOLearner.__init__

    def built(self, training, config, machine):
        self.seed_of_run = config.seed
        build(self, training, config, machine)

    monkeypatch.setattr(runs.algorithms.ppo.PPOLearner, "__init__", built)
    monkeypatch.setattr(runs.algorithms.ppo.PPOLearner, "update", interrupted)
    with pytest.raises(Interrupted, match="1 of 3 runs are finished, the same command continues"):
        launch([tiny(0), tiny(1), tiny(2)], tmp_path, options("process"))
    assert (run_path(tmp_path, tiny(1)) / "checkpoint.pt").exists()
    assert not run_path(tmp_path, tiny(2)).exists()


def test_a_signal_that_a_launcher_has_arranged_is_left_to_it(undisturbed, tmp_path, monkeypatch):
    """As Slurm's SIGTERM is to submitit, which queues the job again, and Ray's to Ray."""
    import runs.algorithms.ppo

    seen = []
    update = runs.algorithms.ppo.PPOLearner.update

    def terminated(self, step):
        signal.raise_signal(signal.SIGTERM)
        return update(self, step)

    monkeypatch.setattr(runs.algorithms.ppo.PPOLearner, "update", terminated)
    old = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        folder = RunFolder(run_path(tmp_path, tiny(0)))
        train(tiny(0), folder, CPU, tracker="none", quiet=True)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert len(seen) == 3
    assert_same_runs([tiny(0)], tmp_path, undisturbed)


@pytest.mark.parametrize("option", ["workers", "threads"])
def test_numbers_that_make_no_sense_are_refused(tmp_path, option):
    with pytest.raises(RunError, match=f"{option} must be at least 1, got 0"):
        launch([tiny(0)], tmp_path, replace(options(), **{option: 0}))


# ----- sweeps


def cli(capsys, *words: str) -> tuple[int, str, str]:
    try:
        code = run(words)
    except SystemExit as e:
        code = int(e.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


MEASURED = "measuring this machine for 0 s, once"


def test_a_sweep_of_names(capsys, here):
    words = ["bandit/n10-k5", "mdp/n10", "--agents", "snail", "gru", "--seeds", "0", "1", "2", "--budget", "smoke"]
    code, out, err = cli(capsys, "sweep", *words, "--dry-run")
    assert code == 0 and set(err.splitlines()) <= {MEASURED} and not (here / "results").exists()
    lines = out.splitlines()
    assert lines[-1].startswith("12 runs: 0 finished already, 12 to do; about ")
    assert len(lines) == 13 and lines[0].split() == ["to", "do", f"{here}/results/bandit/n10-k5/snail/smoke-seed0"]


def test_a_sweep_of_a_file_is_every_combination(capsys, here):
    (here / "grid.toml").write_text(
        """
        experiments = ["omniglot/5way-1shot"]
        agents = ["gru", "lstm"]
        seeds = [0, 1]
        budget = "demo"

        [set]
        "training.learning-rate" = [1e-3, 3e-4]
        training.bfloat16 = true
        model.hidden_size = [32, 64, 128]
        task.test-shots = [[1, 5]]
        training.selection = "final"
        """
    )
    from runs.launch.sweeps import read_sweeps

    (spec,) = read_sweeps(here / "grid.toml")
    configs = spec.configs()
    assert len(configs) == len(set(configs)) == 2 * 2 * 2 * 3
    assert {(c.training.learning_rate, c.model.hidden_size) for c in configs} == {
        (rate, size) for rate in (1e-3, 3e-4) for size in (32, 64, 128)
    }
    assert all(c.training.bfloat16 and c.task.test_shots == (1, 5) and c.training.selection == "final" for c in configs)
    # exactly what the command line of a single run makes of the same words
    from runs.commands.training import Train
    from runs.config.command_line import parse

    words = (
        "omniglot/5way-1shot --agent lstm --seed 1 --budget demo --training.learning-rate 0.0003 --training.bfloat16"
    )
    words += " --model.hidden-size 128 --task.test-shots 1 5 --training.selection final"
    single = parse(Train, words.split(), "train", default=Train.defaults(words.split()))
    assert all(getattr(single, name) == getattr(configs[-1], name) for name in vars(configs[-1]))
    code, out, _ = cli(capsys, "sweep", "grid.toml", "--dry-run", "--seeds", "7")  # what is typed goes first
    assert code == 0 and "12 runs" in out and out.count("-seed7-") == 12
    assert "training.learning-rate=0.0003" in out and "model.hidden-size=128" in out


def test_a_file_of_several_sweeps_is_all_of_them_in_order(capsys, here):
    (here / "study.toml").write_text(
        """
        [[sweeps]]
        experiments = ["mdp/n10"]
        agents = ["gru"]
        [[sweeps]]
        experiments = ["bandit/n10-k5"]
        seeds = [0, 1]
        set.training.steps = 5
        """
    )
    code, out, _ = cli(capsys, "sweep", "study.toml", "--dry-run")
    names = [line.split("results/")[1].split()[0] for line in out.splitlines()[:-1]]
    assert code == 0 and [n.rsplit("/", 1)[0] for n in names] == ["mdp/n10/gru"] + ["bandit/n10-k5/snail"] * 2
    code, out, _ = cli(capsys, "sweep", "study.toml", "--dry-run", "--budget", "smoke")  # what is typed goes first
    assert code == 0 and out.count("smoke-seed") == 3


def test_a_sweep_runs_and_tells_its_numbers(capsys, here):
    words = ["bandit/n10-k5", "--agents", "random", "greedy", "--budget", "smoke", "--tracker", "none"]
    code, out, _ = cli(capsys, "sweep", *words, "--engine", "process")
    assert code == 0 and len(re.findall(r"^bandit/n10-k5 \w+ seed 0: return \d\.\d{4}", out, re.M)) == 2
    code, again, err = cli(capsys, "sweep", *words, "--engine", "process")
    assert code == 0 and again == out and "2 runs: 2 finished already, 0 to do" in err
    code, out, _ = cli(capsys, "sweep", *words[:2], "greedy", *words[4:], "--algorithm", "tuning", "--dry-run")
    assert code == 0 and "finished" in out


MISTAKES = [
    ("", [], "which runs?"),
    ("", ["bandit/n10-k6"], "did you mean bandit/n10-k5?"),
    ("", ["bandit/n10-k5", "--agents", "snial"], "did you mean snail?"),
    ("", ["bandit/n10-k5", "mdp/n10", "--agents", "ucb1"], "unknown agent 'ucb1'"),
    ("", ["bandit/n10-k5", "--budget", "huge"], "unknown budget 'huge'"),
    ("", ["bandit/n10-k5", "--algorithm", "tropo"], "did you mean trpo?"),
    ("", ["bandit/n10-k5", "--agent", "gru"], "did you mean --agents?"),
    ("", ["nowhere.toml"], "cannot read nowhere.toml: No such file"),
    ("", ["s.toml", "bandit/n10-k5"], "give the file alone"),
    ("", ["bandit/n10-k5", "--workers", "0"], "workers must be at least 1, got 0"),
    ("", ["bandit/n10-k5", "--time-budget", "25"], "is not a time budget"),
    ("experiments = [", ["s.toml"], "cannot read s.toml"),
    ("experimnts = []", ["s.toml"], "s.toml: unknown key 'experimnts'; did you mean experiments?"),
    ("agents = ['gru']", ["s.toml"], "s.toml has no key 'experiments'"),
    ("seeds = 3\nexperiments = ['mdp/n10']", ["s.toml"], "s.toml.seeds must be"),
    ("seeds = [1]\n[[sweeps]]\nexperiments = ['mdp/n10']", ["s.toml"], "[[sweeps]] must be tables, without other keys"),
    ("sweeps = 3", ["s.toml"], "[[sweeps]] must be tables"),
    ("[[sweeps]]\nagents = ['gru']", ["s.toml"], "s.toml: sweeps[0] has no key 'experiments'"),
    ("set = 3\nexperiments = ['mdp/n10']", ["s.toml"], "set must be a table"),
    ("experiments = ['mdp/n10']\nset.training.steps = []", ["s.toml"], "training.steps has no values"),
    ("experiments = ['mdp/n10']\nset.training.step = 3", ["s.toml"], "did you mean training.steps?"),
    ("experiments = ['mdp/n10']\nset.device = 'cpu'", ["s.toml"], "unknown option 'device'"),
    ("experiments = ['mdp/n10']\nset.training.steps = 1.5", ["s.toml"], "training.steps cannot be 1.5"),
    ("experiments = ['mdp/n10']\nset.training.steps = [5, 'x']", ["s.toml"], "training.steps cannot be 'x'"),
]


@pytest.mark.parametrize(("text", "words", "message"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_every_mistake_gets_one_clear_line(capsys, here, text, words, message):
    if text:
        (here / "s.toml").write_text(text)
    code, out, err = cli(capsys, "sweep", *words)
    assert code == 2 and out == "" and len(err.splitlines()) == 1, (out, err)
    assert err.startswith("error: ") and message in err
    assert not (here / "results").exists()


def test_the_exit_code_tells_of_failures(capsys, here):
    (here / "s.toml").write_text(
        "experiments = ['bandit/n10-k5']\nagents = ['gru']\nbudget = 'smoke'\n"
        "[set]\ntraining.minibatches = [3, 1]\ntraining.batch-size = 8\ntraining.steps = 2\ntest.trials = 50"
    )
    code, out, err = cli(capsys, "sweep", "s.toml", "--engine", "process", "--tracker", "none")
    assert code == 2 and len(re.findall(r"return \d\.\d{4}", out)) == 1
    assert re.search(r"^failed: .*: bandit/n10-k5: batch_size must be a multiple", err, re.M)
    assert err.splitlines()[-1] == "error: 1 of 2 runs failed; the same command retries them"
    code, out, _ = cli(capsys, "status")
    assert code == 0 and re.search(r"gru/\S+ +failed .*batch_size must be a multiple", out)


def test_what_is_launched_is_kept(tmp_path):
    launch([tiny(0)], tmp_path, options("process"), name="a name/with signs")
    (path,) = (tmp_path / "launches").glob("*.json")
    assert path.name.endswith("-a-name-with-signs.json")
    plan = json.loads(path.read_text())
    assert plan["engine"] == "process" and [tmp_path / r["run"] for r in plan["runs"]] == [run_path(tmp_path, tiny(0))]
    assert [p.name for p in (tmp_path / "launches").iterdir()] == [path.name]  # the lock is gone

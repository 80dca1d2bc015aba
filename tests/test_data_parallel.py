"""One run trained by two processes that torchrun starts: the same training as by one, and one way to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from torch import distributed, nn
from two_processes import BANDIT, CONFIGS, DRAWINGS, RESUMED, WRONG, batch, go, new_norm, normalize, settings

from runs.agents import SNAILConfig
from runs.catalogue import RunConfig, find
from runs.system.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.training import build_learner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed"),
]
ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CPU = Machine(torch.device("cpu"))
TOLERANCE = {
    "ppo": 1e-5,
    "trpo": 1e-3,
    "lookahead": 1e-4,
    "lookahead-mdp": 1e-4,
    "drawings": 1e-10,
    "photographs": 1e-10,
    "maml": 1e-10,
}
"""Of weights and metrics, relative to numbers above 1: for images in double precision, for the others in float32."""


def torchrun(*words: str, **options: Any) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([*TORCHRUN, *words], cwd=ROOT, env=environment, text=True, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Trained by one process, by two, by one and then two, by two and then one."""
    path = tmp_path_factory.mktemp("group")
    for name, config in CONFIGS.items():
        go(config, path / "one" / name, CPU)
        if name in RESUMED:
            go(config, path / "one, two" / name, CPU, stops=True)
    process = torchrun(str(Path(__file__).with_name("two_processes.py")), str(path), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for name in RESUMED:
        go(CONFIGS[name], path / "two, one" / name, CPU, resume=True)
    return path


def difference(a: Path, b: Path) -> float:
    """The largest difference of weights and metrics of two runs, relative to numbers above 1."""
    pairs = []
    states = [torch.load(path / "checkpoint.pt", weights_only=True)["learner"] for path in (a, b)]
    for part in ("model", "scale", "class_head"):
        one, two = (state.get(part, {}) for state in states)
        assert list(one) == list(two)
        pairs += [(one[name], two[name]) for name in one]
    one, two = ([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (a, b))
    assert (
        [line["update"] for line in one] == [line["update"] for line in two] == list(range(1, two_processes.STEPS + 1))
    )
    for first, second in zip(one, two, strict=True):
        assert list(first) == list(second)
        names = [name for name in first if not name.startswith("time/") and name != "train/clip_fraction"]  # jumps
        pairs.append(
            (*(torch.tensor([line[name] for name in names], dtype=torch.float64) for line in (first, second)),)
        )
    return max(((x - y).abs() / x.abs().clamp(min=1)).max().item() for x, y in pairs if x.is_floating_point())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_training(folder, name):
    assert difference(folder / "one" / name, folder / "two" / name) < TOLERANCE[name]


@pytest.mark.parametrize("by", ["one, two", "two, one"])
@pytest.mark.parametrize("name", RESUMED)
def test_another_number_of_processes_goes_on(folder, name, by):
    assert difference(folder / "one" / name, folder / by / name) < TOLERANCE[name]


@pytest.mark.parametrize("what", WRONG)
def test_an_error_would_be_noticed(folder, what):
    """Guards the tests above against a tolerance that lets everything pass."""
    assert difference(folder / "one/drawings", folder / what) > 0.01


def test_the_record(folder):
    """The frozen test tasks are the same, so is what it says but for time."""
    one, two = (json.loads((folder / by / "ppo" / "result.json").read_text()) for by in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["results"][0]["task_set"] == two["results"][0]["task_set"]
    assert one["env_steps"] == two["env_steps"] and one["config"] == two["config"]
    assert two["results"][0]["mean"] == pytest.approx(one["results"][0]["mean"], abs=0.1)
    assert not list((folder / "two").rglob(".lock"))


@pytest.fixture(scope="module")
def outcomes(folder) -> list[dict[str, Any]]:
    return [torch.load(folder / f"outcomes{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_what_goes_between_processes(outcomes):
    weights = torch.arange(12.0).view(4, 3)
    for rank, found in enumerate(outcomes):
        assert found["gathered"].tolist() == [[0.0] * 3, [1.0] * 3, [10.0] * 3, [11.0] * 3]
        # of the sum of both processes' losses, which are once and twice the same
        assert torch.equal(found["gradient"], 3 * weights.sum(1, keepdim=True)[2 * rank : 2 * rank + 2])
        assert found["total"].tolist() == [2.0, 1.0]
        assert [g if g is None else g.tolist() for g in found["averaged"]] == [[1.5, 3.0], 0.5, None]
        assert found["mean"] == {"a": 1.0, "b": 0.5}
        assert found["any"] == (False, True, True)
        assert found["error"] == "no room"
        assert found["different"].startswith("the processes differ in their checkpoint: 0, 1; use a results folder")


def test_normalisation_over_all_processes(outcomes):
    """As nn.BatchNorm2d over the whole batch: values, gradients, running averages, and values in evaluation."""
    norm = new_norm()
    whole = normalize(norm, batch())
    parts = [found["normalized"] for found in outcomes]
    for name in ("first", "second", "test"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name].detach())
    # a process's loss is the mean over its half
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]) / 2, whole["gradient"])
    for part in parts:
        torch.testing.assert_close(part["weights"], [p.grad for p in norm.parameters()])
        assert list(part["state"]) == list(whole["state"])
        torch.testing.assert_close(part["state"], dict(whole["state"]))


def test_one_process_leaves_all_as_it_is():
    x = torch.randn(3, 2)
    assert (
        SINGLE_PROCESS.shard(x) is x
        and SINGLE_PROCESS.scatter(x) is x
        and SINGLE_PROCESS.gather(x) is x
        and SINGLE_PROCESS.total(x) is x
    )
    assert SINGLE_PROCESS.any(True, False) == (True, False) and SINGLE_PROCESS.mean({"a": 1.0}) == {"a": 1.0}
    parameter = nn.Parameter(x)
    parameter.grad = gradient = torch.ones_like(x)
    SINGLE_PROCESS.average_gradients([parameter])
    assert parameter.grad is gradient
    with pytest.raises(KeyError), SINGLE_PROCESS.barrier():
        raise KeyError


def test_parts_of_equal_size():
    x = torch.arange(12).view(6, 2)
    teams = [ProcessGroup(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([group.shard(x) for group in teams]), x)
    assert torch.equal(torch.stack([group.scatter(group.shard(x)) for group in teams]).sum(0), x)
    with pytest.raises(ValueError, match="must be a multiple of the number of processes, got 6 and 4"):
        ProcessGroup(0, 4).shard(x)


def changed(config: RunConfig, **training: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **training))


REFUSED = {
    "a batch": (changed(BANDIT, batch_size=36, minibatches=4), "minibatch must be a multiple .* got 9 and 2"),
    "a batch while trials grow": (changed(BANDIT, batch_size=32), "minibatch must be a multiple .* got 21 and 2"),
    "episodes": (changed(DRAWINGS, batch_size=3), "batch_size must be a multiple .* got 3 and 2"),
    "a method": (find("bandit/n10-k5").config("ucb1"), "not trained by gradients.* without torchrun"),
    "choices": (replace(DRAWINGS, model=SNAILConfig(selection="hard")), "hard attention .* without torchrun"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_shared_is_refused(what):
    """At once, in one line that says why."""
    config, message = REFUSED[what]
    with settings(config), pytest.raises(RunError, match=message):
        build_learner(config, Machine(torch.device("cpu"), group=ProcessGroup(0, 2)))


LONG = ["-m", "runs.cli", "train", "bandit/n10-k5", "--agent", "gru", "--tracker", "none"]
LONG += ["--model.hidden-size", "8", "--training.batch-size", "16", "--training.minibatches", "4"]


def test_user_errors_are_one_line(tmp_path):
    process = torchrun(*LONG, "--training.batch-size", "36", "--results", str(tmp_path), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "got 9 and 2" in line and str(ROOT / "runs") not in err  # no traceback of ours
    assert not list(tmp_path.iterdir())


def workers(torchrun: subprocess.Popen) -> dict[int, int]:
    """Ranks and process ids."""
    found = {}
    for pid in Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(entry[5:]): int(pid) for entry in environment if entry.startswith(b"RANK=")}
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("how", ["asked to stop", "one is killed"])
def test_all_end_when_one_does(tmp_path, how):
    process = torchrun(*LONG, "--training.steps", "100000", "--results", str(tmp_path), stderr=subprocess.PIPE)
    while not list(tmp_path.rglob("metrics.jsonl")) or not next(tmp_path.rglob("metrics.jsonl")).stat().st_size:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    pids = workers(process)
    if how == "asked to stop":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(pids[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    if how == "asked to stop":
        (line,) = [line for line in err.splitlines() if line.startswith("stopped after update")]
        (path,) = tmp_path.rglob("checkpoint.pt")
        assert torch.load(path, weights_only=True)["progress"]["step"] == int(line.split()[3])
    assert str(ROOT / "runs") not in err  # no traceback of ours


def test_processes_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunError, match=r"cannot join .* start them with torchrun"), CPU.in_process_group():
        pass

"""``kill -9`` at random moments: a run that is resumed ends as if it had never been killed, to the last bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo  # here, in the server of forks, because the first optimiser step would
from tiny_runs import BANDIT, FEWSHOT, assert_identical, go, quicken, saved_state, untimed_metrics
from tqdm import tqdm

import runs.training
from runs.catalogue import RunConfig
from runs.results.folder import RunFolder

pytestmark = pytest.mark.slow

KILLS = 20
STEPS = 12
SEED = 20171203
LONGER = {
    "bandit": replace(BANDIT, training=replace(BANDIT.training, steps=STEPS)),
    "few-shot": replace(FEWSHOT, training=replace(FEWSHOT.training, steps=STEPS, validations=2)),
}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])  # each life of a run begins in milliseconds, with everything imported


@pytest.fixture(scope="module", autouse=True)
def preloading():
    """The server of forks is started with this process's path: before Python 3.13 it imports nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


def live(config: RunConfig, path: Path) -> None:
    """One life of a run, in a process of its own: a checkpoint at every update, a line of metrics at every third."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would outlive a kill
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        patch.setattr(runs.training, "LOGGED_STEPS", STEPS // 3)
        patch.setattr(os, "fsync", lambda descriptor: None)  # a process that dies takes nothing from the page cache
        go(config, path, resume=True)


def life(config: RunConfig, path: Path, seconds: float | None = None) -> bool:
    """Let the run live for so many seconds at most; whether it came to its end by itself."""
    process = FORKS.Process(target=live, args=(config, path))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


def assert_as_never_killed(path: Path, whole: Path) -> None:
    assert_identical(saved_state(path)["learner"], saved_state(whole)["learner"])
    assert saved_state(path)["progress"]["step"] == STEPS
    assert untimed_metrics(path) == untimed_metrics(whole)
    assert (RunFolder(path).result() or {})["results"] == (RunFolder(whole).result() or {})["results"]
    assert not list(path.rglob(".*.part"))


@pytest.mark.parametrize("loop", LONGER)
def test_killed_at_any_moment_and_resumed_is_as_never_killed(loop, tmp_path):
    config, whole, moments = LONGER[loop], tmp_path / "whole", random.Random(SEED)
    life(config, tmp_path / "first")  # starts the server
    began = time.monotonic()
    assert life(config, whole)
    length = time.monotonic() - began
    reached = []
    while len(reached) < KILLS:
        path, moment = tmp_path / f"{len(reached)}", moments.uniform(0.0, length)
        print(f"seed {SEED}, kill {len(reached)} after {moment:.3f} s of {length:.3f} s")
        if life(config, path, moment):  # faster than before: it was not killed
            shutil.rmtree(path)
            continue
        found = path / "checkpoint.pt"
        reached.append(saved_state(path)["progress"]["step"] if found.exists() else 0)
        assert life(config, path)
        assert_as_never_killed(path, whole)
    print(f"steps of the checkpoints that were resumed from: {sorted(reached)}")
    assert len(set(reached)) > 3  # the moments are spread over the run


@pytest.mark.parametrize("loop", LONGER)
def test_killed_again_and_again(loop, tmp_path):
    """Kills in quick succession hit whatever is being written, and what they leave does not pile up."""
    config, moments = LONGER[loop], random.Random(SEED)
    assert life(config, tmp_path / "whole")
    kills = 0
    while not life(config, tmp_path / "killed", moments.uniform(0.0, 0.15) + kills * 0.004):
        kills += 1
        assert len(list((tmp_path / "killed").rglob(".*.part"))) <= 1
    print(f"seed {SEED}, {kills} kills")
    assert_as_never_killed(tmp_path / "killed", tmp_path / "whole")

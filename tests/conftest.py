"""What several test files need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import runs.launch.costs
from baselines.learn2learn import MissingLibrary, import_learn2learn

torch.set_num_threads(1)  # tiny tensors: more threads only get in each other's way
# whoever started this may have it ignored, as a shell does for what it starts in the background
signal.signal(signal.SIGINT, signal.default_int_handler)


if os.environ.get("SNAIL_DATA"):  # tests change the working directory
    os.environ["SNAIL_DATA"] = str(Path(os.environ["SNAIL_DATA"]).resolve())


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory) -> None:
    """Decoded data goes to a folder of this session's, not to the user's cache; the machine is measured in no time."""
    os.environ["SNAIL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    runs.launch.costs.PROBE_SECONDS = 0.1


@pytest.fixture(autouse=True)
def nothing_left_running(monkeypatch) -> Iterator[None]:
    """Processes that a test has started end with it, and so do those of their groups, whatever happens."""
    started: list[subprocess.Popen] = []
    begin = subprocess.Popen.__init__

    def tracked(self: subprocess.Popen, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", tracked)
    yield
    for process in started:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # if it has a group of its own
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def bfloat16_anywhere(monkeypatch) -> None:
    """Computes in bfloat16 on processors without instructions for it as well."""
    monkeypatch.setattr("runs.system.machine.emulates_bfloat16", lambda device: False)


@pytest.fixture
def own_catalogue() -> Iterator[None]:
    """What a test adds to the catalogue is gone after it, and the extensions that it has loaded are forgotten."""
    from envs.fewshot.datasets.registry import DATASETS
    from runs.catalogue import CATALOGUE
    from runs.results.tables.registered import REGISTERED

    known = (CATALOGUE, DATASETS, REGISTERED)
    before, modules = [dict(names) for names in known], set(sys.modules)
    yield
    for names, old in zip(known, before, strict=True):
        names.clear()
        names.update(old)
    for name in set(sys.modules) - modules:
        if name.startswith("extension_"):
            del sys.modules[name]


@pytest.fixture
def omniglot() -> Path:
    """The folder of the real Omniglot."""
    root = Path(os.environ.get("SNAIL_DATA", ""))
    if not (root / "omniglot").is_dir():
        pytest.skip("SNAIL_DATA names no folder that holds omniglot")
    return root


@pytest.fixture
def learn2learn() -> None:
    """Skips a test where the library is not installed."""
    try:
        import_learn2learn()
    except MissingLibrary as e:
        pytest.skip(str(e))

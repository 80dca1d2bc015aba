"""What several test files need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from baselines.learn2learn import MissingLibrary, import_learn2learn

torch.set_num_threads(1)  # tiny tensors: more threads only get in each other's way


if os.environ.get("SNAIL_DATA"):  # tests change the working directory
    os.environ["SNAIL_DATA"] = str(Path(os.environ["SNAIL_DATA"]).resolve())


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory) -> None:
    """Decoded data goes to a folder of this session's, not to the user's cache."""
    os.environ["SNAIL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_catalogue() -> Iterator[None]:
    """What a test adds to the catalogue is gone after it, and the extensions that it has loaded are forgotten."""
    from runs.catalogue import CATALOGUE

    before, modules = dict(CATALOGUE), set(sys.modules)
    yield
    CATALOGUE.clear()
    CATALOGUE.update(before)
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

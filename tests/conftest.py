"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: more threads only get in each other's way


@pytest.fixture
def omniglot() -> Path:
    """The folder of the real Omniglot."""
    root = Path(os.environ.get("SNAIL_DATA", ""))
    if not (root / "omniglot").is_dir():
        pytest.skip("SNAIL_DATA names no folder that holds omniglot")
    return root

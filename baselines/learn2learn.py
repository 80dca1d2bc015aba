"""learn2learn, imported on first use: it takes seconds, and is optional."""

from __future__ import annotations

import importlib
from typing import Any

import torch


class MissingLibrary(ImportError, ValueError):
    """learn2learn is not available: one line with what to do.

    It is a ValueError, so that a run that needs it is rejected like one with an invalid setting.
    """


def import_learn2learn() -> Any:
    """The module ``learn2learn`` (Arnold et al., arXiv:2008.12284).

    Raises:
        MissingLibrary: if it, or what it imports, is not installed or does not fit the installed torch.
    """
    try:
        _import_torchvision()
        return importlib.import_module("learn2learn")
    except (ImportError, RuntimeError) as e:
        raise MissingLibrary(f"the agent maml needs learn2learn ({e}); run: make maml") from e


def _import_torchvision() -> None:
    """Import torchvision, which learn2learn needs, even if torch was built without CUDA.

    The wheels on PyPI are built for CUDA. Without it their compiled operators do not load, and the import fails
    when it describes two of them. MAML calls neither, so it is enough to declare them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if torch.version.cuda is not None:  # it is built for another version of torch
            raise
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        importlib.import_module("torchvision")

"""learn2learn, imported when an agent first asks for it: it takes seconds, and is optional."""

from __future__ import annotations

import importlib
from typing import Any

import torch


class MissingLibrary(ImportError, ValueError):
    """learn2learn is not to be had: one line with what to do.

    A ValueError as well: a run that asks for it is refused as is one with any other setting that cannot be.
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
    """Import torchvision, which learn2learn imports, where torch was built without CUDA too.

    The wheels of PyPI are built for CUDA. Without it their compiled operators do not load, and the import then fails
    at describing two of them. MAML calls neither, so that it is enough to declare them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if torch.version.cuda is not None:  # it is of another version of torch
            raise
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        importlib.import_module("torchvision")

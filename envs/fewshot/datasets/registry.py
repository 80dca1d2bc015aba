"""The data sets by name."""

from collections.abc import Callable
from pathlib import Path

from envs.fewshot.datasets.base import DatasetStatus, ImageClasses
from envs.fewshot.datasets.glyphs import glyphs_status, load_glyphs
from envs.fewshot.datasets.mini_imagenet import load_mini_imagenet, mini_imagenet_status
from envs.fewshot.datasets.omniglot import load_omniglot, omniglot_status


def load_classes(
    name: str,
    split: str,
    root: str | Path | None = None,
    download: bool = False,
    rotations: bool | None = None,
) -> ImageClasses:
    """Load one split of the data set ``name``.

    ``root``: folder to search before $SNAIL_DATA and the cache. ``download``: fetch what is found nowhere.
    ``rotations``: quarter turns as new classes; None for the usual choice, which is yes for drawings in train
    and val, and no in test and for photographs.
    Raises ValueError for an unknown name or split and DataError if the data cannot be had.
    """
    return _dataset(name)[0](split, root, download, rotations)


def dataset_status(name: str, root: str | Path | None = None) -> DatasetStatus:
    """Where the data set ``name`` is and what it holds, without decoding anything.

    Raises ValueError for an unknown name, DataError if ``root`` or $SNAIL_DATA is given and is not a folder.
    """
    return _dataset(name)[1](root)


_Loader = Callable[[str, str | Path | None, bool, bool | None], ImageClasses]

_Status = Callable[[str | Path | None], DatasetStatus]


def _omniglot() -> tuple[_Loader, _Status]:

    def load(split: str, root: str | Path | None, download: bool, rotations: bool | None) -> ImageClasses:
        return load_omniglot(split, root=root, rotations=rotations, download=download)

    return load, omniglot_status


def _glyphs() -> tuple[_Loader, _Status]:

    def load(split: str, root: str | Path | None, download: bool, rotations: bool | None) -> ImageClasses:
        return load_glyphs(split, rotations=rotations)  # made here: no root to search, nothing to download

    return load, lambda root: glyphs_status()


def _mini_imagenet() -> tuple[_Loader, _Status]:

    def load(split: str, root: str | Path | None, download: bool, rotations: bool | None) -> ImageClasses:
        if rotations:
            raise ValueError("rotations must be None or False for mini-imagenet, got True")
        return load_mini_imagenet(split, root=root, download=download)

    return load, mini_imagenet_status


# Imported on use: they import this module.
_DATASETS = {"omniglot": _omniglot, "glyphs": _glyphs, "mini-imagenet": _mini_imagenet}

DATASETS = tuple(_DATASETS)


def _dataset(name: str) -> tuple[_Loader, _Status]:
    if name not in _DATASETS:
        raise ValueError(f"the data set must be one of {', '.join(DATASETS)}, got {name!r}")
    return _DATASETS[name]()

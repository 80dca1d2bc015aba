"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envs.fewshot.datasets.base import DatasetStatus, ImageClasses
from envs.fewshot.datasets.glyphs import glyphs_status, load_glyphs
from envs.fewshot.datasets.image_folder import ImageFolder
from envs.fewshot.datasets.mini_imagenet import load_mini_imagenet, mini_imagenet_status
from envs.fewshot.datasets.omniglot import load_omniglot, omniglot_status

Root = str | Path | None


@dataclass(frozen=True)
class Dataset:
    """A data set: its loader and its status.

    load: split, root, download and rotations, as of ``load_classes`` -> the split's images.
    status: root -> where it is and what it holds.
    """

    load: Callable[[str, Root, bool, bool | None], ImageClasses]
    status: Callable[[Root], DatasetStatus]


def _omniglot(split: str, root: Root, download: bool, rotations: bool | None) -> ImageClasses:
    return load_omniglot(split, root=root, rotations=rotations, download=download)


def _glyphs(split: str, root: Root, download: bool, rotations: bool | None) -> ImageClasses:
    return load_glyphs(split, rotations=rotations)  # drawn here: no root to search, nothing to download


def _mini_imagenet(split: str, root: Root, download: bool, rotations: bool | None) -> ImageClasses:
    if rotations:
        raise ValueError("rotations must be None or False for mini-imagenet, got True")
    return load_mini_imagenet(split, root=root, download=download)


DATASETS: dict[str, Dataset] = {
    "omniglot": Dataset(_omniglot, omniglot_status),
    "glyphs": Dataset(_glyphs, lambda root: glyphs_status()),
    "mini-imagenet": Dataset(_mini_imagenet, mini_imagenet_status),
}


def register_dataset(name: str, dataset: Dataset | ImageFolder) -> None:
    """Add a data set, for `runs.tasks.FewShotTask`.

    Raises:
        ValueError: if there is one of that name.
    """
    if name in DATASETS:
        raise ValueError(f"a data set {name!r} exists already; choose another name")
    if isinstance(dataset, ImageFolder):
        folder = dataset
        dataset = Dataset(lambda split, root, download, rotations: folder.load(split), lambda root: folder.status())
    DATASETS[name] = dataset


def load_classes(
    name: str, split: str, root: Root = None, download: bool = False, rotations: bool | None = None
) -> ImageClasses:
    """Load one split of the data set ``name``.

    Args:
        name: one of ``DATASETS``.
        split: train, val or test.
        root: folder to search before $SNAIL_DATA and the cache.
        download: whether to fetch what is found nowhere.
        rotations: quarter turns as new classes; None for the usual choice, which is yes for drawings in train and val,
            and no in test and for photographs.

    Raises:
        ValueError: for an unknown name or split.
        DataError: if the data is not available.
    """
    return _dataset(name).load(split, root, download, rotations)


def dataset_status(name: str, root: Root = None) -> DatasetStatus:
    """Where the data set ``name`` is and what it holds, without decoding anything.

    Raises:
        ValueError: for an unknown name.
        DataError: if ``root`` or $SNAIL_DATA is given and is not a folder.
    """
    return _dataset(name).status(root)


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise ValueError(f"the data set must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name]

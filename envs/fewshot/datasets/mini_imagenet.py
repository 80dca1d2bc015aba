"""mini-ImageNet: 100 classes of 600 photographs, 84 x 84 pixels, in the split of Ravi & Larochelle.

O. Vinyals et al., "Matching Networks for One Shot Learning", 2016, arXiv:1606.04080; S. Ravi, H. Larochelle,
"Optimization as a Model for Few-Shot Learning", ICLR 2017. 64 classes are for training, 16 for validation and
20 for testing. The photographs are ImageNet's, whose terms (non-commercial research) forbid passing them on.

Two layouts are read, each in a folder ``mini-imagenet`` under one of the roots of ``storage``, or in the root itself:

- ``train.csv``, ``val.csv``, ``test.csv`` (``filename,label``; from https://github.com/twitter/meta-learning-lstm)
  and the JPEGs they name, in a folder ``images`` or in any number of zips that hold ``images/FILE.jpg``;
- ``mini-imagenet-cache-train.pkl``, ``-validation.pkl`` (or ``-val.pkl``) and ``-test.pkl``, the pickles that
  learn2learn downloads (https://github.com/learnables/learn2learn); see ``array_pickle`` for how safely.

If a folder has both, the csv files are taken. Several copies of mini-ImageNet circulate which were shrunk from
ImageNet in different ways, and JPEG decoders may differ by a bit: so the layouts need not give the same pixels,
no pixels are refused, and the fingerprint tells which ones a result was made with.

A split is decoded once, into one file of the cache folder; later it is read from there, whatever ``root`` says.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from envs.fewshot.datasets import storage
from envs.fewshot.datasets.array_pickle import read_array_pickle
from envs.fewshot.datasets.base import SPLITS, DatasetStatus, ImageClasses, check_split, fingerprint
from envs.fewshot.datasets.storage import DataError, FileTree

OBTAIN = (
    "ImageNet's terms allow no download without asking: put train.csv, val.csv, test.csv and their 84 x 84 JPEGs "
    "(in images/, or in zips of images/FILE.jpg), or learn2learn's mini-imagenet-cache-train.pkl, -validation.pkl, "
    "-test.pkl, into a folder mini-imagenet, and point --data-root or SNAIL_DATA at the folder above it"
)

_NAME = "mini-imagenet"
_CACHE_VERSION = "v1"
_PICKLES = {
    "train": ("mini-imagenet-cache-train.pkl",),
    "val": ("mini-imagenet-cache-validation.pkl", "mini-imagenet-cache-val.pkl"),
    "test": ("mini-imagenet-cache-test.pkl",),
}


@dataclass(frozen=True)
class Layout:
    """How much a copy of mini-ImageNet must hold."""

    classes: Mapping[str, int] = field(default_factory=lambda: {"train": 64, "val": 16, "test": 20})  # by split
    per_class: int = 600  # images
    side: int = 84  # pixels

    def shape(self, split: str) -> tuple[int, int, int, int, int]:
        """Shape of the images of one split: (classes, per_class, 3, side, side)."""
        return (self.classes[split], self.per_class, 3, self.side, self.side)


STANDARD = Layout()


def load_mini_imagenet(
    split: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    layout: Layout = STANDARD,
    available_memory: Callable[[], int | None] = storage.available_memory,
) -> ImageClasses:
    """Load one split of mini-ImageNet: uint8 (classes, 600, 3, 84, 84), RGB, of 64, 16 or 20 classes.

    Classes are in the order of their labels (WordNet ids), images in the order of the csv file or of the
    pickle's lists. They are decoded on first use and kept in the cache folder. They are read into memory if it
    has room, else left in a memory map of the cached file, with a line on stderr that says so. The values are
    the same, and writing to the tensor never changes the file.

    ``root``: folder to search before $SNAIL_DATA and the cache; see ``envs.fewshot.datasets.storage``.
    ``download``: changes nothing, as there is no download; if the data is found nowhere, the error says how to
    get it.
    ``layout``: what a whole copy holds, smaller in tests. ``available_memory``: tells the free bytes of memory.

    Raises DataError if the data is missing, damaged or not mini-ImageNet, ValueError for an unknown split.
    """
    check_split(split)
    storage.data_roots(root)  # a wrong root is an error even if the cache would do without it
    path, shape = _cache_path(split, layout), layout.shape(split)
    images = storage.map_large_array(path, shape)
    if images is None:
        source = find_source(split, root)
        if source is None:
            searched = ", ".join(str(folder) for folder in storage.data_roots(root))
            raise DataError(f"found no {split} split of {_NAME} under {searched}; {OBTAIN}")
        classes = read_classes(source, split, layout)
        bar = tqdm(classes, total=shape[0], desc=f"{_NAME} {split}", unit="class", disable=None)
        storage.save_large_array(path, shape, bar)
        images = storage.map_large_array(path, shape)
        if images is None:
            raise DataError(f"{path} does not hold what was written to it; set SNAIL_CACHE to a folder on a sound disk")
    return ImageClasses(torch.from_numpy(storage.in_memory(images, available_memory)), _NAME, split)


def mini_imagenet_status(root: str | Path | None = None, layout: Layout = STANDARD) -> DatasetStatus:
    """Where mini-ImageNet is and what the cache holds, whose files are read through; nothing is decoded.

    The fingerprint is the SHA-256, cut to 16 digits, of those of the three splits in a row.
    Raises DataError if ``root`` or $SNAIL_DATA is given and is not a folder.
    """
    sources = [find_source(split, root) for split in SPLITS]
    maps = [storage.map_large_array(_cache_path(split, layout), layout.shape(split)) for split in SPLITS]
    whole = [torch.from_numpy(images) for images in maps if images is not None]
    cached = len(whole) == len(SPLITS)
    digest = hashlib.sha256("".join(map(fingerprint, whole)).encode()) if cached else None
    return DatasetStatus(
        name=_NAME,
        sources=tuple(source for source in sources if source is not None),
        cache=_cache_path("*", layout),
        cached=cached,
        classes=dict(layout.classes),
        per_class=layout.per_class,
        fingerprint=None if digest is None else digest.hexdigest()[:16],
        obtain=OBTAIN,
    )


def find_source(split: str, root: str | Path | None = None) -> Path | None:
    """The csv file, with images beside it, or the pickle of a split; None if there is neither.

    Raises DataError if ``root`` or $SNAIL_DATA is given and is not a folder.
    """
    for base in storage.data_roots(root):
        for folder in (base / _NAME, base):
            table = folder / f"{split}.csv"
            if table.is_file() and ((folder / "images").is_dir() or _zips(folder)):
                return table
            for name in _PICKLES[split]:
                if (folder / name).is_file():
                    return folder / name
    return None


def read_classes(source: Path, split: str, layout: Layout = STANDARD) -> Iterator[np.ndarray]:
    """Decode the classes of a split one by one: uint8 (per_class, 3, side, side), in the order of their labels.

    ``source``: the csv file or the pickle of the split.
    Raises DataError, naming the file, for whatever is not as it should be.
    """
    read = _read_files if source.suffix == ".csv" else _read_pickle
    return read(source, split, layout)


def _cache_path(split: str, layout: Layout) -> Path:
    return storage.cache_dir() / f"{_NAME}-{layout.side}x{layout.side}-{_CACHE_VERSION}-{split}.npy"


def _zips(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.zip"))


def _check_classes(source: Path, classes: Mapping[str, Sequence], split: str, layout: Layout) -> None:
    """Raise DataError unless there are as many classes, and images of each, as there should be."""
    if len(classes) != layout.classes[split]:
        raise DataError(
            f"{source} has {len(classes)} classes, not the {layout.classes[split]} of the {split} split of Ravi & "
            "Larochelle; get the original"
        )
    for label, images in classes.items():
        if len(images) != layout.per_class:
            raise DataError(
                f"class {label!r} has {len(images)} images in {source}, not {layout.per_class}; get the original"
            )


# ---------------------------------------------------------------- csv files and JPEGs


def read_table(path: Path) -> dict[str, list[str]]:
    """Read a split file: the names of the images of each class, by label in ascending order.

    Raises DataError if it is not a table ``filename,label`` of plain and distinct file names.
    """
    classes: dict[str, list[str]] = {}
    seen: set[str] = set()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if header != ["filename", "label"]:
                raise DataError(
                    f"{path} begins with {','.join(header)[:80]!r}, not with 'filename,label'; get the original "
                    "from https://github.com/twitter/meta-learning-lstm"
                )
            for row in rows:
                where = f"line {rows.line_num} of {path}"
                if len(row) != 2 or not all(row):
                    raise DataError(f"{where} is {','.join(row)[:80]!r}, not a file name and a label; correct it")
                name, label = row
                if "/" in name or "\\" in name or ":" in name or name in (".", ".."):
                    raise DataError(f"{where} names {name!r}, which is a path and no plain file name; correct it")
                if name in seen:
                    raise DataError(f"{where} names {name!r} a second time; get the original")
                seen.add(name)
                classes.setdefault(label, []).append(name)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a readable csv file ({error}); get the original") from error
    return dict(sorted(classes.items()))


def _read_files(table: Path, split: str, layout: Layout) -> Iterator[np.ndarray]:
    classes = read_table(table)
    _check_classes(table, classes, split, layout)
    with ExitStack() as stack:
        files = _index_images(table, [name for names in classes.values() for name in names], stack)
        for names in classes.values():
            yield np.stack([_decode(*files[name], layout.side) for name in names])  # (per_class, 3, side, side)


def _index_images(table: Path, wanted: Sequence[str], stack: ExitStack) -> dict[str, tuple[FileTree, str]]:
    """Where each wanted image is, in ``images`` or in a zip: the tree and its name there.

    The trees are left open, to be closed by ``stack``. Raises DataError if an image is nowhere.
    """
    found: dict[str, tuple[FileTree, str]] = {}
    broken: list[DataError] = []
    folders = [folder for folder in (table.parent / "images",) if folder.is_dir()]
    for source in (*folders, *_zips(table.parent)):
        try:
            tree = stack.enter_context(FileTree(source))
        except DataError as error:
            broken.append(error)  # no matter, if it is the archive of another split
            continue
        for path in tree.names:
            folder, _, name = path.rpartition("/")
            if folder == "images" or folder.endswith("/images"):
                found.setdefault(name, (tree, path))
    if missing := [name for name in wanted if name not in found]:
        if broken:
            raise broken[0]
        raise DataError(
            f"{len(missing)} of the {len(wanted)} images that {table} names, {missing[0]!r} the first of them, are "
            f"neither in {table.parent / 'images'} nor in the zips beside it; fetch the images again"
        )
    return found


def _decode(tree: FileTree, name: str, side: int) -> np.ndarray:
    """One photograph: uint8 (3, side, side), RGB."""
    advice = f"nothing is resized here: first shrink all images to {side} x {side}, or get a copy that is"
    return storage.decode_image(tree, name, "JPEG", side, "RGB", advice).transpose(2, 0, 1)  # (3, side, side)


# ---------------------------------------------------------------- pickles


def _read_pickle(path: Path, split: str, layout: Layout) -> Iterator[np.ndarray]:
    images, classes = read_array_pickle(path, "image_data", "class_dict")
    _check_classes(path, classes, split, layout)
    if images.ndim != 4 or images.shape[1:] != (layout.side, layout.side, 3):
        raise DataError(
            f"{path} holds images of shape {images.shape}, not (n, {layout.side}, {layout.side}, 3); get the original"
        )
    chosen = [i for indices in classes.values() for i in indices]
    if len(set(chosen)) < len(chosen) or not all(0 <= i < len(images) for i in chosen):
        raise DataError(f"class_dict in {path} names an image twice or one that it does not hold; get the original")
    for _, indices in sorted(classes.items()):
        yield images[indices].transpose(0, 3, 1, 2)  # (per_class, 3, side, side)

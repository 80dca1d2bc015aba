"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people.

B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350, 2015; https://github.com/brendenlake/omniglot (MIT licence).

The original drawings (105 x 105, one bit) are read from ``images_background.zip`` and
``images_evaluation.zip`` or from folders of these names, verified, and shrunk once to 28 x 28. The result is
kept in the cache folder and is the same to the bit wherever it is made.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from envs.fewshot.datasets import storage
from envs.fewshot.datasets.base import SPLITS, DatasetStatus, ImageClasses, check_split, fingerprint, with_rotations
from envs.fewshot.datasets.storage import DataError, FileTree

DRAWERS = 20  # drawings of each character
SIDE = 28  # pixels, after shrinking
TRAIN_CHARACTERS = 1200  # with the validation characters; the other 423 are for testing
VAL_CHARACTERS = 100

_SOURCE_SIDE = 105  # pixels, of the original drawings
_SPLIT_SEED = 0
_CACHE_NAME = "omniglot-28x28-v1.npz"
_URL = "https://github.com/brendenlake/omniglot"


@dataclass(frozen=True)
class Part:
    """One of the archives that Omniglot comes in.

    ``sha256`` is of the drawings themselves, not of the archive: of the one-bit pixels (ink = 1, row by row,
    each drawing padded with zeros to whole bytes) of all drawings in the order of their paths. So a re-packed
    archive or an unpacked folder is verified as well as the original archive.
    """

    name: str
    characters: int
    sha256: str

    @property
    def url(self) -> str:
        """Address of the official archive."""
        return f"{_URL}/raw/master/python/{self.name}.zip"


PARTS = (
    Part("images_background", 964, "fa99ab70a348e2f9f02e33f6c9beb789eb1241418acf7ebc2f703301815bf452"),
    Part("images_evaluation", 659, "5bdcd30aa88e9096667576ae13f63e07dfe325d8711bf643359338d5dcd36144"),
)


def load_omniglot(
    split: str,
    *,
    root: str | Path | None = None,
    rotations: bool | None = None,
    val_characters: int = VAL_CHARACTERS,
    download: bool = False,
) -> ImageClasses:
    """Load one split of Omniglot: uint8 (classes, 20, 1, 28, 28), ink 255 on background 0.

    1200 characters are for meta-training and the other 423 for meta-testing, chosen at random over all
    alphabets with a fixed seed, as in Santoro et al. 2016 and in SNAIL (Mishra et al. 2018, arXiv:1707.03141,
    section 5.1, whose 1632 characters, 432 of them for testing, are slips for 1623 and 423). Of the 1200,
    ``val_characters`` are held out as split "val", to choose checkpoints by; 0 leaves all 1200 to "train".
    The test split does not depend on this number. Within a split, characters are in the order of their paths.

    ``root``: folder to search before $SNAIL_DATA and the cache; see ``envs.fewshot.datasets.storage``.
    ``rotations``: quarter turns as new classes, class ``4 * c + r`` being character ``c`` turned ``r`` times;
    None means yes for "train" and "val" (4400 and 400 classes), no for "test" (423 upright characters).
    ``download``: fetch the official archives into the cache if the drawings are found nowhere.

    Raises DataError if the data is missing, damaged or not Omniglot, ValueError for wrong arguments.
    """
    check_split(split)
    characters = split_characters(split, val_characters)
    images = torch.from_numpy(_cached_images(root, download))[characters]  # (characters, 20, 28, 28)
    images = images.unsqueeze(2)  # (characters, 20, 1, 28, 28)
    if rotations if rotations is not None else split != "test":
        images = with_rotations(images)  # (4 * characters, 20, 1, 28, 28)
    return ImageClasses(images, "omniglot", split)


def omniglot_status(root: str | Path | None = None) -> DatasetStatus:
    """Where Omniglot is and what it holds, without decoding it.

    Raises DataError if ``root`` or $SNAIL_DATA is given and is not a folder.
    """
    sources = [storage.find_source("omniglot", part.name, root) for part in PARTS]
    images = _read_cache()
    return DatasetStatus(
        name="omniglot",
        sources=tuple(source for source in sources if source is not None),
        cache=storage.cache_dir() / _CACHE_NAME,
        cached=images is not None,
        classes={split: len(split_characters(split, VAL_CHARACTERS)) for split in SPLITS},
        per_class=DRAWERS,
        fingerprint=None if images is None else fingerprint(torch.from_numpy(images)),
    )


def split_characters(split: str, val_characters: int = VAL_CHARACTERS) -> np.ndarray:
    """Which characters, numbered in the order of their paths, make a split: sorted int64 (characters,)."""
    least = 1 if split == "val" else 0
    if not least <= val_characters < TRAIN_CHARACTERS:
        raise ValueError(
            f"val_characters must be between {least} and {TRAIN_CHARACTERS - 1} for split {split!r}, "
            f"got {val_characters}"
        )
    # RandomState and not Generator: NumPy promises that its stream never changes (NEP 19).
    order = np.random.RandomState(_SPLIT_SEED).permutation(sum(part.characters for part in PARTS))
    train = TRAIN_CHARACTERS - val_characters
    chosen = {"train": order[:train], "val": order[train:TRAIN_CHARACTERS], "test": order[TRAIN_CHARACTERS:]}
    return np.sort(chosen[split])


def _cached_images(root: str | Path | None, download: bool) -> np.ndarray:
    """All of Omniglot, uint8 (1623, 20, 28, 28), from the cache, which is built if need be."""
    storage.data_roots(root)  # a wrong root is an error even if the cache would do without it
    images = _read_cache()
    if images is None:
        images = build_images(find_parts(PARTS, root, download))
        storage.save_arrays(storage.cache_dir() / _CACHE_NAME, images=images)
    return images


def _read_cache() -> np.ndarray | None:
    arrays = storage.load_arrays(storage.cache_dir() / _CACHE_NAME, "images")
    shape = (sum(part.characters for part in PARTS), DRAWERS, SIDE, SIDE)
    if arrays is None or arrays[0].shape != shape or arrays[0].dtype != np.uint8:
        return None
    return arrays[0]


def find_parts(parts: Sequence[Part], root: str | Path | None, download: bool) -> list[tuple[Part, Path]]:
    """Each part with the folder or archive that holds it. Raises DataError if one is nowhere."""
    found = []
    for part in parts:
        source = storage.find_source("omniglot", part.name, root)
        if source is None and download:
            source = storage.cache_dir() / "omniglot" / f"{part.name}.zip"
            storage.download(part.url, source)
        if source is None:
            searched = ", ".join(str(folder) for folder in storage.data_roots(root))
            raise DataError(
                f"found no {part.name}.zip under {searched}; point --data-root or SNAIL_DATA at a folder "
                f"that holds it, allow its download from {_URL}, or use the data set 'glyphs' instead"
            )
        found.append((part, source))
    return found


def build_images(found: Sequence[tuple[Part, Path]]) -> np.ndarray:
    """Decode, verify and shrink the drawings of all parts.

    Returns uint8 (characters, 20, 28, 28), ink 255 on background 0, parts in the order given and characters
    in the order of their paths. Raises DataError, naming the file, for whatever is not as it should be.
    """
    with tqdm(total=sum(part.characters for part, _ in found), desc="omniglot", unit="char", disable=None) as bar:
        return np.concatenate([_build_part(part, source, bar) for part, source in found])


def _build_part(part: Part, source: Path, bar: tqdm) -> np.ndarray:
    images = np.empty((part.characters, DRAWERS, SIDE, SIDE), np.uint8)
    digest = hashlib.sha256()
    with FileTree(source) as tree:
        characters: dict[str, list[str]] = {}
        for name in tree.names:
            folder, _, file = name.rpartition("/")
            if name.startswith(f"{part.name}/") and file.endswith(".png") and not file.startswith("."):
                characters.setdefault(folder, []).append(name)
        if len(characters) != part.characters:
            raise DataError(
                f"{source} holds {len(characters)} characters of {part.name}, not {part.characters}; "
                f"get a whole copy from {part.url}"
            )
        for i, (folder, names) in enumerate(characters.items()):
            if len(names) != DRAWERS:
                raise DataError(
                    f"{folder} in {source} holds {len(names)} drawings, not {DRAWERS}; get a whole copy from {part.url}"
                )
            ink = np.stack([_decode(tree, name) for name in names])  # (20, 105, 105)
            digest.update(np.packbits(ink.reshape(DRAWERS, -1), axis=1).tobytes())
            images[i] = shrink(ink)  # (20, 28, 28)
            bar.update()
    if digest.hexdigest() != part.sha256:
        raise DataError(
            f"the drawings in {source} are not those of Omniglot's {part.name} (SHA-256 "
            f"{digest.hexdigest()[:16]}..., not {part.sha256[:16]}...); get a whole copy from {part.url}"
        )
    return images


def _decode(tree: FileTree, name: str) -> np.ndarray:
    """One drawing as bool (105, 105), True where there is ink."""
    return storage.decode_image(tree, name, "PNG", _SOURCE_SIDE, "L", "this is not an original drawing") < 128


def shrink(ink: np.ndarray) -> np.ndarray:
    """Shrink drawings by exact area averaging: bool (..., 105, 105) to uint8 (..., 28, 28).

    A pixel of the result covers 3.75 x 3.75 pixels of the drawing; its value is 255 times the share of ink
    there, rounded. Computed on integers, so that it depends neither on the machine nor on any version.
    """
    # In quarter pixels a source pixel spans 4 and a result pixel 15: weights[i, j] is the overlap of i and j.
    start, source = 15 * np.arange(SIDE)[:, None], 4 * np.arange(_SOURCE_SIDE)[None, :]
    weights = np.minimum(start + 15, source + 4) - np.maximum(start, source)
    weights = weights.clip(min=0).astype(np.float32)  # (28, 105); float32 sums of such integers are exact
    area = weights @ ink.astype(np.float32) @ weights.T  # (..., 28, 28), in 0 ... 225
    return ((255 * area.astype(np.int64) + 112) // 225).astype(np.uint8)

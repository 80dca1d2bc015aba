"""Common types of data sets: the image classes of one split, and the status before reading."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageClasses:
    """One split of a data set: the same number of images of each class.

    ``images``: uint8 (classes, per_class, channels, height, width); drawings have one channel, ink 255 on
    background 0, and photographs three: red, green, blue.
    Raises ValueError for other shapes and types.
    """

    images: Tensor
    name: str  # one of DATASETS
    split: str  # "train", "val" or "test"

    def __post_init__(self) -> None:
        if self.images.ndim != 5 or self.images.dtype != torch.uint8:
            raise ValueError(
                "images must be uint8 of shape (classes, per_class, channels, height, width), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )

    def to(self, device: torch.device | str) -> "ImageClasses":
        """The same classes on another device."""
        return ImageClasses(self.images.to(device), self.name, self.split)

    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the shape and the pixels."""
        return fingerprint(self.images)


def fingerprint(data: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{data.dtype} {tuple(data.shape)}\n".encode())
    digest.update(data.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def with_rotations(images: Tensor) -> Tensor:
    """Quarter turns as new classes: (classes, ...) to (4 * classes, ...).

    Class ``4 * c + r`` is class ``c`` turned counter-clockwise by ``r`` quarter turns, images being
    (..., height, width) with height = width. Santoro et al. 2016, arXiv:1605.06065, section 4.1.
    """
    turned = torch.stack([torch.rot90(images, r, (-2, -1)) for r in range(4)], dim=1)  # (classes, 4, ...)
    return turned.flatten(0, 1)  # (4 * classes, ...)


@dataclass(frozen=True)
class DatasetStatus:
    """Status of a data set that has not been built."""

    name: str
    sources: tuple[Path, ...]  # archives or folders that it would be read from; empty if there are none
    cache: Path  # file of the decoded images; its name is a pattern with * if there is one file for each split
    cached: bool  # whether it exists and is whole
    classes: dict[str, int] | None  # by split, before rotation; None while unknown
    per_class: int  # images of each class
    fingerprint: str | None  # of all images, unrotated; None if not cached
    obtain: str | None = None  # how to obtain the data; None if it is downloaded or generated on request


def check_split(split: str) -> None:
    """Raise ValueError unless ``split`` is one of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")

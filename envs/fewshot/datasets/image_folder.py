"""Data sets of your own: folders of images, a folder for each class, under ``train``, ``val`` and ``test``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from envs.fewshot.datasets.base import SPLITS, DatasetStatus, ImageClasses, check_split
from envs.fewshot.datasets.storage import DataError, missing_package

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ImageFolder:
    """Images in ``root/SPLIT/CLASS/NAME.png`` or ``.jpg``, read anew by every run.

    Classes have as many images as the smallest of their split: the first by name.

    Args:
        name: name of the data set.
        root: the folder.
        size: images are scaled to this height and width.
        channels: 1: grey, 3: red, green, blue.
        invert: of dark drawings on white: ink becomes 255 and paper 0, as elsewhere in the suite.
    """

    name: str
    root: Path
    size: int = 28
    channels: int = 1
    invert: bool = False

    def load(self, split: str) -> ImageClasses:
        """The images of a split.

        Raises:
            ValueError: for an unknown split.
            DataError: if there are none, fewer than two of a class, or one cannot be read.
        """
        check_split(split)
        files = self._files(split)
        fewest = min(files, key=lambda label: len(files[label]))
        if len(files[fewest]) < 2:
            raise DataError(
                f"{self.root / split / fewest} needs at least 2 images, .png or .jpg, to learn from and test"
            )
        per_class = len(files[fewest])
        images = torch.stack([torch.stack([self._read(p) for p in paths[:per_class]]) for paths in files.values()])
        return ImageClasses(images, self.name, split)

    def status(self) -> DatasetStatus:
        """Where it is and what it holds."""
        found = {split: self._files(split) for split in SPLITS if (self.root / split).is_dir()}
        sizes = [len(paths) for files in found.values() for paths in files.values()]
        return DatasetStatus(
            name=self.name,
            sources=(self.root,) if found else (),
            cache=self.root,
            cached=bool(found),
            classes={split: len(files) for split, files in found.items()} or None,
            per_class=min(sizes, default=0),
            fingerprint=None,
            obtain=f"put images into {self.root}/train/CLASS/, val/CLASS/ and test/CLASS/",
        )

    def _files(self, split: str) -> dict[str, list[Path]]:
        """The images of each class, in the order of names."""
        folder = self.root / split
        classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if not classes:
            raise DataError(f"there are no classes in {folder}; put each into a folder of its own there")
        return {
            path.name: sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) for path in classes
        }

    def _read(self, path: Path) -> Tensor:
        """An image as uint8 (channels, size, size)."""
        try:
            from PIL import Image
        except ImportError as e:
            raise missing_package("pillow") from e
        try:
            with Image.open(path, formats=["PNG", "JPEG"]) as image:
                scaled = image.convert("L" if self.channels == 1 else "RGB").resize((self.size, self.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
            raise DataError(f"cannot read {path} ({e}); remove or replace it") from e
        x = torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8)
        x = x.view(self.size, self.size, self.channels).permute(2, 0, 1).contiguous()
        return 255 - x if self.invert else x

"""Few-shot classification episodes: labelled classes of images, and the sampler of N-way K-shot tasks.

An episode draws ``ways`` classes, gives them the labels 0 ... ways-1 at random, shows ``shots`` labelled
examples of each (the support) and asks for the labels of further ones (the queries). Vinyals et al. 2016,
"Matching Networks for One Shot Learning", arXiv:1606.04080, section 4.1.

Letters of the shapes: B episodes, N ways, S = ways * shots support items, Q queries, X the shape of one item.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Episodes:
    """A batch of few-shot tasks.

    The support is in random order, and so are the queries. Labels are int64 in 0 ... ways-1.
    """

    support_x: Tensor  # (B, S, *X)
    support_y: Tensor  # (B, S)
    query_x: Tensor  # (B, Q, *X)
    query_y: Tensor  # (B, Q)

    def to(self, device: torch.device | str) -> "Episodes":
        """The same episodes on another device."""
        return Episodes(
            self.support_x.to(device),
            self.support_y.to(device),
            self.query_x.to(device),
            self.query_y.to(device),
        )


@dataclass(frozen=True)
class EpisodeIndices:
    """A batch of few-shot tasks as positions in the data: small to keep, and easy to hash.

    An index is ``class * per_class + example``; all four tensors are int64.
    """

    support: Tensor  # (B, S)
    support_y: Tensor  # (B, S)
    query: Tensor  # (B, Q)
    query_y: Tensor  # (B, Q)


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


def distinct_integers(rows: int, count: int, population: int, generator: torch.Generator) -> Tensor:
    """Rows of ``count`` distinct integers below ``population``, every ordered row equally likely.

    Returns int64 (rows, count) on the generator's device; ``count`` = ``population`` gives permutations.
    """
    device = generator.device
    if count * count > population or device.type != "cpu":
        # Positions of the largest of independent keys; in float64, as equal keys would favour some positions.
        # On other devices always: to ask whether a draw repeats itself would make the host wait.
        keys = torch.rand(rows, population, dtype=torch.float64, device=device, generator=generator)
        return keys.topk(count, dim=1).indices  # (rows, count)
    # Few out of many: draw with replacement, then redraw the rows with a repetition (two in five at most).
    drawn = torch.randint(population, (rows, count), device=device, generator=generator)  # (rows, count)
    while True:
        ordered = drawn.sort(dim=1).values
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[:, 0]  # (rows to redraw,)
        if not len(repeated):
            return drawn
        drawn[repeated] = torch.randint(population, (len(repeated), count), device=device, generator=generator)


class EpisodeSampler:
    """Draws N-way K-shot episodes from examples that are sorted by class.

    ``data``: (classes, per_class, *X) of any type: images, or embeddings computed beforehand.
    ``ways``: classes in an episode, drawn without replacement; the order drawn gives the labels.
    ``queries``: queries in an episode, all classes together. They are drawn without replacement from a pool
    of ceil(queries / ways) further examples of each class, none of them in the support. So one query is of a
    uniformly random class (the setting of SNAIL, Mishra et al. 2018, arXiv:1707.03141, section 5.1), and a
    multiple of ``ways`` asks equally often for each class.

    Raises ValueError for arguments that the data cannot satisfy.
    """

    def __init__(self, data: Tensor, ways: int, queries: int):
        if data.ndim < 2:
            raise ValueError(f"data must have shape (classes, per_class, ...), got {tuple(data.shape)}")
        self.classes, self.per_class = data.shape[:2]
        if not 2 <= ways <= self.classes:
            raise ValueError(f"ways must be between 2 and {self.classes}, the number of classes, got {ways}")
        if not 1 <= queries <= ways * (self.per_class - 1):
            raise ValueError(f"queries must be between 1 and {ways * (self.per_class - 1)}, got {queries}")
        self.ways = ways
        self.queries = queries
        self.pool_per_class = -(-queries // ways)  # ceil(queries / ways)
        self.max_shots = self.per_class - self.pool_per_class
        self._items = data.flatten(0, 1)  # (classes * per_class, *X)

    def sample_indices(self, batch_size: int, shots: int, generator: torch.Generator) -> EpisodeIndices:
        """Draw ``batch_size`` episodes as positions in the data; the generator alone decides which.

        They are drawn on the generator's device, whose kind decides its numbers: a generator on the CPU draws
        the same tasks for data on any device.
        Raises ValueError if ``batch_size`` or ``shots`` is out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 1 <= shots <= self.max_shots:
            raise ValueError(f"shots must be between 1 and {self.max_shots}, got {shots}")
        B, N, pool = batch_size, self.ways, self.pool_per_class
        classes = distinct_integers(B, N, self.classes, generator)  # (B, N)
        examples = distinct_integers(B * N, shots + pool, self.per_class, generator).view(B, N, -1)  # (B, N, K+pool)
        items = classes[:, :, None] * self.per_class + examples  # (B, N, K+pool)
        labels = torch.arange(N, device=items.device)[None, :, None].expand_as(items)  # (B, N, K+pool)

        support_order = distinct_integers(B, N * shots, N * shots, generator)  # (B, S)
        query_order = distinct_integers(B, self.queries, N * pool, generator)  # (B, Q)
        return EpisodeIndices(
            items[:, :, :shots].flatten(1).gather(1, support_order),
            labels[:, :, :shots].flatten(1).gather(1, support_order),
            items[:, :, shots:].flatten(1).gather(1, query_order),
            labels[:, :, shots:].flatten(1).gather(1, query_order),
        )

    def gather(self, indices: EpisodeIndices) -> Episodes:
        """The episodes at these positions of the data, on its device and of its type."""
        device = self._items.device
        return Episodes(
            self._items[indices.support.to(device)],  # (B, S, *X)
            indices.support_y.to(device),  # (B, S)
            self._items[indices.query.to(device)],  # (B, Q, *X)
            indices.query_y.to(device),  # (B, Q)
        )

    def sample(self, batch_size: int, shots: int, generator: torch.Generator) -> Episodes:
        """Draw ``batch_size`` episodes of ``shots`` examples per class; the same seed, the same episodes.

        Raises ValueError as ``sample_indices`` does.
        """
        return self.gather(self.sample_indices(batch_size, shots, generator))


def task_set_hash(data_fingerprint: str, batches: Iterable[EpisodeIndices]) -> str:
    """Name a fixed set of tasks: 16 hexadecimal digits of a SHA-256 over the data, the items and the labels.

    ``data_fingerprint`` is that of the data which the indices point into (``ImageClasses.fingerprint``). The
    same episodes in the same order have the same hash, however they are cut into batches.
    """
    digest = hashlib.sha256(data_fingerprint.encode())
    for batch in batches:
        # Each row carries the sizes, so that support and queries cannot be mistaken for one another.
        sizes = torch.tensor([batch.support.shape[1], batch.query.shape[1]]).expand(len(batch.support), 2)
        parts = (batch.support, batch.support_y, batch.query, batch.query_y)
        rows = torch.cat([sizes, *(part.cpu() for part in parts)], dim=1)  # (B, 2 + 2S + 2Q)
        digest.update(rows.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class DatasetStatus:
    """What is known of a data set without building it."""

    name: str
    sources: tuple[Path, ...]  # archives or folders that it would be read from; empty if there are none
    cache: Path  # file of the decoded images; its name is a pattern with * if there is one file for each split
    cached: bool  # whether it exists and is whole
    classes: dict[str, int] | None  # by split, before rotation; None while unknown
    per_class: int  # images of each class
    fingerprint: str | None  # of all images, unrotated; None if not cached
    obtain: str | None = None  # how a person gets the data; None if it is fetched or made on request


def check_split(split: str) -> None:
    """Raise ValueError unless ``split`` is one of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


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
    from envs.omniglot import load_omniglot, omniglot_status

    def load(split: str, root: str | Path | None, download: bool, rotations: bool | None) -> ImageClasses:
        return load_omniglot(split, root=root, rotations=rotations, download=download)

    return load, omniglot_status


def _glyphs() -> tuple[_Loader, _Status]:
    from envs.glyphs import glyphs_status, load_glyphs

    def load(split: str, root: str | Path | None, download: bool, rotations: bool | None) -> ImageClasses:
        return load_glyphs(split, rotations=rotations)  # made here: no root to search, nothing to download

    return load, lambda root: glyphs_status()


def _mini_imagenet() -> tuple[_Loader, _Status]:
    from envs.mini_imagenet import load_mini_imagenet, mini_imagenet_status

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

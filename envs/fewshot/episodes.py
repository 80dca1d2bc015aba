"""Few-shot classification episodes: labelled classes of images, and the sampler of N-way K-shot tasks.

An episode draws ``ways`` classes, gives them the labels 0 ... ways-1 at random, shows ``shots`` labelled
examples of each (the support) and asks for the labels of further ones (the queries). Vinyals et al. 2016,
"Matching Networks for One Shot Learning", arXiv:1606.04080, section 4.1.

Letters of the shapes: B episodes, N ways, S = ways * shots support items, Q queries, X the shape of one item.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Episodes:
    """A batch of few-shot tasks.

    The support is in random order, and so are the queries. Labels are int64 in 0 ... ways-1. An item is an image, its
    embedding, or its position in the data, ``class * per_class + example`` in int64: small to keep, and easy to hash.
    """

    support_x: Tensor  # (B, S, *X)
    support_y: Tensor  # (B, S)
    query_x: Tensor  # (B, Q, *X)
    query_y: Tensor  # (B, Q)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The learner's inputs: support items, their labels, queries."""
        return self.support_x, self.support_y, self.query_x

    def joined(self, others: "Episodes") -> "Episodes":
        """These and other episodes of as many items."""
        return Episodes(
            torch.cat([self.support_x, others.support_x]),
            torch.cat([self.support_y, others.support_y]),
            torch.cat([self.query_x, others.query_x]),
            torch.cat([self.query_y, others.query_y]),
        )

    def to(self, device: torch.device | str) -> "Episodes":
        """The same episodes on another device."""
        return Episodes(
            self.support_x.to(device),
            self.support_y.to(device),
            self.query_x.to(device),
            self.query_y.to(device),
        )


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

    def sample_indices(self, batch_size: int, shots: int, generator: torch.Generator) -> Episodes:
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
        return Episodes(
            items[:, :, :shots].flatten(1).gather(1, support_order),
            labels[:, :, :shots].flatten(1).gather(1, support_order),
            items[:, :, shots:].flatten(1).gather(1, query_order),
            labels[:, :, shots:].flatten(1).gather(1, query_order),
        )

    def gather(self, indices: Episodes) -> Episodes:
        """The episodes at these positions of the data, on its device and of its type."""
        device = self._items.device
        return Episodes(
            self._items[indices.support_x.to(device)],  # (B, S, *X)
            indices.support_y.to(device),  # (B, S)
            self._items[indices.query_x.to(device)],  # (B, Q, *X)
            indices.query_y.to(device),  # (B, Q)
        )

    def sample(self, batch_size: int, shots: int, generator: torch.Generator) -> Episodes:
        """Draw ``batch_size`` episodes of ``shots`` examples per class; the same seed, the same episodes.

        Raises ValueError as ``sample_indices`` does.
        """
        return self.gather(self.sample_indices(batch_size, shots, generator))


def recombined(labels: Tensor, ways: int, queries: int, shots: int, count: int, generator: torch.Generator) -> Episodes:
    """Episodes of the images of a batch: of classes from several of its episodes, with other supports and queries.

    A class that occurs in two episodes of the batch counts as two.

    ``labels``: (B, I) labels of all images of B episodes, each label equally often.
    ``count``: episodes to draw. Their items are positions in the B * I images.
    """
    B, images = labels.shape
    order = labels.argsort(dim=1, stable=True)  # (B, I) by class
    positions = order + images * torch.arange(B, device=labels.device)[:, None]  # (B, I) in the batch
    by_class = positions.view(B * ways, images // ways)
    return EpisodeSampler(by_class, ways, queries).sample(count, shots, generator)


def task_set_hash(data_fingerprint: str, batches: Iterable[Episodes]) -> str:
    """Name a fixed set of tasks: 16 hexadecimal digits of a SHA-256 over the data, the items and the labels.

    ``data_fingerprint`` is that of the data which the indices point into (``ImageClasses.fingerprint``). The
    same episodes in the same order have the same hash, however they are cut into batches.
    """
    digest = hashlib.sha256(data_fingerprint.encode())
    for batch in batches:
        # Each row carries the sizes, so that support and queries cannot be mistaken for one another.
        sizes = torch.tensor([batch.support_x.shape[1], batch.query_x.shape[1]]).expand(len(batch.support_x), 2)
        parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
        rows = torch.cat([sizes, *(part.cpu() for part in parts)], dim=1)  # (B, 2 + 2S + 2Q)
        digest.update(rows.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]

"""Few-shot classification as sequence modelling: labelled images in, the label of one more image out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.sequence import SequenceModel, at_least_float32


class FewShotEpisodes(Protocol):
    """What a learner needs of B episodes: S labelled support items and Q queries each."""

    @property
    def support_x(self) -> Tensor:
        """Support items (B, S, ...)."""

    @property
    def support_y(self) -> Tensor:
        """Their labels (B, S), integers."""

    @property
    def query_x(self) -> Tensor:
        """Queries (B, Q, ...)."""


@dataclass(frozen=True)
class EncodedEpisodes:
    """Episodes whose images have been encoded."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor


class EpisodeModel(nn.Module, ABC):
    """A few-shot learner, however it learns: episodes in, logits out."""

    def forward(self, episodes: FewShotEpisodes) -> Tensor:
        """Logits (B, Q, N) of the queries."""
        return self.predict(self.encode_episodes(episodes))

    def encode_episodes(self, episodes: FewShotEpisodes) -> EncodedEpisodes:
        """The episodes with all their images encoded, as one batch."""
        sizes = [episodes.support_x.shape[1], episodes.query_x.shape[1]]
        images = torch.cat([episodes.support_x, episodes.query_x], dim=1)  # (B, S + Q, ...)
        encoded = self.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # (B, S + Q, ...)
        support, query = encoded.split(sizes, dim=1)
        return EncodedEpisodes(support, episodes.support_y, query)

    def check_queries(self, queries: int) -> None:
        """Raise ValueError if the model cannot learn from episodes of so many queries."""

    def encode(self, images: Tensor) -> Tensor:
        """What can be computed of each image alone, and so once for many episodes: (M, ...) -> (M, ...)."""
        return images

    @abstractmethod
    def predict(self, encoded: FewShotEpisodes) -> Tensor:
        """Logits (B, Q, N) of episodes whose images have been encoded."""


def labelled(encoded: FewShotEpisodes, ways: int) -> tuple[Tensor, Tensor]:
    """Embeddings with their one-hot labels, zeros for the queries': (B, S, E + N) and (B, Q, E + N)."""
    support, query = encoded.support_x, encoded.query_x
    labels = F.one_hot(encoded.support_y, ways).to(support.dtype)  # (B, S, N)
    unlabelled = query.new_zeros(*query.shape[:2], ways)
    return torch.cat([support, labels], dim=-1), torch.cat([query, unlabelled], dim=-1)


class EmbeddingClassifier(EpisodeModel):
    """A few-shot learner that embeds each image first, alone.

    Args:
        embedding: (M, ...) images -> (M, E).
        ways: classes N in an episode.
    """

    def __init__(self, embedding: nn.Module, ways: int):
        super().__init__()
        self.embedding, self.ways = embedding, ways

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings: (M, ...) -> (M, E)."""
        return self.embedding(images)


class SequenceClassifier(EmbeddingClassifier):
    """Episodes to logits with any sequence model (Mishra et al. 2018, section 4).

    Each step of the sequence is an image embedding and its one-hot label, the query's label being zeros. The support
    images are embedded and processed once, and all Q queries branch off from there.

    Args:
        embedding: (M, ...) images -> (M, E).
        model: reads E + ways channels and writes ``ways`` logits.
        ways: classes N in an episode.
    """

    def __init__(self, embedding: nn.Module, model: SequenceModel, ways: int):
        super().__init__(embedding, ways)
        self.model = model

    def predict(self, encoded: FewShotEpisodes) -> Tensor:
        """Embeddings (B, S, E), labels (B, S), embeddings (B, Q, E) -> logits (B, Q, N)."""
        past, queries = labelled(encoded, self.ways)
        _, cache = self.model.prefill(past, max_len=past.shape[1])
        return at_least_float32(self.model.branch(queries, cache))  # (B, Q, N)

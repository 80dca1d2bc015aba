"""Few-shot classification as sequence modelling: from labelled images to the label of another image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.sequence import SequenceModel, at_least_float32


class EpisodeModel(nn.Module, ABC):
    """Interface of few-shot learners: B episodes of S labelled support images and Q queries -> logits."""

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Support images (B, S, ...), labels (B, S) integers, queries (B, Q, ...) -> logits (B, Q, N)."""
        support, queries = self.encode_episodes(support, queries)
        return self.predict(support, labels, queries)

    def encode_episodes(self, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Encode all images as one batch: (B, S, ...), (B, Q, ...) -> (B, S, ...), (B, Q, ...)."""
        images = torch.cat([support, queries], dim=1)  # (B, S + Q, ...)
        encoded = self.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # (B, S + Q, ...)
        support, queries = encoded.split([support.shape[1], queries.shape[1]], dim=1)
        return support, queries

    def check_queries(self, queries: int) -> None:
        """Raise ValueError if the model cannot be trained with this number of queries."""

    def encode(self, images: Tensor) -> Tensor:
        """The part that is computed per image, hence once for many episodes: (M, ...) -> (M, ...)."""
        return images

    @abstractmethod
    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Encoded support (B, S, ...), labels (B, S), encoded queries (B, Q, ...) -> logits (B, Q, N)."""


def with_labels(support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """Embeddings with their one-hot labels, zeros for the queries'.

    (B, S, E), (B, S) integers below N, (B, Q, E) -> (B, S, E + N), (B, Q, E + N).
    """
    one_hot = F.one_hot(labels, ways).to(support.dtype)  # (B, S, N)
    unlabelled = queries.new_zeros(*queries.shape[:2], ways)
    return torch.cat([support, one_hot], dim=-1), torch.cat([queries, unlabelled], dim=-1)


class EmbeddingClassifier(EpisodeModel):
    """A few-shot learner that first embeds each image separately.

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
    """Few-shot classification with any sequence model (Mishra et al. 2018, section 4).

    Each step of the sequence is an image embedding with its one-hot label, zeros for queries. The support
    is processed once, and all Q queries branch off from it.

    Args:
        embedding: (M, ...) images -> (M, E).
        model: reads E + ways channels and writes ``ways`` logits.
        ways: classes N in an episode.
    """

    def __init__(self, embedding: nn.Module, model: SequenceModel, ways: int):
        super().__init__(embedding, ways)
        self.model = model

    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Embeddings (B, S, E), labels (B, S), embeddings (B, Q, E) -> logits (B, Q, N)."""
        past, queries = with_labels(support, labels, queries, self.ways)
        _, cache = self.model.prefill(past, max_len=past.shape[1])
        return at_least_float32(self.model.branch(queries, cache))  # (B, Q, N)


class PretrainedClassifier(EpisodeModel):
    """A few-shot learner that reads the features of a network which is not trained any further.

    Args:
        features: (M, ...) images -> (M, F), trained before; it stays in evaluation mode and gets no gradient.
        head: classifies episodes of features.
    """

    def __init__(self, features: nn.Module, head: EpisodeModel):
        super().__init__()
        self.features, self.head = features.requires_grad_(False), head
        self.features.eval()

    def train(self, mode: bool = True) -> PretrainedClassifier:
        """Put the head into training or evaluation mode."""
        super().train(mode)
        self.features.eval()
        return self

    def check_queries(self, queries: int) -> None:
        """Raise ValueError if the head cannot be trained with this number of queries."""
        self.head.check_queries(queries)

    def encode(self, images: Tensor) -> Tensor:
        """Features: (M, ...) -> (M, F), in float32 also under autocast."""
        return at_least_float32(self.features(images))

    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Features (B, S, F), labels (B, S), features (B, Q, F) -> logits (B, Q, N)."""
        return self.head(support, labels, queries)

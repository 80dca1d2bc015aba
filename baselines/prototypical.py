"""Prototypical networks: the class whose mean embedding is nearest (Snell, Swersky, Zemel 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from snail.classifier import EmbeddingClassifier
from snail.sequence import at_least_float32


def prototypes(support: Tensor, labels: Tensor, ways: int) -> Tensor:
    """The mean embedding of each class: (B, S, E), (B, S) integers below N -> (B, N, E).

    Snell et al., "Prototypical Networks for Few-shot Learning", arXiv:1703.05175, equation 1.
    """
    members = F.one_hot(labels, ways).to(support.dtype)  # (B, S, N)
    return members.transpose(1, 2) @ support / members.sum(1)[..., None]  # (B, N, E)


def prototypical_logits(support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
    """Minus the squared Euclidean distances of the queries to the prototypes, their equation 2.

    Embeddings (B, S, E), labels (B, S), embeddings (B, Q, E) -> logits (B, Q, N).
    """
    support, queries = at_least_float32(support), at_least_float32(queries)  # distances are differences: no rounding
    with torch.autocast(queries.device.type, enabled=False):
        centres = prototypes(support, labels, ways)  # (B, N, E)
        return -(queries[:, :, None] - centres[:, None]).square().sum(-1)  # (B, Q, N)


def pooled_prototypical_logits(support: Tensor, labels: Tensor, queries: Tensor, classes: Tensor, ways: int) -> Tensor:
    """Logits (B Q, B N) of the queries of B episodes as if these were one, of B N ways.

    Embeddings improve with more ways (Snell et al. 2017, section 3.1), and those of the other episodes are available
    anyway. A class that occurs in several episodes does not compete with itself: its queries see it in their own
    episode only, and minus infinity elsewhere.

    Args:
        support: embeddings (B, S, E).
        labels: (B, S) of these.
        queries: embeddings (B, Q, E).
        classes: (B, S + Q) indices of the images' classes in the data set.
        ways: classes N in an episode.
    """
    support, queries = at_least_float32(support), at_least_float32(queries)
    of_support, of_query = classes.split([support.shape[1], queries.shape[1]], dim=1)
    with torch.autocast(queries.device.type, enabled=False):
        centres = prototypes(support, labels, ways).flatten(0, 1)  # (B N, E)
        q = queries.flatten(0, 1)  # (B Q, E)
        squares = q.square().sum(-1, keepdim=True) + centres.square().sum(-1)  # (B Q, B N)
        logits = 2 * q @ centres.T - squares
    of_way = classes.new_zeros(len(classes), ways).scatter(1, labels, of_support)  # (B, N)
    same = of_query.flatten()[:, None] == of_way.flatten()  # (B Q, B N)
    episode = torch.arange(len(classes), device=classes.device)
    own = episode.repeat_interleave(queries.shape[1])[:, None] == episode.repeat_interleave(ways)  # (B Q, B N)
    return logits.masked_fill(same & ~own, float("-inf"))


class PrototypicalNetwork(EmbeddingClassifier):
    """Classifies by the nearest prototype; only the embedding is learned."""

    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Embeddings (B, S, E), labels (B, S), embeddings (B, Q, E) -> logits (B, Q, N)."""
        return prototypical_logits(support, labels, queries, self.ways)

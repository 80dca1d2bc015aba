"""Prototypical networks: the class whose mean embedding is nearest (Snell, Swersky, Zemel 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.classifier import EpisodeModel, FewShotEpisodes


def prototypes(support: Tensor, labels: Tensor, ways: int) -> Tensor:
    """The mean embedding of each class: (B, S, E), (B, S) integers below N -> (B, N, E).

    Snell et al., "Prototypical Networks for Few-shot Learning", arXiv:1703.05175, equation 1.
    """
    members = F.one_hot(labels, ways).to(support.dtype)  # (B, S, N)
    return members.transpose(1, 2) @ support / members.sum(1)[..., None]  # (B, N, E)


def prototypical_logits(encoded: FewShotEpisodes, ways: int) -> Tensor:
    """Minus the squared Euclidean distances of the queries to the prototypes: logits (B, Q, N), their equation 2.

    The episodes hold embeddings, (B, S, E) and (B, Q, E).
    """
    support, query = encoded.support_x.float(), encoded.query_x.float()  # distances are differences: no rounding
    with torch.autocast(query.device.type, enabled=False):
        centres = prototypes(support, encoded.support_y, ways)  # (B, N, E)
        return -(query[:, :, None] - centres[:, None]).square().sum(-1)  # (B, Q, N)


class PrototypicalNetwork(EpisodeModel):
    """Classifies by the nearest prototype. There is nothing to learn but the embedding.

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

    def predict(self, encoded: FewShotEpisodes) -> Tensor:
        """Logits (B, Q, N) of episodes whose images have been encoded."""
        return prototypical_logits(encoded, self.ways)

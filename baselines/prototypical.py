"""Prototypical networks: the class whose mean embedding is nearest (Snell, Swersky, Zemel 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from snail.classifier import EmbeddingClassifier, FewShotEpisodes
from snail.sequence import at_least_float32


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
    # distances are differences: no rounding
    support, query = at_least_float32(encoded.support_x), at_least_float32(encoded.query_x)
    with torch.autocast(query.device.type, enabled=False):
        centres = prototypes(support, encoded.support_y, ways)  # (B, N, E)
        return -(query[:, :, None] - centres[:, None]).square().sum(-1)  # (B, Q, N)


def pooled_prototypical_logits(encoded: FewShotEpisodes, classes: Tensor, ways: int) -> Tensor:
    """Logits (B Q, B N) of the queries of B episodes as if these were one, of B N ways.

    Embeddings get better with more ways (Snell et al. 2017, section 3.1), and those of the other episodes are there
    anyway. A class that several episodes have is told apart from none of its own: its queries see it in their own
    episode alone, and minus infinity elsewhere.

    Args:
        encoded: embeddings (B, S, E) and (B, Q, E).
        classes: (B, S + Q) which of all classes the images are of.
        ways: classes N in an episode.
    """
    support, query = at_least_float32(encoded.support_x), at_least_float32(encoded.query_x)
    of_support, of_query = classes.split([support.shape[1], query.shape[1]], dim=1)
    with torch.autocast(query.device.type, enabled=False):
        centres = prototypes(support, encoded.support_y, ways).flatten(0, 1)  # (B N, E)
        q = query.flatten(0, 1)  # (B Q, E)
        squares = q.square().sum(-1, keepdim=True) + centres.square().sum(-1)  # (B Q, B N)
        logits = 2 * q @ centres.T - squares
    of_way = classes.new_zeros(len(classes), ways).scatter(1, encoded.support_y, of_support)  # (B, N)
    same = of_query.flatten()[:, None] == of_way.flatten()  # (B Q, B N)
    episode = torch.arange(len(classes), device=classes.device)
    own = episode.repeat_interleave(query.shape[1])[:, None] == episode.repeat_interleave(ways)  # (B Q, B N)
    return logits.masked_fill(same & ~own, float("-inf"))


class PrototypicalNetwork(EmbeddingClassifier):
    """Classifies by the nearest prototype. There is nothing to learn but the embedding."""

    def predict(self, encoded: FewShotEpisodes) -> Tensor:
        """Logits (B, Q, N) of episodes whose images have been encoded."""
        return prototypical_logits(encoded, self.ways)

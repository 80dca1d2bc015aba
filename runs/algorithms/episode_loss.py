"""The loss of a batch of few-shot episodes: cross-entropy of the queries, and auxiliary losses of the embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.prototypical import pooled_prototypical_logits, prototypical_logits
from envs.fewshot.episodes import Episodes
from runs.system.distributed.process_group import ProcessGroup
from snail.attention.selection import recording, score_function_loss
from snail.classifier import EpisodeModel


@dataclass(frozen=True)
class EpisodeBatch:
    """What one update learns from.

    episodes: B episodes of images, or of features that were computed once.
    classes: (B, S + Q) the classes of their images, among all training classes.
    recombined: R further episodes, of positions among these B * (S + Q) images; None: none.
    """

    episodes: Episodes
    classes: Tensor
    recombined: Episodes | None


class EpisodeLoss:
    """The sum of the losses of a batch.

    Args:
        model: the classifier that is trained.
        ways: classes in an episode.
        class_head: classifies embeddings into all training classes.
        class_weight: weight of the cross-entropy of that classification; 0: none.
        prototype_weight: weight of the prototypical loss; 0: none.
        pooled: whether its candidates are the classes of all episodes of the batch, instead of the query's episode.
        group: the processes that share the batch.
    """

    def __init__(
        self,
        model: EpisodeModel,
        ways: int,
        class_head: nn.Module,
        class_weight: float,
        prototype_weight: float,
        pooled: bool,
        group: ProcessGroup,
    ):
        self.model, self.ways, self.class_head, self.group = model, ways, class_head, group
        self.class_weight, self.prototype_weight, self.pooled = class_weight, prototype_weight, pooled

    def __call__(self, batch: EpisodeBatch, bfloat16: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and scalars to log; the model computes with bfloat16 autocast if asked to, the losses in float32."""
        episodes, classes, again = batch.episodes, batch.classes, batch.recombined
        count = len(episodes.query_y)
        with torch.autocast(classes.device.type, torch.bfloat16, enabled=bfloat16), recording() as tape:
            support, queries = self.model.encode_episodes(episodes.support_x, episodes.query_x)
            encoded = read = replace(episodes, support_x=support, query_x=queries)
            if again is not None:
                items = torch.cat([support, queries], dim=1).flatten(0, 1)  # (B * (S + Q), E)
                read = encoded.joined(replace(again, support_x=items[again.support_x], query_x=items[again.query_x]))
            logits = self.model.predict(*read.inputs)  # (B + R, Q, N)
        cost = F.cross_entropy(logits.transpose(1, 2), read.query_y, reduction="none")  # (B + R, Q)
        if again is not None:
            cost = cost.masked_fill(F.pad(_ambiguous(again, classes.flatten()), (count, 0))[:, None], 0.0)
        total = cost.mean() + score_function_loss(tape, cost)
        if self.class_weight:
            embedded = torch.cat([support, queries], dim=1)  # (B, S + Q, E)
            class_logits = self.class_head(embedded.float())  # (B, S + Q, classes)
            total = total + self.class_weight * F.cross_entropy(class_logits.flatten(0, 1), classes.flatten())
        if self.prototype_weight:
            total = total + self.prototype_weight * self._prototype_loss(encoded, classes)
        accuracy = (logits[:count].detach().argmax(-1) == episodes.query_y).float().mean()
        return total, {"loss": cost[:count].detach().mean(), "train_accuracy": accuracy}

    def _prototype_loss(self, embedded: Episodes, classes: Tensor) -> Tensor:
        """Prototypical loss of the queries; ``classes`` (B, S + Q) are the classes of the images."""
        query_y = embedded.query_y
        if not self.pooled:
            return F.cross_entropy(prototypical_logits(*embedded.inputs, self.ways).flatten(0, 1), query_y.flatten())
        support, labels, queries = map(
            self.group.gather, (embedded.support_x.float(), embedded.support_y, embedded.query_x.float())
        )
        query_y, classes = self.group.gather(query_y), self.group.gather(classes)
        logits = pooled_prototypical_logits(support, labels, queries, classes, self.ways)
        first = torch.arange(len(query_y), device=query_y.device)[:, None] * self.ways  # of an episode, among all
        return F.cross_entropy(logits, (first + query_y).flatten())


def _ambiguous(again: Episodes, classes: Tensor) -> Tensor:
    """Whether a class has two labels, having been drawn for two episodes of the batch: (R,) bool.

    ``again`` are recombined episodes of positions in a batch of images of these ``classes`` (B * I,).
    """
    found, label = classes[again.support_x], again.support_y  # (R, S)
    same = found[:, :, None] == found[:, None, :]  # (R, S, S)
    return (same & (label[:, :, None] != label[:, None, :])).any(2).any(1)

"""What a trained model attends to on one task: what learners show, and pictures and pages are made from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EpisodeAttention:
    """One few-shot episode, seen by a classifier. The support is in the order of its labels.

    support: (S, C, height, width) uint8; support_y: (S,).
    query: (Q, C, height, width) uint8; query_y and predicted: (Q,).
    layers: (H, Q, S) each, how much a query looks at each item of the support; what is missing to 1 it looks at itself.
    glimpses: (S + Q, h, w) each, where an embedding that glimpses looks in each image, the support's first.
    """

    support: Tensor
    support_y: Tensor
    query: Tensor
    query_y: Tensor
    predicted: Tensor
    layers: tuple[Tensor, ...]
    glimpses: tuple[Tensor, ...]


@dataclass(frozen=True)
class TrialAttention:
    """One trial, played by a policy.

    actions: (T,) integers, or (T, D) numbers; rewards: (T,).
    layers: (H, T, T) each, how much step t (row) looks at what the agent was told at step s (column), which is of the
        action before it: column s is about action s - 1.
    """

    actions: Tensor
    rewards: Tensor
    layers: tuple[Tensor, ...]


AttentionMaps = EpisodeAttention | TrialAttention

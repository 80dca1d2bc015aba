"""Attention maps of a trained model on one task, for pictures and pages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EpisodeAttention:
    """Attention maps of a classifier on one few-shot episode. The support is sorted by label.

    support: (S, C, height, width) uint8; support_y: (S,).
    query: (Q, C, height, width) uint8; query_y and predicted: (Q,).
    layers: (H, Q, S) each, attention of queries to support items; the remainder to 1 is attention to itself.
    glimpses: (S + Q, h, w) each, weights of a glimpse at each image, support images first.
    """

    support: Tensor
    support_y: Tensor
    query: Tensor
    query_y: Tensor
    predicted: Tensor
    layers: tuple[Tensor, ...]
    glimpses: tuple[Tensor, ...]


@dataclass(frozen=True)
class PlayedTrial:
    """Attention maps of a policy in one trial.

    task: (...) as in `envs.trials.TrialVectorEnv.tasks`.
    observations: (T,) integers, or (T, D) encoded numbers.
    actions: (T,) integers, or (T, D) numbers; rewards: (T,).
    ended: (T,) whether an episode ended with the step.
    parameters: (T, P) parameters of the policy's distributions.
    layers: (H, T, T) each, attention of step t (row) to the input of step s (column), which tells the outcome of the
        previous action: column s is about action s - 1.
    """

    task: Tensor
    observations: Tensor
    actions: Tensor
    rewards: Tensor
    ended: Tensor
    parameters: Tensor
    layers: tuple[Tensor, ...]


AttentionMaps = EpisodeAttention | PlayedTrial

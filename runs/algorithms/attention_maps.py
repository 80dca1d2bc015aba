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
class PlayedTrial:
    """One trial, played by a policy.

    task: (...) as in `envs.trials.TrialVectorEnv.tasks`.
    observations: (T,) integers, or (T, D) numbers as they are encoded.
    actions: (T,) integers, or (T, D) numbers; rewards: (T,).
    ended: (T,) whether an episode ended with the step.
    parameters: (T, P) of the policy's distributions.
    layers: (H, T, T) each, how much step t (row) looks at what the agent was told at step s (column), which is of the
        action before it: column s is about action s - 1.
    """

    task: Tensor
    observations: Tensor
    actions: Tensor
    rewards: Tensor
    ended: Tensor
    parameters: Tensor
    layers: tuple[Tensor, ...]


AttentionMaps = EpisodeAttention | PlayedTrial

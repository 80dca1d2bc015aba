"""Attention weights from scores, soft or hard, and a tape that records them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from snail.sequence import at_least_float32

Selection = Literal["soft", "hard", "gumbel"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


@dataclass(frozen=True)
class Choice:
    """Random choices of hard attention.

    log_prob: (B, T) log-probability of the choices of all heads, with gradient.
    alternatives: whether the T steps are alternative next steps, which affect only themselves, rather than
        successive steps, which affect everything after them.
    """

    log_prob: Tensor
    alternatives: bool


@dataclass(frozen=True)
class Tape:
    """A record of the attention computed while the tape ran, in order.

    choices: the random choices of hard attention in training.
    weights: (B, H, T, S) of every attention, if requested.
    """

    wants_weights: bool = False
    choices: list[Choice] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


_running: ContextVar[Tape | None] = ContextVar("tape", default=None)


@contextmanager
def recording(weights: bool = False) -> Iterator[Tape]:
    """Record all attention inside the ``with``, on request including its ``weights``."""
    tape = Tape(weights)
    token = _running.set(tape)
    try:
        yield tape
    finally:
        _running.reset(token)


def weights_wanted() -> bool:
    """Whether a running tape records weights."""
    tape = _running.get()
    return tape is not None and tape.wants_weights


def record_weights(weights: Tensor) -> None:
    """Record weights (B, H, T, S) if a running tape asks for them."""
    if (tape := _running.get()) is not None and tape.wants_weights:
        tape.weights.append(weights.detach())


def select(logits: Tensor, how: Selection, random: bool, alternatives: bool = False) -> Tensor:
    """Weights (B, H, T, S) from logits (B, H, T, S), which are minus infinity at masked positions.

    * soft: their softmax.
    * hard: one-hot, sampled from the softmax if ``random``, else the most probable position. No
      gradient flows to the logits; the log-probability of the draw goes on the tape, for a score-function gradient
      (Xu et al., "Show, Attend and Tell", arXiv:1502.03044, section 4.1).
    * gumbel: one-hot as well, sampled by adding Gumbel noise, with the softmax's gradient ("straight-through";
      Jang et al., "Categorical Reparameterization with Gumbel-Softmax", arXiv:1611.01144).
    """
    if how == "soft":
        return logits.softmax(-1)
    if not random:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    if how == "gumbel":
        return F.gumbel_softmax(logits, hard=True)
    log_probs = at_least_float32(logits).log_softmax(-1)  # (B, H, T, S)
    chosen = log_probs.detach().exp().flatten(0, -2).multinomial(1).view(*logits.shape[:-1], 1)  # (B, H, T, 1)
    if (tape := _running.get()) is not None:
        tape.choices.append(Choice(log_probs.gather(-1, chosen)[..., 0].sum(1), alternatives))
    return F.one_hot(chosen[..., 0], logits.shape[-1]).to(logits.dtype)


def score_function_loss(tape: Tape, cost: Tensor) -> Tensor | float:
    """A loss whose gradient is that of the expected cost with respect to hard attention's choice probabilities.

    REINFORCE (Williams 1992) with an unbiased baseline: a choice that affects one
    query is compared with the costs of the episode's other queries, which share its past; a choice
    in the past is compared with the costs of the other episodes of the batch.

    Args:
        tape: the tape of the forward pass that gave the cost.
        cost: (B, Q) of each query.

    Returns:
        A scalar; 0 if there were no random choices.
    """
    cost = cost.detach()
    episode = _over_the_others(cost.mean(1), 0)  # (B,)
    query = _over_the_others(cost, 1) if cost.shape[1] > 1 else _over_the_others(cost, 0)  # (B, Q)
    loss: Tensor | float = 0.0
    for choice in tape.choices:
        if choice.alternatives:
            loss = loss + (query * choice.log_prob).sum(1).mean() / cost.shape[1]
        else:
            loss = loss + (episode * choice.log_prob.view(len(episode), -1).sum(1)).mean()
    return loss


def _over_the_others(cost: Tensor, dim: int) -> Tensor:
    """Each cost minus the mean of the others along ``dim``; the cost itself if there are no others."""
    n = cost.shape[dim]
    return cost if n == 1 else (cost - cost.mean(dim, keepdim=True)) * n / (n - 1)

"""What attention does with its scores: mixes all values softly, or picks one; and a tape of what it did."""

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
    """What hard attention chose at random.

    log_prob: (B, T) log-probability of the choices of all heads, with its gradient.
    alternatives: whether the T steps are alternative next steps, of which each concerns itself only, rather than
        successive ones, which concern all that comes after them.
    """

    log_prob: Tensor
    alternatives: bool


@dataclass(frozen=True)
class Tape:
    """What attention did while the tape ran, in the order in which it did it.

    choices: of hard attention in training.
    weights: (B, H, T, S) of every reading, if they are wanted.
    """

    wants_weights: bool = False
    choices: list[Choice] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


_running: ContextVar[Tape | None] = ContextVar("tape", default=None)


@contextmanager
def recording(weights: bool = False) -> Iterator[Tape]:
    """A tape of all attention inside the ``with``; with its ``weights`` too, for those who want to look at them."""
    tape = Tape(weights)
    token = _running.set(tape)
    try:
        yield tape
    finally:
        _running.reset(token)


def weights_wanted() -> bool:
    """Whether a tape runs that wants the weights."""
    tape = _running.get()
    return tape is not None and tape.wants_weights


def record_weights(weights: Tensor) -> None:
    """Put weights (B, H, T, S) on the tape, if one wants them."""
    if (tape := _running.get()) is not None and tape.wants_weights:
        tape.weights.append(weights.detach())


def select(logits: Tensor, how: Selection, random: bool, alternatives: bool = False) -> Tensor:
    """Weights (B, H, T, S) from logits (B, H, T, S), minus infinity where nothing may be read.

    * soft: their softmax.
    * hard: one position, 1 for it and 0 elsewhere: drawn from the softmax if ``random``, else the likeliest. No
      gradient flows to the logits; the log-probability of the draw goes on the tape, for a score-function gradient
      (Xu et al., "Show, Attend and Tell", arXiv:1502.03044, section 4.1).
    * gumbel: one position as well, drawn by adding Gumbel noise, with the softmax's gradient ("straight-through";
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
    """A loss whose gradient is that of the expected cost for the probabilities of hard attention's choices.

    REINFORCE (Williams 1992) with a baseline that reduces its variance and leaves its mean: a choice that concerns one
    query is judged by how much that query costs more than the episode's other queries, which share its past; a choice
    in the past, by how much the episode costs more than the others of the batch.

    Args:
        tape: of the forward pass that the cost is of.
        cost: (B, Q) of each query.

    Returns:
        A scalar; 0 if nothing was chosen at random.
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
    """By how much each cost exceeds the mean of the others along ``dim``; all of it where there are none."""
    n = cost.shape[dim]
    return cost if n == 1 else (cost - cost.mean(dim, keepdim=True)) * n / (n - 1)

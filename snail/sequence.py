"""What every sequence model of the suite can do: one model, in a parallel and in a streaming form.

The alphabet of shapes: B batch, T time, C input channels, D output channels, Q queries, K key size, V value size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Clock:
    """Where the rows of a batch stand in time.

    Usually all rows are in step and ``time`` is all there is to know. After single rows were reset they stand at
    different timesteps; ``start`` then says when each row's present sequence began.

    time: steps seen so far, counted from the beginning of the cache.
    start: (B,) the value of ``time`` when each row's sequence began; None while all rows are in step.
    oldest: the smallest entry of ``start``, kept on the host so that a step never waits for the device.
    """

    time: int = 0
    start: Tensor | None = None
    oldest: int = 0

    @property
    def age(self) -> int:
        """Steps that the longest of the present sequences has seen."""
        return self.time - self.oldest

    def tick(self, steps: int = 1) -> Clock:
        """The clock ``steps`` later."""
        return replace(self, time=self.time + steps)

    def reset(self, rows: Tensor) -> Clock:
        """The clock after the rows where ``rows`` (B,) is True begin a new sequence."""
        start = torch.zeros(rows.shape, dtype=torch.long, device=rows.device) if self.start is None else self.start
        start = torch.where(rows, self.time, start)
        return Clock(self.time, start, int(start.min()))

    def positions(self) -> Tensor | int:
        """Position of the next step in each row's sequence: an int while in step, else (B,)."""
        return self.time if self.start is None else self.time - self.start

    def visible(self, slots: int) -> Tensor | None:
        """Which of a ring buffer's written slots hold steps of each row's present sequence.

        Returns (B, min(time, slots)) boolean, or None when all of them do. Slot ``t % slots`` holds step t.
        """
        if self.start is None:
            return None
        return self.slot_positions(slots, self.start.device) >= 0  # (B, S)

    def slot_positions(self, slots: int, device: torch.device) -> Tensor:
        """Where in each row's sequence the steps of a ring buffer's written slots stand; below 0: in an earlier one.

        Returns (S,) while the rows are in step, else (B, S), with S = min(time, slots).
        """
        last = self.time - 1
        slot = torch.arange(min(self.time, slots), device=device)
        written_at = last - (last - slot) % slots
        return written_at if self.start is None else written_at - self.start[:, None]

    def check_room(self, slots: int) -> None:
        """Raise ValueError if a sequence has used up all ``slots`` of a cache."""
        if self.age >= slots:
            raise ValueError(
                f"the cache is full: it has room for {slots} steps and has seen {self.age}; "
                "make it with a larger max_len"
            )


class SequenceModel(nn.Module, ABC):
    """A causal map from sequences to sequences, in forms that suit training, acting and few-shot queries.

    The laws that every model obeys, and that ``tests/test_sequence_laws.py`` checks for all of them:

    * unrolled ``step`` equals ``forward``; ``prefill`` then ``step`` equals ``forward``;
    * ``branch`` equals Q separate sequences that share their past;
    * inputs after t do not change outputs up to t at all; no row of the batch sees another. That holds as long as all
      is finite: what attention masks has weight 0, and 0 times an infinity or a NaN, or a score that overflows, is NaN.

    A subclass defines `init_cache` and `step`. Where its cache is a state of fixed size, a tensor (B, ...) or a tuple
    of them, all else follows, by as many steps; whatever it can do in parallel it overrides. One whose cache grows
    with ``max_len`` overrides all.

    Attributes:
        input_size: channels C of the input.
        output_size: channels D of the output.
    """

    input_size: int
    output_size: int

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, D)."""
        return self.prefill(x)[0]

    @abstractmethod
    def init_cache(self, batch_size: int, max_len: int) -> Any:
        """The state before the first step, of fixed size, with room for sequences of ``max_len`` steps."""

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, Any]:
        """``forward`` that also leaves the cache behind: (B, T, C) -> (B, T, D), cache.

        ``max_len`` is the room of that cache, the T steps included; without it, the length that the model was
        made for. A cache that only ``branch`` will read needs no room beyond T.
        """
        cache = self.init_cache(len(x), max_len or x.shape[1])
        outputs = []
        for x_t in x.unbind(1):
            y_t, cache = self.step(x_t, cache)
            outputs.append(y_t)
        return torch.stack(outputs, dim=1), cache  # (B, T, D)

    @abstractmethod
    def step(self, x_t: Tensor, cache: Any, in_place: bool = False) -> tuple[Tensor, Any]:
        """One more step: (B, C), cache -> (B, D), cache.

        The cache passed in stays valid, and gradients flow through it. With ``in_place=True`` its buffers are
        reused for the one returned: faster, for acting under ``torch.no_grad``; the old one must not be used again.
        """

    def branch(self, x_q: Tensor, cache: Any) -> Tensor:
        """Q alternative next inputs, each seeing the same past and not each other: (B, Q, C), cache -> (B, Q, D)."""
        batch, queries, _ = x_q.shape
        repeated = _map(lambda s: s.repeat_interleave(queries, dim=0), cache)  # (B Q, ...)
        return self.step(x_q.flatten(0, 1), repeated)[0].unflatten(0, (batch, queries))

    def reset(self, cache: Any, rows: Tensor) -> Any:
        """The cache in which the rows where ``rows`` (B,) boolean is True are before their first step."""
        fresh = self.init_cache(len(rows), 1)
        return _map(lambda new, old: torch.where(rows.view(-1, *[1] * (old.dim() - 1)), new, old), fresh, cache)


def _map(change: Callable[..., Tensor], *states: Any) -> Any:
    """States of the same structure, tensors or nested tuples of them, changed tensor by tensor."""
    if isinstance(states[0], tuple):
        return tuple(_map(change, *parts) for parts in zip(*states, strict=True))
    return change(*states)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ReadOut(nn.Linear):
    """The last layer of a model: in float32 under autocast too, since half precision would round what it decides by."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

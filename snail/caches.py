"""What layers remember between steps: buffers that every step writes into, so a cache is used once.

B batch, T time, C channels, H heads, L slots, K key size, V value size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def check_room(steps: int, slots: int) -> None:
    """Raise ValueError if a sequence of ``steps`` has used up all ``slots`` of a cache."""
    if steps >= slots:
        raise ValueError(
            f"the cache is full: it has room for {slots} steps and has seen {steps}; make it with a larger max_len"
        )


def _check_length(steps: int, slots: int | None) -> None:
    if slots is not None and steps > slots:
        raise ValueError(f"a cache of max_len {slots} has no room for a sequence of {steps} steps")


@dataclass(frozen=True)
class AttentionCache:
    """Keys and values of the steps seen so far.

    keys: (B, H, L, K) and values: (B, H, L, V), step t in slot t.
    time: steps seen.
    """

    keys: Tensor
    values: Tensor
    time: int = 0

    @classmethod
    def of_sequence(cls, keys: Tensor, values: Tensor, slots: int) -> AttentionCache:
        """The cache with ``slots`` slots after the steps whose keys and values are (B, H, T, .)."""
        steps = keys.shape[2]
        _check_length(steps, slots)
        if steps < slots:
            keys, values = (F.pad(x, (0, 0, 0, slots - steps)) for x in (keys, values))
        return cls(keys, values, steps)

    def append(self, key: Tensor, value: Tensor) -> AttentionCache:
        """The cache one step later, with that step's key (B, H, K) and value (B, H, V)."""
        check_room(self.time, self.keys.shape[2])
        self.keys[:, :, self.time], self.values[:, :, self.time] = key, value
        return AttentionCache(self.keys, self.values, self.time + 1)

    def seen(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, time, .) of the steps seen."""
        return self.keys[:, :, : self.time], self.values[:, :, : self.time]


@dataclass(frozen=True)
class ConvCache:
    """The past inputs that a causal convolution, or a stack of them, still needs.

    rows: (L, B, C) ring buffer with step t in slot t % L; L is the left context of the filters + 1, or the longest
        sequence where that is shorter.
    time: steps seen.
    """

    rows: Tensor
    time: int = 0

    @classmethod
    def of_sequence(cls, rows: Tensor, left_context: int, max_len: int | None) -> ConvCache:
        """The cache after the sequence ``rows`` (T, B, C), for filters with that left context."""
        steps, slots = len(rows), left_context + 1 if max_len is None else min(left_context + 1, max_len)
        _check_length(steps, max_len)
        if steps < slots:
            rows = F.pad(rows, (0, 0, 0, 0, 0, slots - steps))
        else:  # roll copies, so the next steps do not write into the caller's rows
            rows = rows[-slots:].roll(steps % slots, dims=0)
        return cls(rows, steps)

    def check_room(self, left_context: int) -> None:
        """Raise ValueError if the next step has no slot; fewer than ``left_context`` + 1 are not used again."""
        if len(self.rows) <= left_context:
            check_room(self.time, len(self.rows))

    def past(self, offsets: Sequence[int]) -> list[Tensor | None]:
        """The rows (B, C) at these distances before the next step; None for those before the first step."""
        slots = [(self.time - o) % len(self.rows) for o in offsets if o <= self.time]
        if torch.is_grad_enabled():  # one gather, so that backward scatters once
            index = torch.tensor(slots, dtype=torch.long, device=self.rows.device)
            found = iter(self.rows[index].unbind())
        else:
            found = iter([self.rows[slot] for slot in slots])
        return [next(found) if o <= self.time else None for o in offsets]

    def next_row(self) -> Tensor:
        """The slot (B, C) to write the next step to."""
        return self.rows[self.time % len(self.rows)]

    def tick(self) -> ConvCache:
        """The cache one step later, after that step has been written."""
        return ConvCache(self.rows, self.time + 1)

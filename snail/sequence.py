"""The interface of all sequence models: one model in a parallel and a streaming form.

Letters in shapes: B batch, T time, C input channels, D output channels, Q queries, K key size, V value size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SequenceModel(nn.Module, ABC):
    """A causal map from sequences to sequences, with methods for training, acting and few-shot queries.

    All models satisfy, as tested by ``tests/test_sequence_laws.py``:

    * unrolled ``step`` equals ``forward``; ``prefill`` then ``step`` equals ``forward``;
    * ``branch`` equals Q separate sequences that share their past;
    * inputs after t do not change outputs up to t at all; rows of the batch do not affect each other. This holds for
      finite values: masked positions have weight 0, and 0 times an infinity or NaN, or an overflowing score, is NaN.

    A subclass defines `init_cache` and `step`. If its cache is a state of fixed size, a tensor (B, ...) or a tuple
    of them, the other methods default to repeated steps; override what can be computed in parallel. A model whose
    cache grows with ``max_len`` must override all of them.

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

        ``max_len`` is the capacity of that cache, including the T steps; by default the length that the model was
        built for. A cache that only ``branch`` will read needs no capacity beyond T.
        """
        cache = self.init_cache(len(x), max_len or x.shape[1])
        outputs = []
        for x_t in x.unbind(1):
            y_t, cache = self.step(x_t, cache)
            outputs.append(y_t)
        return torch.stack(outputs, dim=1), cache  # (B, T, D)

    @abstractmethod
    def step(self, x_t: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """One more step: (B, C), cache -> (B, D), cache.

        The cache passed in must not be used again: if it is a buffer, the step is written into it, without
        gradients.
        """

    def branch(self, x_q: Tensor, cache: Any) -> Tensor:
        """Q alternative next inputs, which see the same past but not each other: (B, Q, C), cache -> (B, Q, D)."""
        batch, queries, _ = x_q.shape
        repeated = _map(lambda s: s.repeat_interleave(queries, dim=0), cache)  # (B Q, ...)
        return self.step(x_q.flatten(0, 1), repeated)[0].unflatten(0, (batch, queries))


def _map(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply a function to every tensor of a state, a tensor or nested tuples of them."""
    return tuple(_map(change, part) for part in state) if isinstance(state, tuple) else change(state)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision converted to float32; float32 and float64 unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ReadOut(nn.Linear):
    """The last layer of a model: in float32 even under autocast, since half precision would round the logits."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

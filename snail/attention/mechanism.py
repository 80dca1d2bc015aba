"""Attention between queries, keys and values: the paper's and its variants.

``Mechanism`` combines the parts named by its ``AttentionKind``: a score function, a window and a selection,
each from the module of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.attention.scores import SCORES, ScoreName
from snail.attention.selection import SELECTIONS, Selection, record_weights, select, weights_wanted
from snail.attention.windows import WINDOWS, WindowType
from snail.caches import AttentionCache


def past_and_alternatives(key: Tensor, value: Tensor, cache: AttentionCache) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and mask for Q alternative next steps, each attending to the past and itself only.

    key: (B, H, Q, K); value: (B, H, Q, V). Returns keys and values (B, H, S + Q, .) and a mask (Q, S + Q).
    """
    past_keys, past_values = cache.seen()
    queries = key.shape[2]
    alone = torch.eye(queries, dtype=torch.bool, device=key.device)
    mask = torch.cat([alone.new_ones(queries, cache.time), alone], dim=-1)  # (Q, S + Q)
    return torch.cat([past_keys, key], dim=2), torch.cat([past_values, value], dim=2), mask


def attend_to_past_and_self(query: Tensor, key: Tensor, value: Tensor, cache: AttentionCache) -> Tensor:
    """Q alternative next steps, each attending to the past and itself only.

    query, key: (B, H, Q, K); value: (B, H, Q, V). Returns (B, H, Q, V).
    """
    keys, values, mask = past_and_alternatives(key, value, cache)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def attend_causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of T steps: (B, H, T, K), (B, H, T, K), (B, H, T, V) -> (B, H, T, V)."""
    if query.device.type == "cuda" or query.element_size() >= 4:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    # on CPUs the fused kernel's backward pass in half precision is several times slower
    with torch.autocast(query.device.type, enabled=False):
        read = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    return read.to(query.dtype)


def attend_to_seen(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one step to all S so far: (B, H, 1, K), (B, H, S, K), (B, H, S, V) -> (B, H, 1, V)."""
    if query.device.type == "cuda":
        return F.scaled_dot_product_attention(query, keys, values)
    # reading the cache takes all the time, and plain products read faster than the fused kernel
    scores = query * query.shape[-1] ** -0.5 @ keys.transpose(-1, -2)  # (B, H, 1, S)
    return scores.softmax(-1) @ values


@dataclass(frozen=True)
class AttentionKind:
    """The kind of attention; the paper's by default.

    score: score function of queries and keys.
    window_type: all of the past, or a window of it.
    window: steps of that window.
    selection: a weighted mean of all values, or one of them.
    sinks: number of first steps that stay in the window local-m.
    """

    score: ScoreName = "scaled-dot"
    window_type: WindowType = "global"
    window: int = 16
    selection: Selection = "soft"
    sinks: int = 0

    def __post_init__(self) -> None:
        for what, name, known in (
            ("score", self.score, SCORES),
            ("window_type", self.window_type, WINDOWS),
            ("selection", self.selection, SELECTIONS),
        ):
            if name not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if self.sinks < 0:
            raise ValueError(f"sinks must not be negative, got {self.sinks}")
        if self.sinks and self.window_type != "local-m":
            raise ValueError(f"sinks are for the window local-m, got {self.window_type}")

    @property
    def is_plain(self) -> bool:
        """Whether it is softmax(q k^T / sqrt(K)) over the whole past, for which fast kernels exist."""
        return (self.score, self.window_type, self.selection) == ("scaled-dot", "global", "soft")


PLAIN = AttentionKind()


class Mechanism(nn.Module):
    """Attention of H heads between projected queries, keys and values.

    Args:
        kind: score function, window and selection.
        heads: H.
        key_size: of a query and a key of one head, K.
        max_len: the longest sequence; a limit only for location-based scores.
    """

    def __init__(self, kind: AttentionKind, heads: int, key_size: int, max_len: int):
        super().__init__()
        self.kind = kind
        self.score = SCORES[kind.score](heads, key_size, max_len)
        self.window = WINDOWS[kind.window_type](heads, key_size, kind.window, kind.sinks)

    def _fast(self) -> bool:
        return self.kind.is_plain and not weights_wanted()

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention of T steps: (B, H, T, K), (B, H, T, K), (B, H, T, V) -> (B, H, T, V)."""
        if self._fast():
            return attend_causally(query, key, value)
        steps = query.shape[2]
        self.score.check_length(steps)
        positions = torch.arange(steps, device=query.device)
        past = positions[:, None] >= positions  # (T, T)
        return self._attend(query, key, value, positions, positions, past)

    def of_seen(self, query: Tensor, cache: AttentionCache) -> Tensor:
        """Attention of the step last appended to the cache, to itself and all before: (B, H, 1, K) -> (B, H, 1, V)."""
        keys, values = cache.seen()
        if self._fast():
            return attend_to_seen(query, keys, values)
        self.score.check_length(cache.time)
        seen = torch.arange(cache.time, device=query.device)  # (S,)
        return self._attend(query, keys, values, seen[-1:], seen, None)

    def of_alternatives(self, query: Tensor, key: Tensor, value: Tensor, cache: AttentionCache) -> Tensor:
        """Q alternative next steps, each attending to the past and itself: (B, H, Q, .) -> (B, H, Q, V)."""
        if self._fast():
            return attend_to_past_and_self(query, key, value, cache)
        self.score.check_length(cache.time + 1)
        keys, values, mask = past_and_alternatives(key, value, cache)
        positions = torch.arange(keys.shape[2], device=query.device).clamp(max=cache.time)  # (S + Q,)
        return self._attend(query, keys, values, positions[cache.time :], positions, mask, alternatives=True)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_positions: Tensor,
        key_positions: Tensor,
        mask: Tensor | None,
        alternatives: bool = False,
    ) -> Tensor:
        """The definition, step by step: for kinds without a fast kernel, and to record the weights."""
        scores = self.score(query, key, key_positions)  # (B, H, T, S)
        near, weight = self.window(query, query_positions, key_positions)
        for allowed in (mask, near):
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
        if weight is not None and self.kind.selection != "soft":
            scores = scores + weight.log()  # hard choices are sampled from the weighted softmax
        weights = select(scores, self.kind.selection, self.training, alternatives)
        if weight is not None and self.kind.selection == "soft":
            weights = weights * weight
        record_weights(weights)
        return weights.to(value.dtype) @ value

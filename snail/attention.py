"""Causal self-attention over everything seen so far: ``AttentionBlock`` (Mishra et al. 2018, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.sequence import Clock, SequenceModel


@dataclass(frozen=True)
class AttentionCache:
    """Keys and values of the steps seen so far, for H heads.

    keys: (B, H, L, K) and values: (B, H, L, V), ring buffers with step t in slot t % L.
    clock: where the rows of the batch stand in time.
    """

    keys: Tensor
    values: Tensor
    clock: Clock

    @classmethod
    def empty(cls, keys: Tensor, values: Tensor) -> AttentionCache:
        """A cache before its first step, with the given buffers."""
        return cls(keys, values, Clock())

    @classmethod
    def of_sequence(cls, keys: Tensor, values: Tensor, slots: int) -> AttentionCache:
        """The cache with ``slots`` slots after the steps whose keys and values are (B, H, T, .)."""
        steps = keys.shape[2]
        if steps > slots:
            raise ValueError(f"a cache of max_len {slots} has no room for a sequence of {steps} steps")
        if steps < slots:
            keys, values = (F.pad(x, (0, 0, 0, slots - steps)) for x in (keys, values))
        return cls(keys, values, Clock(steps))

    def append(self, key: Tensor, value: Tensor, in_place: bool) -> AttentionCache:
        """The cache one step later, with that step's key (B, H, K) and value (B, H, V)."""
        slots = self.keys.shape[2]
        self.clock.check_room(slots)
        keys, values = (self.keys, self.values) if in_place else (self.keys.clone(), self.values.clone())
        slot = self.clock.time % slots
        keys[:, :, slot], values[:, :, slot] = key, value
        return AttentionCache(keys, values, self.clock.tick())

    def seen(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (B, H, S, .) of the steps seen, and which of them each row may read: (B, 1, 1, S) or None."""
        slots = self.keys.shape[2]
        steps = min(self.clock.time, slots)
        visible = self.clock.visible(slots)
        mask = None if visible is None else visible[:, None, None]
        return self.keys[:, :, :steps], self.values[:, :, :steps], mask

    def reset(self, rows: Tensor) -> AttentionCache:
        """The cache in which the batch rows where ``rows`` (B,) is True have no past."""
        return AttentionCache(self.keys, self.values, self.clock.reset(rows))


def attend_to_past_and_self(query: Tensor, key: Tensor, value: Tensor, cache: AttentionCache) -> Tensor:
    """Q alternative next steps, each reading the whole past and itself, none of the others.

    query, key: (B, H, Q, K); value: (B, H, Q, V). Returns (B, H, Q, V).
    """
    past_keys, past_values, past_mask = cache.seen()
    batch, _, queries, _ = query.shape
    steps = past_keys.shape[2]
    alone = torch.eye(queries, dtype=torch.bool, device=query.device).expand(batch, 1, -1, -1)
    if past_mask is None:
        past_mask = alone.new_ones(1, 1, 1, 1)
    mask = torch.cat([past_mask.expand(batch, 1, queries, steps), alone], dim=-1)  # (B, 1, Q, S + Q)
    keys, values = torch.cat([past_keys, key], dim=2), torch.cat([past_values, value], dim=2)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def attend_causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each of T steps reads itself and all before it: (B, H, T, K), (B, H, T, K), (B, H, T, V) -> (B, H, T, V)."""
    if query.device.type == "cuda" or query.element_size() >= 4:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    # processors are several times slower at the fused kernel's backward pass in half precision
    with torch.autocast(query.device.type, enabled=False):
        read = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    return read.to(query.dtype)


def attend_to_seen(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """One step reads all S steps seen: (B, H, 1, K), (B, H, S, K), (B, H, S, V), (B, 1, 1, S) -> (B, H, 1, V)."""
    if query.device.type == "cuda":
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    # reading the cache takes all the time, and plain products read faster than the fused kernel
    scores = query * query.shape[-1] ** -0.5 @ keys.transpose(-1, -2)  # (B, H, 1, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ values


class AttentionBlock(SequenceModel):
    """AttentionBlock(K, V) of the paper: ``[x, softmax(q k^T / sqrt(K)) v]``, (B, T, C) -> (B, T, C + V).

    One head; a step reads itself and all steps before it.
    """

    def __init__(self, input_size: int, key_size: int, value_size: int):
        super().__init__()
        self.key_size, self.value_size = key_size, value_size
        self.input_size, self.output_size = input_size, input_size + value_size
        self.qkv = nn.Linear(input_size, 2 * key_size + value_size)  # query, key and value in one product

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> query and key (B, 1, T, K), value (B, 1, T, V)."""
        # a batch that lies time-major in memory is read as it lies
        qkv = self.qkv(x) if x.is_contiguous() else self.qkv(x.transpose(0, 1)).transpose(0, 1)
        q, k, v = qkv[:, None].split([self.key_size, self.key_size, self.value_size], dim=-1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, C + V)."""
        q, k, v = self._project(x)
        read = attend_causally(q, k, v)[:, 0]  # (B, T, V)
        return _concatenate(x, read)

    def init_cache(self, batch_size: int, max_len: int) -> AttentionCache:
        """The state before the first step, with room for ``max_len`` steps."""
        new = self.qkv.weight.new_zeros
        return AttentionCache.empty(
            new(batch_size, 1, max_len, self.key_size), new(batch_size, 1, max_len, self.value_size)
        )

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, AttentionCache]:
        """(B, T, C) -> (B, T, C + V), cache. Without ``max_len`` there is no room for further steps."""
        q, k, v = self._project(x)
        cache = AttentionCache.of_sequence(k, v, max_len or x.shape[1])
        read = attend_causally(q, k, v)[:, 0]  # (B, T, V)
        return _concatenate(x, read), cache

    def step(self, x_t: Tensor, cache: AttentionCache, in_place: bool = False) -> tuple[Tensor, AttentionCache]:
        """(B, C), cache -> (B, C + V), cache."""
        q, k, v = self._project(x_t[:, None])
        cache = cache.append(k[:, :, 0], v[:, :, 0], in_place)
        keys, values, mask = cache.seen()
        read = attend_to_seen(q, keys, values, mask)[:, 0, 0]  # (B, V)
        return torch.cat([x_t, read], dim=-1), cache

    def branch(self, x_q: Tensor, cache: AttentionCache) -> Tensor:
        """(B, Q, C), cache -> (B, Q, C + V)."""
        read = attend_to_past_and_self(*self._project(x_q), cache)[:, 0]  # (B, Q, V)
        return _concatenate(x_q, read)

    def reset(self, cache: AttentionCache, rows: Tensor) -> AttentionCache:
        """Rows of the batch where ``rows`` (B,) is True begin a new sequence."""
        return cache.reset(rows)


def _concatenate(x: Tensor, read: Tensor) -> Tensor:
    """[x, read] along channels, in the memory order (batch- or time-major) of x."""
    if x.is_contiguous():
        return torch.cat([x, read], dim=-1)
    return torch.cat([x.transpose(0, 1), read.transpose(0, 1)], dim=-1).transpose(0, 1)

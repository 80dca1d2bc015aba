"""Causal self-attention over everything seen so far: ``AttentionBlock`` (Mishra et al. 2018, section 3).

What attention there is besides the paper's is put together in ``Mechanism``, of parts that its ``AttentionKind`` names:
a score function (``snail.scores``), a reach (``snail.reach``) and a selection (``snail.selection``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.reach import REACHES, ReachName
from snail.scores import SCORES, ScoreName
from snail.selection import SELECTIONS, Selection, record_weights, select, weights_wanted
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


def past_and_alternatives(key: Tensor, value: Tensor, cache: AttentionCache) -> tuple[Tensor, Tensor, Tensor]:
    """What Q alternative next steps may read: the whole past and themselves, none of the others.

    key: (B, H, Q, K); value: (B, H, Q, V). Returns keys and values (B, H, S + Q, .) and a mask (B, 1, Q, S + Q).
    """
    past_keys, past_values, past_mask = cache.seen()
    batch, _, queries, _ = key.shape
    steps = past_keys.shape[2]
    alone = torch.eye(queries, dtype=torch.bool, device=key.device).expand(batch, 1, -1, -1)
    if past_mask is None:
        past_mask = alone.new_ones(1, 1, 1, 1)
    mask = torch.cat([past_mask.expand(batch, 1, queries, steps), alone], dim=-1)  # (B, 1, Q, S + Q)
    return torch.cat([past_keys, key], dim=2), torch.cat([past_values, value], dim=2), mask


def attend_to_past_and_self(query: Tensor, key: Tensor, value: Tensor, cache: AttentionCache) -> Tensor:
    """Q alternative next steps, each reading the whole past and itself, none of the others.

    query, key: (B, H, Q, K); value: (B, H, Q, V). Returns (B, H, Q, V).
    """
    keys, values, mask = past_and_alternatives(key, value, cache)
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


@dataclass(frozen=True)
class AttentionKind:
    """Which attention: the paper's, unless told otherwise.

    score: how well a key suits a query.
    reach: all of the past, or a window of it.
    window: steps of that window.
    selection: a mixture of all values, or one of them.
    """

    score: ScoreName = "scaled-dot"
    reach: ReachName = "global"
    window: int = 16
    selection: Selection = "soft"

    def __post_init__(self) -> None:
        for what, name, known in (
            ("score", self.score, SCORES),
            ("reach", self.reach, REACHES),
            ("selection", self.selection, SELECTIONS),
        ):
            if name not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    @property
    def is_plain(self) -> bool:
        """Whether it is softmax(q k^T / sqrt(K)) over all of the past, for which there are fast kernels."""
        return (self.score, self.reach, self.selection) == ("scaled-dot", "global", "soft")


PLAIN = AttentionKind()


class Mechanism(nn.Module):
    """Attention of H heads between queries, keys and values that somebody else has projected.

    Args:
        kind: which.
        heads: H.
        key_size: of a query and a key of one head, K.
        max_len: the longest sequence; binding for location-based scores.
    """

    def __init__(self, kind: AttentionKind, heads: int, key_size: int, max_len: int):
        super().__init__()
        self.kind = kind
        self.score = SCORES[kind.score](heads, key_size, max_len)
        self.reach = REACHES[kind.reach](heads, key_size, kind.window)

    def _fast(self) -> bool:
        return self.kind.is_plain and not weights_wanted()

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each of T steps reads itself and all before it: (B, H, T, K), (B, H, T, K), (B, H, T, V) -> (B, H, T, V)."""
        if self._fast():
            return attend_causally(query, key, value)
        steps = query.shape[2]
        self.score.check_length(steps)
        positions = torch.arange(steps, device=query.device)
        past = positions[:, None] >= positions  # (T, T)
        return self._attend(query, key, value, positions, positions, past)

    def of_seen(self, query: Tensor, cache: AttentionCache) -> Tensor:
        """The step last appended to the cache reads all steps seen, itself included: (B, H, 1, K) -> (B, H, 1, V)."""
        keys, values, mask = cache.seen()
        if self._fast():
            return attend_to_seen(query, keys, values, mask)
        clock = cache.clock
        self.score.check_length(clock.age)
        own = next_positions(clock, query.device) - 1  # (1,) or (B, 1)
        return self._attend(query, keys, values, own, clock.slot_positions(cache.keys.shape[2], query.device), mask)

    def of_alternatives(self, query: Tensor, key: Tensor, value: Tensor, cache: AttentionCache) -> Tensor:
        """Q alternative next steps, each reading the whole past and itself: (B, H, Q, .) -> (B, H, Q, V)."""
        if self._fast():
            return attend_to_past_and_self(query, key, value, cache)
        clock, queries = cache.clock, query.shape[2]
        self.score.check_length(clock.age + 1)
        keys, values, mask = past_and_alternatives(key, value, cache)
        own = next_positions(clock, query.device)  # (1,) or (B, 1)
        own = own.expand(*own.shape[:-1], queries)
        seen = clock.slot_positions(cache.keys.shape[2], query.device)  # (S,) or (B, S)
        return self._attend(query, keys, values, own, torch.cat([seen, own], dim=-1), mask, alternatives=True)

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
        """The definition, in as many words: for kinds that have no fast kernel, and to look at the weights."""
        scores = self.score(query, key, key_positions)  # (B, H, T, S)
        near, weight = self.reach(query, query_positions, key_positions)
        for allowed in (mask, near):
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
        if weight is not None and self.kind.selection != "soft":
            scores = scores + weight.log()  # the choice is drawn from what the weighted softmax gives
        weights = select(scores, self.kind.selection, self.training, alternatives)
        if weight is not None and self.kind.selection == "soft":
            weights = weights * weight
        record_weights(weights)
        return weights.to(value.dtype) @ value


def next_positions(clock: Clock, device: torch.device) -> Tensor:
    """Position of the next step: (1,) while the rows are in step, else (B, 1)."""
    position = clock.positions()
    return torch.full((1,), position, device=device) if isinstance(position, int) else position[:, None]


class AttentionBlock(SequenceModel):
    """AttentionBlock(K, V) of the paper: ``[x, softmax(q k^T / sqrt(K)) v]``, (B, T, C) -> (B, T, C + V).

    A step reads itself and all steps before it.

    Args:
        input_size: channels C of the input.
        key_size: of the queries and keys of all heads together, K.
        value_size: of the values of all heads together, V.
        max_len: the longest sequence; binding for location-based scores, which need it.
        heads: how many; the paper has one. The number of parameters stays the same.
        kind: which attention.
    """

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int,
        max_len: int = 1,
        heads: int = 1,
        kind: AttentionKind = PLAIN,
    ):
        super().__init__()
        if heads < 1 or key_size % heads or value_size % heads:
            raise ValueError(f"key and value size must be multiples of heads, got {key_size}, {value_size} and {heads}")
        self.key_size, self.value_size, self.heads = key_size, value_size, heads
        self.input_size, self.output_size = input_size, input_size + value_size
        self.qkv = nn.Linear(input_size, 2 * key_size + value_size)  # query, key and value in one product
        self.mechanism = Mechanism(kind, heads, key_size // heads, max_len)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> query and key (B, H, T, K / H), value (B, H, T, V / H)."""
        # a batch that lies time-major in memory is read as it lies
        qkv = self.qkv(x) if x.is_contiguous() else self.qkv(x.transpose(0, 1)).transpose(0, 1)
        sizes = [self.key_size, self.key_size, self.value_size]
        if self.heads == 1:
            q, k, v = qkv[:, None].split(sizes, dim=-1)
            return q, k, v
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.split(sizes, dim=-1))
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, C + V)."""
        return _concatenate(x, _join(self.mechanism.causal(*self._project(x))))

    def init_cache(self, batch_size: int, max_len: int) -> AttentionCache:
        """The state before the first step, with room for ``max_len`` steps."""
        new, shape = self.qkv.weight.new_zeros, (batch_size, self.heads, max_len)
        return AttentionCache.empty(
            new(*shape, self.key_size // self.heads), new(*shape, self.value_size // self.heads)
        )

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, AttentionCache]:
        """(B, T, C) -> (B, T, C + V), cache. Without ``max_len`` there is no room for further steps."""
        q, k, v = self._project(x)
        cache = AttentionCache.of_sequence(k, v, max_len or x.shape[1])
        return _concatenate(x, _join(self.mechanism.causal(q, k, v))), cache

    def step(self, x_t: Tensor, cache: AttentionCache, in_place: bool = False) -> tuple[Tensor, AttentionCache]:
        """(B, C), cache -> (B, C + V), cache."""
        q, k, v = self._project(x_t[:, None])
        cache = cache.append(k[:, :, 0], v[:, :, 0], in_place)
        read = _join(self.mechanism.of_seen(q, cache))[:, 0]  # (B, V)
        return torch.cat([x_t, read], dim=-1), cache

    def branch(self, x_q: Tensor, cache: AttentionCache) -> Tensor:
        """(B, Q, C), cache -> (B, Q, C + V)."""
        read = self.mechanism.of_alternatives(*self._project(x_q), cache)  # (B, H, Q, V / H)
        return _concatenate(x_q, _join(read))

    def reset(self, cache: AttentionCache, rows: Tensor) -> AttentionCache:
        """Rows of the batch where ``rows`` (B,) is True begin a new sequence."""
        return cache.reset(rows)


def _join(read: Tensor) -> Tensor:
    """What the heads read, side by side: (B, H, T, V / H) -> (B, T, V)."""
    return read[:, 0] if read.shape[1] == 1 else read.transpose(1, 2).flatten(2)


def _concatenate(x: Tensor, read: Tensor) -> Tensor:
    """[x, read] along channels, in the memory order (batch- or time-major) of x."""
    if x.is_contiguous():
        return torch.cat([x, read], dim=-1)
    return torch.cat([x.transpose(0, 1), read.transpose(0, 1)], dim=-1).transpose(0, 1)

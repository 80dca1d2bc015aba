"""Causal self-attention over everything seen so far: ``AttentionBlock`` (Mishra et al. 2018, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snail.attention.mechanism import PLAIN, AttentionKind, Mechanism
from snail.caches import AttentionCache
from snail.sequence import SequenceModel


class AttentionBlock(SequenceModel):
    """AttentionBlock(K, V) of the paper: ``[x, softmax(q k^T / sqrt(K)) v]``, (B, T, C) -> (B, T, C + V).

    A step reads itself and all steps before it.

    Args:
        input_size: channels C of the input.
        key_size: of the queries and keys of all heads together, K.
        value_size: of the values of all heads together, V.
        max_len: the longest sequence; a limit only for location-based scores.
        heads: number of heads; the paper has one. It does not change the number of parameters.
        kind: score function, window and selection.
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
        return AttentionCache(new(*shape, self.key_size // self.heads), new(*shape, self.value_size // self.heads))

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, AttentionCache]:
        """(B, T, C) -> (B, T, C + V), cache. Without ``max_len`` the cache has no room for further steps."""
        q, k, v = self._project(x)
        cache = AttentionCache.of_sequence(k, v, max_len or x.shape[1])
        return _concatenate(x, _join(self.mechanism.causal(q, k, v))), cache

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: AttentionCache) -> tuple[Tensor, AttentionCache]:
        """(B, C), cache -> (B, C + V), cache."""
        q, k, v = self._project(x_t[:, None])
        cache = cache.append(k[:, :, 0], v[:, :, 0])
        read = _join(self.mechanism.of_seen(q, cache))[:, 0]  # (B, V)
        return torch.cat([x_t, read], dim=-1), cache

    def branch(self, x_q: Tensor, cache: AttentionCache) -> Tensor:
        """(B, Q, C), cache -> (B, Q, C + V)."""
        read = self.mechanism.of_alternatives(*self._project(x_q), cache)  # (B, H, Q, V / H)
        return _concatenate(x_q, _join(read))


def _join(read: Tensor) -> Tensor:
    """Concatenate the heads' outputs: (B, H, T, V / H) -> (B, T, V)."""
    return read[:, 0] if read.shape[1] == 1 else read.transpose(1, 2).flatten(2)


def _concatenate(x: Tensor, read: Tensor) -> Tensor:
    """[x, read] along channels, in the memory order (batch- or time-major) of x."""
    if x.is_contiguous():
        return torch.cat([x, read], dim=-1)
    return torch.cat([x.transpose(0, 1), read.transpose(0, 1)], dim=-1).transpose(0, 1)

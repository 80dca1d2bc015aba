"""A Llama-like Transformer: rotary positions, RMSNorm and SwiGLU (Touvron et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.residual import RMSNorm, SwiGLU
from baselines.transformer import Transformer, TransformerLayer
from snail.attention import PLAIN, AttentionKind
from snail.sequence import at_least_float32


class RotaryLayer(TransformerLayer):
    """Pre-norm layer with RMSNorm, SwiGLU and rotary positions."""

    def __init__(self, width: int, heads: int, max_len: int, kind: AttentionKind = PLAIN):
        super().__init__(width, heads, max_len, kind)
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)  # type: ignore[assignment]
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = SwiGLU(width)  # type: ignore[assignment]

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, W) at positions (T,) -> query, key and value, each (B, H, T, W / H)."""
        q, k, v = super().project(x, positions)
        return rotate(q, positions), rotate(k, positions), v


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotate pairs of channels by angles proportional to the position (Su et al. 2021, arXiv:2104.09864).

    The product of a query and a key then depends on their relative position. x: (B, H, T, K) with even K, positions:
    (T,) -> (B, H, T, K).
    """
    half = x.shape[-1] // 2
    exact = at_least_float32(x)
    frequency = base ** (-torch.arange(half, device=x.device, dtype=exact.dtype) / half)
    angle = positions[:, None] * frequency  # (T, K / 2)
    a, b = exact.chunk(2, dim=-1)
    turned = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
    return turned.to(x.dtype)


class RotaryTransformer(Transformer):
    """`Transformer` of such layers, without other position encodings: (B, T, C) -> (B, T, D).

    Args:
        input_size, output_size, max_len, layers, kind: as of `Transformer`.
        width: a multiple of twice the ``heads``.
        heads: attention heads in each layer.
    """

    layer = RotaryLayer

    def __init__(
        self,
        input_size: int,
        output_size: int,
        max_len: int,
        width: int,
        layers: int = 2,
        heads: int = 4,
        kind: AttentionKind = PLAIN,
    ):
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of twice the heads, got {width} and {heads}")
        super().__init__(input_size, output_size, max_len, width, layers, heads, "none", kind=kind)
        self.norm = RMSNorm(width)  # type: ignore[assignment]

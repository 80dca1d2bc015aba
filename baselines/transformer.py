"""A decoder-only Transformer as a sequence model: SNAIL's attention without its temporal convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from snail.attention import PLAIN, AttentionKind, Mechanism
from snail.caches import AttentionCache
from snail.sequence import ReadOut, SequenceModel

Positions = Literal["sinusoidal", "learned", "none"]
Combination = Literal["add", "concatenate"]


def sinusoidal_encoding(positions: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sines and cosines of spaced frequencies (Vaswani et al. 2017, section 3.5): (...,) -> (..., size)."""
    index = torch.arange(0, size, 2, device=positions.device, dtype=dtype)
    frequency = torch.exp(index * (-math.log(10_000.0) / size))
    angle = positions[..., None] * frequency  # (..., ceil(size / 2))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :size]


class PositionEncoding(nn.Module):
    """Adds position encodings to tokens: (B, T, W) and positions -> (B, T, width).

    Tokens to which sinusoidal encodings are added may be scaled by sqrt(width), as in Vaswani et al. 2017, section 3.4.
    In new models these encodings are otherwise two to four times as large as the tokens of trials.
    """

    def __init__(self, width: int, max_len: int, kind: Positions, combination: Combination, scale_tokens: bool = False):
        super().__init__()
        if kind not in ("sinusoidal", "learned", "none") or combination not in ("add", "concatenate"):
            raise ValueError(f"unknown position encoding {kind!r}, {combination!r}")
        concatenated = combination == "concatenate" and kind != "none"
        self.kind, self.combination, self.max_len = kind, combination, max_len
        self.size = width // 4 if concatenated else width
        self.token_width = width - self.size if concatenated else width  # W
        scaled = scale_tokens and kind == "sinusoidal" and combination == "add"
        self.token_scale = math.sqrt(width) if scaled else 1.0
        if kind == "learned":
            self.table = nn.Parameter(torch.randn(max_len, self.size) * 0.02)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, T, W) at positions (T,) or (B, T), integers -> (B, T, width)."""
        if self.kind == "none":
            return x
        if self.kind == "learned":
            if positions.numel() and int(positions.max()) >= self.max_len:
                raise ValueError(
                    f"learned positions support at most max_len {self.max_len} steps, got {int(positions.max()) + 1}"
                )
            encoding = self.table[positions]
        else:
            exact = torch.promote_types(x.dtype, torch.float32)
            encoding = sinusoidal_encoding(positions, self.size, exact).to(x.dtype)
        encoding = encoding.expand(*x.shape[:2], -1)
        return self.token_scale * x + encoding if self.combination == "add" else torch.cat([x, encoding], dim=-1)


class TransformerLayer(nn.Module):
    """Pre-norm layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, max_len: int, kind: AttentionKind = PLAIN):
        super().__init__()
        self.heads = heads
        self.mechanism = Mechanism(kind, heads, width // heads, max_len)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, W) at positions (T,), unused here -> query, key and value, each (B, H, T, W / H)."""
        batch, steps, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, steps, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """The rest of the layer after attention has ``read`` (B, H, T, W / H)."""
        x = x + self.out(read.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))  # (B, T, W)


class Transformer(SequenceModel):
    """Decoder-only Transformer with causal self-attention: (B, T, C) -> (B, T, D).

    Args:
        input_size: channels C of the input.
        output_size: channels D of the output.
        max_len: longest sequence; a limit only for learned positions.
        width: channels between the layers; a multiple of ``heads``.
        layers: number of layers.
        heads: attention heads in each.
        positions: "sinusoidal", "learned" or "none".
        combination: "add" positions to the tokens, or "concatenate" them (as a quarter of the width).
        kind: score function, window and selection of attention.
        scale_tokens: whether tokens are scaled by sqrt(width) before sinusoidal encodings are added.
    """

    layer: ClassVar[type[TransformerLayer]] = TransformerLayer

    def __init__(
        self,
        input_size: int,
        output_size: int,
        max_len: int,
        width: int,
        layers: int = 2,
        heads: int = 4,
        positions: Positions = "sinusoidal",
        combination: Combination = "add",
        kind: AttentionKind = PLAIN,
        scale_tokens: bool = False,
    ):
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.input_size, self.output_size, self.max_len = input_size, output_size, max_len
        self.position = PositionEncoding(width, max_len, positions, combination, scale_tokens)
        self.embed = nn.Linear(input_size, self.position.token_width)
        built = [self.layer(width, heads, max_len, kind) for _ in range(layers)]
        self.layers = cast(Sequence[TransformerLayer], nn.ModuleList(built))
        self.norm = nn.LayerNorm(width)
        self.head = ReadOut(width, output_size)
        self.heads, self.head_size = heads, width // heads

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, D)."""
        return self._parallel(x)[0]

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, tuple[AttentionCache, ...]]:
        """(B, T, C) -> (B, T, D), cache."""
        y, keys_values = self._parallel(x)
        slots = max_len or max(self.max_len, x.shape[1])
        return y, tuple(AttentionCache.of_sequence(k, v, slots) for k, v in keys_values)

    def _parallel(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        positions = torch.arange(x.shape[1], device=x.device)
        x = self.position(self.embed(x), positions)  # (B, T, W)
        keys_values = []
        for layer in self.layers:
            q, k, v = layer.project(x, positions)
            x = layer.finish(x, layer.mechanism.causal(q, k, v))
            keys_values.append((k, v))
        return self.head(self.norm(x)), keys_values

    def init_cache(self, batch_size: int, max_len: int | None = None) -> tuple[AttentionCache, ...]:
        """The state before the first step: one cache per layer."""
        shape = (batch_size, self.heads, max_len or self.max_len, self.head_size)
        new = self.head.weight.new_zeros
        return tuple(AttentionCache(new(shape), new(shape)) for _ in self.layers)

    @torch.no_grad()
    def step(self, x_t: Tensor, cache: tuple[AttentionCache, ...]) -> tuple[Tensor, tuple[AttentionCache, ...]]:
        """(B, C), cache -> (B, D), cache."""
        position = _next_position(cache, x_t.device)
        x = self.position(self.embed(x_t[:, None]), position)  # (B, 1, W)
        caches = []
        for layer, c in zip(self.layers, cache, strict=True):
            q, k, v = layer.project(x, position)
            c = c.append(k[:, :, 0], v[:, :, 0])
            x = layer.finish(x, layer.mechanism.of_seen(q, c))
            caches.append(c)
        return self.head(self.norm(x))[:, 0], tuple(caches)

    def branch(self, x_q: Tensor, cache: tuple[AttentionCache, ...]) -> Tensor:
        """(B, Q, C), cache -> (B, Q, D)."""
        position = _next_position(cache, x_q.device)
        x = self.position(self.embed(x_q), position)  # (B, Q, W)
        for layer, c in zip(self.layers, cache, strict=True):
            x = layer.finish(x, layer.mechanism.of_alternatives(*layer.project(x, position), c))
        return self.head(self.norm(x))


def _next_position(cache: tuple[AttentionCache, ...], device: torch.device) -> Tensor:
    """(1,)."""
    return torch.tensor([cache[0].time], device=device)

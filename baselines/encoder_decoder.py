"""Encoder-decoders, the models that attention was invented for: the support is the source, each query a target.

Three generations: the source compressed into one vector (Sutskever et al. 2014; Cho et al. 2014), attention over
the encoder's states (Bahdanau et al. 2015), and attention only (Vaswani et al. 2017). All read a source
(B, S, C) and Q alternative targets (B, Q, C), which do not see each other, and write (B, Q, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.transformer import PositionEncoding, Positions, TransformerLayer
from snail.attention.scores import Additive
from snail.attention.selection import record_weights, weights_wanted
from snail.classifier import EmbeddingClassifier, with_labels
from snail.sequence import ReadOut, at_least_float32


class EncoderDecoderClassifier(EmbeddingClassifier):
    """Few-shot classification with an encoder-decoder: it encodes the labelled support and decodes each query.

    Args:
        embedding: (M, ...) images -> (M, E).
        model: reads E + ways channels and writes ``ways`` logits.
        ways: classes N in an episode.
    """

    def __init__(self, embedding: nn.Module, model: nn.Module, ways: int):
        super().__init__(embedding, ways)
        self.model = model

    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Embeddings (B, S, E), labels (B, S), embeddings (B, Q, E) -> logits (B, Q, N)."""
        return at_least_float32(self.model(*with_labels(support, labels, queries, self.ways)))


class RecurrentEncoderDecoder(nn.Module):
    """A GRU encodes the source; another decodes each target from its last state.

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", arXiv:1406.1078.

    Args:
        input_size: channels C.
        output_size: channels D.
        hidden_size: units H of both.
    """

    def __init__(self, input_size: int, output_size: int, hidden_size: int):
        super().__init__()
        self.encoder = nn.GRU(input_size, hidden_size, batch_first=True)
        self.decoder = nn.GRUCell(input_size, hidden_size)
        self.head = ReadOut(hidden_size, output_size)

    def forward(self, source: Tensor, targets: Tensor) -> Tensor:
        """(B, S, C), (B, Q, C) -> (B, Q, D)."""
        queries = targets.shape[1]
        squeezed = self.encoder(source)[1][0]  # (B, H)
        state = self.decoder(targets.flatten(0, 1), squeezed.repeat_interleave(queries, dim=0))  # (B Q, H)
        return self.head(state).unflatten(0, (-1, queries))


class AligningEncoderDecoder(nn.Module):
    """A bidirectional GRU encodes the source; the decoder aligns each target with its states (Bahdanau et al. 2015).

    "Neural Machine Translation by Jointly Learning to Align and Translate", arXiv:1409.0473: the decoder's state s
    scores all encoder states h by ``v . tanh(W s + U h)``, and reads their weighted mean. This state has already read
    the target, since a target is a single step here. A tape records the alignment, (B, 1, Q, S).

    Args:
        input_size: channels C.
        output_size: channels D.
        hidden_size: units H of each direction and of the decoder.
    """

    def __init__(self, input_size: int, output_size: int, hidden_size: int):
        super().__init__()
        self.encoder = nn.GRU(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.first = nn.Linear(hidden_size + input_size, hidden_size)
        self.query, self.key = nn.Linear(hidden_size, hidden_size), nn.Linear(2 * hidden_size, hidden_size)
        self.score = Additive(1, hidden_size, 1)
        self.decoder = nn.GRUCell(2 * hidden_size, hidden_size)
        self.head = ReadOut(hidden_size, output_size)

    def forward(self, source: Tensor, targets: Tensor) -> Tensor:
        """(B, S, C), (B, Q, C) -> (B, Q, D)."""
        queries = targets.shape[1]
        states, last = self.encoder(source)  # (B, S, 2 H), (2, B, H)
        backward = last[1][:, None].expand(-1, queries, -1).to(targets.dtype)  # (B, Q, H): the backward direction
        state = self.first(torch.cat([backward, targets], dim=-1)).tanh()  # (B, Q, H)
        places = torch.arange(source.shape[1], device=source.device)
        scores = self.score(self.query(state)[:, None], self.key(states)[:, None], places)  # (B, 1, Q, S)
        weights = scores.softmax(-1)
        record_weights(weights)
        context = weights[:, 0].to(states.dtype) @ states  # (B, Q, 2 H)
        state = self.decoder(context.flatten(0, 1), state.flatten(0, 1).to(context.dtype))  # (B Q, H)
        return self.head(state).unflatten(0, (-1, queries))


class DecoderLayer(nn.Module):
    """Pre-norm: masked self-attention of the targets, attention over the source, then an MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Targets (B, T, W), source (B, S, W), which targets see which (T, T) -> (B, T, W)."""
        q, k, v = self._heads(self.qkv(self.norm1(x)), 3)
        x = x + self.out(_attend(q, k, v, mask).transpose(1, 2).flatten(2))
        (q,), (k, v) = self._heads(self.query(self.norm2(x)), 1), self._heads(self.key_value(source), 2)
        x = x + self.cross_out(_attend(q, k, v, None).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm3(x))

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts W) -> ``parts`` tensors (B, H, T, W / H)."""
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention. A tape records the weights over the source, which are not masked."""
    if mask is None and weights_wanted():
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
        record_weights(weights)
        return weights @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class TransformerEncoderDecoder(nn.Module):
    """Encoder-decoder Transformer (Vaswani et al. 2017, arXiv:1706.03762, figure 1), with pre-norm.

    The encoder's self-attention is not masked; without positions it is invariant to the order of the source.

    Args:
        input_size: channels C.
        output_size: channels D.
        width: channels between the layers; a multiple of ``heads``.
        layers: number of encoder layers, and of decoder layers.
        heads: attention heads in each.
        max_len: longest source or target; a limit only for learned positions.
        positions: "sinusoidal", "learned" or "none".
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int,
        layers: int = 2,
        heads: int = 4,
        max_len: int = 1,
        positions: Positions = "sinusoidal",
    ):
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.embed = nn.Linear(input_size, width)
        self.position = PositionEncoding(width, max_len, positions, "add")
        encoder = [TransformerLayer(width, heads, max_len) for _ in range(layers)]
        self.encoder = cast(Sequence[TransformerLayer], nn.ModuleList(encoder))
        self.decoder = cast(Sequence[DecoderLayer], nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers)))
        self.encoder_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = ReadOut(width, output_size)

    def encode(self, source: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, W)."""
        positions = torch.arange(source.shape[1], device=source.device)
        x = self.position(self.embed(source), positions)
        for layer in self.encoder:
            x = layer.finish(x, F.scaled_dot_product_attention(*layer.project(x, positions)))
        return self.encoder_norm(x)

    def decode(self, targets: Tensor, positions: Tensor, mask: Tensor, memory: Tensor) -> Tensor:
        """Targets (B, T, C) at positions (T,), their mask (T, T), encoded source (B, S, W) -> (B, T, D)."""
        x = self.position(self.embed(targets), positions)
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return self.head(self.norm(x))

    def translate(self, source: Tensor, target: Tensor) -> Tensor:
        """One target of T steps: (B, S, C), (B, T, C) -> (B, T, D), causal in the target."""
        steps = torch.arange(target.shape[1], device=target.device)
        return self.decode(target, steps, steps[:, None] >= steps, self.encode(source))

    def forward(self, source: Tensor, targets: Tensor) -> Tensor:
        """Q targets of one step each, which do not see each other: (B, S, C), (B, Q, C) -> (B, Q, D)."""
        queries = targets.shape[1]
        alone = torch.eye(queries, dtype=torch.bool, device=targets.device)
        first = torch.zeros(queries, dtype=torch.long, device=targets.device)
        return self.decode(targets, first, alone, self.encode(source))

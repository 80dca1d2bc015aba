"""Attention over the support as a set: a Transformer without order, a control for the cost of order.

All labelled images of an episode attend to each other; each query attends to them and itself (Lee et al. 2019, "Set
Transformer", arXiv:1810.00825). Layers, sizes and read-out are those of `baselines.transformer`, but
without positions and without the causal mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.transformer import TransformerLayer
from snail.caches import AttentionCache
from snail.sequence import ReadOut


class SetTransformer(nn.Module):
    """Q alternative targets, each with the same set as its source: (B, S, C), (B, Q, C) -> (B, Q, D).

    Args:
        input_size: channels C.
        output_size: channels D.
        width: channels W between the layers; a multiple of ``heads``.
        layers: number of layers.
        heads: attention heads in each.
    """

    def __init__(self, input_size: int, output_size: int, width: int, layers: int = 2, heads: int = 4):
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.embed = nn.Linear(input_size, width)
        built = [TransformerLayer(width, heads, max_len=1) for _ in range(layers)]
        self.layers = cast(Sequence[TransformerLayer], nn.ModuleList(built))
        self.norm = nn.LayerNorm(width)
        self.head = ReadOut(width, output_size)

    def forward(self, source: Tensor, targets: Tensor) -> Tensor:
        """(B, S, C), (B, Q, C) -> (B, Q, D)."""
        x, y = self.embed(source), self.embed(targets)  # (B, S, W), (B, Q, W)
        nowhere = torch.zeros(1, device=x.device)  # unused: these layers have no positions
        for layer in self.layers:
            q, k, v = layer.project(x, nowhere)
            read = AttentionCache.of_sequence(k, v, k.shape[2])
            y = layer.finish(y, layer.mechanism.of_alternatives(*layer.project(y, nowhere), read))
            x = layer.finish(x, F.scaled_dot_product_attention(q, k, v))
        return self.head(self.norm(y))

"""Weights of published runs in 8 bits a number: every 32 numbers of a matrix share a scale.

    x = scale q,    q = -127, .., 127,    scale = max |x| / 127 over the 32 numbers, in half precision

This is the rounding of llama.cpp's Q8_0. Vectors are in half precision.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32
"""Numbers with the same scale."""
SCALES = ".scales"
"""What the name of a matrix's scales ends with."""

HALF_MAX = torch.finfo(torch.half).max


def pack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round weights: to 8 bits and scales, to half precision, or, where neither can hold the numbers, not at all."""
    packed = {}
    for name, x in weights.items():
        if x.dtype != torch.float32 or not (x.abs() < HALF_MAX).all():
            packed[name] = x.contiguous()
        elif x.dim() < 2:
            packed[name] = x.half().contiguous()
        else:
            blocks = pad(x.flatten(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
            packed[name + SCALES] = (blocks.abs().amax(1) / 127).half()
            q = (x / _of_each(packed[name + SCALES], x).clamp(min=1e-12)).round().clamp(-127, 127)
            packed[name] = q.char().contiguous()
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32 from what ``pack`` returned; tensors without scales as they are."""
    weights = {}
    for name, x in packed.items():
        if (scales := packed.get(name + SCALES)) is not None:
            x = x * _of_each(scales, x)
        if not name.endswith(SCALES):
            weights[name] = x
    return weights


def sha256(weights: dict[str, Tensor]) -> str:
    """Hash of the numbers, in the order of the names."""
    return hashlib.sha256(b"".join(weights[name].cpu().numpy().tobytes() for name in sorted(weights))).hexdigest()


def _of_each(scales: Tensor, x: Tensor) -> Tensor:
    """The scale of each number of ``x``, in its shape."""
    return scales.float().repeat_interleave(BLOCK)[: x.numel()].view(x.shape)

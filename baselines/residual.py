"""Deep residual models with a state of fixed size: state spaces, linear attention and gated recurrences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.trials import require_positive
from snail.sequence import ReadOut, SequenceModel, at_least_float32

EPS = 1e-5
"""Added under the square root of norms, so that outputs of almost empty memories are not amplified."""
State = tuple[Tensor, ...]
"""The state of a memory: tensors (B, ...) of fixed size."""


class Memory(nn.Module, ABC):
    """A causal map of sequences that continues from a state. A subclass defines ``init_state`` and ``forward``."""

    @abstractmethod
    def init_state(self, batch_size: int) -> State:
        """The state before the first step."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, T, W) from a state -> (B, T, W) and the state after it."""

    def branch(self, x: Tensor, state: State) -> Tensor:
        """Q alternative next steps from one state: (B, Q, W) -> (B, Q, W).

        By default each gets a copy of the state; subclasses with a large state avoid that.
        """
        batch, queries, _ = x.shape
        repeated = tuple(s.repeat_interleave(queries, dim=0) for s in state)  # (B Q, ...)
        return self(x.flatten(0, 1)[:, None], repeated)[0].unflatten(0, (batch, queries))[:, :, 0]


class Residual(SequenceModel):
    """Pre-norm layers ``x + memory(norm(x))``, then ``x + mlp(norm(x))``: (B, T, C) -> (B, T, D).

    Norms are RMSNorms (Zhang & Sennrich 2019), MLPs are SwiGLUs (Shazeer 2020). The cache holds the states of all
    layers, independent of max_len; a step is a sequence of length 1.

    Args:
        input_size: channels C of the input.
        output_size: channels D of the output.
        width: channels W between the layers.
        memories: one per layer.
        mlp: whether layers have one.
    """

    def __init__(
        self, input_size: int, output_size: int, width: int, memories: Sequence[Callable[[], Memory]], mlp: bool = True
    ):
        super().__init__()
        require_positive(width=width, layers=len(memories))
        self.input_size, self.output_size = input_size, output_size
        self.embed = nn.Linear(input_size, width)
        self.layers = cast(Sequence[_Layer], nn.ModuleList(_Layer(width, memory(), mlp) for memory in memories))
        self.norm, self.head = RMSNorm(width), ReadOut(width, output_size)

    def init_cache(self, batch_size: int, max_len: int | None = None) -> tuple[State, ...]:
        """The states before the first step."""
        return tuple(layer.memory.init_state(batch_size) for layer in self.layers)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """(B, T, C) -> (B, T, D), cache."""
        return self._run(x, self.init_cache(len(x)))

    def step(self, x_t: Tensor, cache: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        """(B, C), cache -> (B, D), cache."""
        y, cache = self._run(x_t[:, None], cache)
        return y[:, 0], cache

    def branch(self, x_q: Tensor, cache: tuple[State, ...]) -> Tensor:
        """(B, Q, C), cache -> (B, Q, D)."""
        x = self.embed(x_q)
        for layer, state in zip(self.layers, cache, strict=True):
            x = layer.branch(x, state)
        return self.head(self.norm(x))

    def _run(self, x: Tensor, cache: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        x, states = self.embed(x), []
        for layer, state in zip(self.layers, cache, strict=True):
            x, state = layer(x, state)
            states.append(state)
        return self.head(self.norm(x)), tuple(states)


class _Layer(nn.Module):
    def __init__(self, width: int, memory: Memory, mlp: bool):
        super().__init__()
        self.norm, self.memory = RMSNorm(width), memory
        self.mlp = nn.Sequential(RMSNorm(width), SwiGLU(width)) if mlp else None

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.memory(self.norm(x), state)
        return self._after(x + y), state

    def branch(self, x: Tensor, state: State) -> Tensor:
        return self._after(x + self.memory.branch(self.norm(x), state))

    def _after(self, x: Tensor) -> Tensor:
        return x if self.mlp is None else x + self.mlp(x)


class SwiGLU(nn.Module):
    """``out(silu(gate(x)) * up(x))`` with 8/3 W hidden channels, which has the parameters of an MLP with 4 W."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = max(1, 8 * width // 3)
        self.both, self.out = nn.Linear(width, 2 * self.hidden, bias=False), nn.Linear(self.hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


class RMSNorm(nn.RMSNorm):
    """``x / sqrt(mean(x^2) + EPS) * weight`` over the last dimension, in at least float32 even under autocast."""

    def __init__(self, width: int):
        super().__init__(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return super().forward(at_least_float32(x)).to(x.dtype)


class ShortConvolution(nn.Module):
    """Causal depthwise convolution over the last steps, then SiLU, as in Mamba: (B, T, W) -> (B, T, W).

    Its state is the last ``kernel_size - 1`` inputs.
    """

    def __init__(self, width: int, kernel_size: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, kernel_size).uniform_(-(kernel_size**-0.5), kernel_size**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros (B, kernel_size - 1, W)."""
        width, _, taps = self.weight.shape
        return self.weight.new_zeros(batch_size, taps - 1, width)

    def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, W) after ``last`` -> (B, T, W), and the inputs that the next step needs."""
        x = torch.cat([last.to(x.dtype), x], dim=1)
        taps = self.weight.shape[-1]
        y = sum(x[:, i : x.shape[1] - taps + 1 + i] * self.weight[:, 0, i] for i in range(taps)) + self.bias
        return F.silu(y), x[:, x.shape[1] - taps + 1 :].clone()  # a copy, since a view would keep all of x

    def branch(self, x: Tensor, last: Tensor) -> Tensor:
        """Q alternatives for the input after ``last``: (B, Q, W) -> (B, Q, W)."""
        past = (last.to(x.dtype) * self.weight[:, 0, :-1].T).sum(1, keepdim=True)  # (B, 1, W)
        return F.silu(past + x * self.weight[:, 0, -1] + self.bias)


def exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert to at least float32, the precision in which memories accumulate."""
    return tuple(at_least_float32(x) for x in tensors)


def head_size(width: int, heads: int) -> int:
    """Channels of each head.

    Raises:
        ValueError: if the width is not a multiple of the heads.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    return width // heads

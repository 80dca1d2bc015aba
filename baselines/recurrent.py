"""LSTM and GRU as sequence models, as used by RL^2 (Duan et al. 2016) and memory-augmented networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.gru_scan import gru_scan
from snail.sequence import ReadOut, SequenceModel

State = tuple[Tensor, ...]  # each (B, H): (hidden,) for a GRU, (hidden, cell) for an LSTM


class Recurrent(SequenceModel):
    """One recurrent layer and a linear read-out: (B, T, C) -> (B, T, D). The cache is the state, whatever max_len is.

    Args:
        input_size: channels C of the input.
        output_size: channels D of the output.
        hidden_size: units H of the layer.
    """

    layer: ClassVar[Callable[..., nn.RNNBase]]
    states: ClassVar[int]

    def __init__(self, input_size: int, output_size: int, hidden_size: int):
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
        self.input_size, self.output_size, self.hidden_size = input_size, output_size, hidden_size
        self.rnn = self.layer(input_size, hidden_size, batch_first=True)
        self.head = ReadOut(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """All steps in parallel: (B, T, C) -> (B, T, D)."""
        return self.head(self._run(x)[0])

    def _run(self, x: Tensor) -> tuple[Tensor, Any]:
        """The layer's states at all steps and its last state; by torch's own kernels if oneDNN has none.

        It has none for half precision on CPUs without AVX-512, which torch sometimes detects too late.
        """
        try:
            return self.rnn(x)
        except RuntimeError as e:
            if "primitive descriptor" not in str(e):
                raise
            with torch.backends.mkldnn.flags(enabled=False):
                return self.rnn(x)

    def init_cache(self, batch_size: int, max_len: int | None = None) -> State:
        """The state before the first step: zeros."""
        return (self.head.weight.new_zeros(batch_size, self.hidden_size),) * self.states

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, State]:
        """(B, T, C) -> (B, T, D), cache."""
        h, state = self._run(x)
        state = state if isinstance(state, tuple) else (state,)
        return self.head(h), tuple(s[0] for s in state)

    def step(self, x_t: Tensor, cache: State) -> tuple[Tensor, State]:
        """(B, C), cache -> (B, D), cache."""
        cache = self._advance(x_t, cache)
        return self.head(cache[0]), cache

    def _weights(self) -> list[Tensor]:
        """The layer's parameters in the order of torch's cells: input and hidden weights, then their biases."""
        return [getattr(self.rnn, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]

    @abstractmethod
    def _advance(self, x_t: Tensor, state: State) -> State:
        """The cell: (B, C), state -> state."""


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    Args:
        input_size: channels C of the input.
        output_size: channels D of the output.
        hidden_size: units H of the layer.
        forget_bias: initial bias of the forget gate (Gers et al. 2000): with 1, three quarters of the cell are kept at
            each step, and gradients reach further back. None: torch's, uniform around 0, which keeps half.
    """

    layer, states = nn.LSTM, 2

    def __init__(self, input_size: int, output_size: int, hidden_size: int, forget_bias: float | None = None):
        super().__init__(input_size, output_size, hidden_size)
        if forget_bias is not None:
            *_, input_bias, bias = self._weights()  # added to each other; gates are input, forget, cell, output
            with torch.no_grad():
                input_bias[hidden_size : 2 * hidden_size] = forget_bias
                bias[hidden_size : 2 * hidden_size] = 0.0

    def _advance(self, x_t: Tensor, state: State) -> State:
        return torch.lstm_cell(x_t, state, *self._weights())


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), the memory of RL^2."""

    layer, states = nn.GRU, 1

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.device.type != "cpu" or x.element_size() < 4 or torch.is_autocast_enabled("cpu"):
            return super()._run(x)
        input_weight, weight, input_bias, bias = self._weights()
        h = gru_scan(F.linear(x.transpose(0, 1), input_weight, input_bias), weight, bias)  # (T, B, H)
        return h.transpose(0, 1), h[-1:].clone()  # not a view that keeps all of h

    def _advance(self, x_t: Tensor, state: State) -> State:
        return (torch.gru_cell(x_t, state[0], *self._weights()),)

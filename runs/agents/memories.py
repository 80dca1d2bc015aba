"""Agents with newer sequence models: state spaces, linear attention, gated recurrences, rotary positions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from baselines.linear_attention import LinearAttention
from baselines.mamba import Mamba2
from baselines.min_recurrent import MinGRU, MinLSTM
from baselines.residual import Memory, Residual
from baselines.rotary import RotaryTransformer
from baselines.sizing import matching_size
from baselines.state_space import DiagonalStateSpace
from baselines.xlstm import MatrixLSTM, ScalarLSTM
from envs.trials import require_positive
from runs.agents.interface import Role, SequenceAgent
from runs.agents.sequence import AttentiveConfig, snail_size
from snail.sequence import SequenceModel


@dataclass(frozen=True)
class _Sized(SequenceAgent):
    """A model sized to SNAIL's parameter count."""

    width: int | None = None
    """Channels between layers; None: to match SNAIL's parameter count."""
    layers: int = 2
    """Layers."""

    @property
    def multiple(self) -> int:
        """The width must be a multiple of this."""
        return 1

    @abstractmethod
    def model(self, width: int, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """Build it with this number of channels."""

    def build(self, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """Build the model for ``role``; ``max_len`` only affects the size of the SNAIL to match."""
        require_positive(layers=self.layers)
        sizes = (role, input_size, output_size, max_len)
        width = self.width
        if width is None:
            width = matching_size(lambda n: self.model(n, *sizes), snail_size(*sizes), self.multiple)
        return self.model(width, *sizes)


@dataclass(frozen=True)
class _ResidualConfig(_Sized):
    mlp: ClassVar[bool] = True

    @abstractmethod
    def memories(self, width: int) -> Sequence[Callable[[], Memory]]:
        """One a layer."""

    def model(self, width: int, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """Pre-norm layers around the memories."""
        return Residual(input_size, output_size, width, self.memories(width), self.mlp)


@dataclass(frozen=True)
class S5Config(_ResidualConfig):
    """A diagonal linear state space (Smith et al. 2023)."""

    states: int = 64
    """Complex states of each layer."""

    def memories(self, width: int) -> Sequence[Callable[[], Memory]]:
        """State spaces."""
        return [lambda: DiagonalStateSpace(width, self.states)] * self.layers


@dataclass(frozen=True)
class Mamba2Config(_ResidualConfig):
    """Mamba-2 (Dao & Gu 2024); its layers have no MLP."""

    states: int = 64
    """States of each head."""
    heads: int = 4
    """Heads of each layer, with W / 2 channels each."""

    mlp = False

    @property
    def multiple(self) -> int:
        """The number of heads."""
        return self.heads

    def memories(self, width: int) -> Sequence[Callable[[], Memory]]:
        """State-space duals."""
        return [lambda: Mamba2(width, self.states, 2 * width // self.heads)] * self.layers


@dataclass(frozen=True)
class LinearAttentionConfig(_ResidualConfig):
    """Linear attention, DeltaNet or Gated DeltaNet (Yang et al. 2024)."""

    heads: int = 4
    """Heads of each layer."""
    delta: bool = True
    """Delta rule: replace the value stored under a key instead of adding to it."""
    gated: bool = True
    """Let the memory decay by an input-dependent factor."""

    @property
    def multiple(self) -> int:
        """The number of heads."""
        return self.heads

    def memories(self, width: int) -> Sequence[Callable[[], Memory]]:
        """Layers with matrix states."""
        return [lambda: LinearAttention(width, self.heads, self.delta, self.gated)] * self.layers


@dataclass(frozen=True)
class MinimalConfig(_ResidualConfig):
    """minGRU or minLSTM (Feng et al. 2024)."""

    kind: Literal["gru", "lstm"] = "gru"
    """gru: one gate; lstm: two gates."""
    expansion: int = 2
    """States for each channel."""

    def memories(self, width: int) -> Sequence[Callable[[], Memory]]:
        """Layers whose gates depend on the input only."""
        memory = MinGRU if self.kind == "gru" else MinLSTM
        return [lambda: memory(width, self.expansion)] * self.layers


@dataclass(frozen=True)
class XLSTMConfig(_ResidualConfig):
    """xLSTM (Beck et al. 2024): mLSTM and sLSTM in turn."""

    heads: int = 4
    """Heads of each layer."""

    @property
    def multiple(self) -> int:
        """The number of heads."""
        return self.heads

    def memories(self, width: int) -> Sequence[Callable[[], Memory]]:
        """mLSTM and sLSTM layers alternating."""
        kinds = [ScalarLSTM if n % 2 else MatrixLSTM for n in range(self.layers)]
        return [partial(kind, width, self.heads) for kind in kinds]


@dataclass(frozen=True)
class RotaryConfig(AttentiveConfig, _Sized):
    """A Llama-like decoder-only Transformer with rotary positions, RMSNorm and SwiGLU."""

    heads: int = 4
    """Attention heads of each layer."""

    @property
    def multiple(self) -> int:
        """Twice the number of heads."""
        return 2 * self.heads

    def model(self, width: int, role: Role, input_size: int, output_size: int, max_len: int) -> SequenceModel:
        """Build it with this number of channels, for sequences of up to ``max_len`` steps."""
        require_positive(heads=self.heads)
        kind = self.attention_kind(role)
        return RotaryTransformer(input_size, output_size, max_len, width, self.layers, self.heads, kind)

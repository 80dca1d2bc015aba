"""Distributions over actions, discrete and continuous, behind one interface.

A *head* turns the outputs of a policy network into the parameters of a distribution over actions, draws from it, and
has its log-probabilities, entropy and divergence. Parameters are one tensor, so that algorithms can keep and compare
them without knowing their kind.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ActionHead(nn.Module, ABC):
    """A kind of distribution over actions. P stands for the parameters of one, (...) for any leading dimensions.

    Attributes:
        outputs: number of policy outputs that parametrise it.
        channels: of an encoded action.
        predictable: number of actions whose rewards can be predicted one by one; 0 for continuous actions.
    """

    outputs: int
    channels: int
    predictable: int

    @abstractmethod
    def parameters_of(self, outputs: Tensor) -> Tensor:
        """(..., outputs) -> (..., P)."""

    @abstractmethod
    def noise(self, rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """The random numbers for ``rows`` samples: (rows, ...), with the dtype and device of ``like``."""

    @abstractmethod
    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Actions: (B, P) and noise of B draws -> (B,) integers or (B, D)."""

    @abstractmethod
    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of actions from ``draw``: (..., P), (...) or (..., D) -> (...)."""

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """Entropy in nats: (..., P) -> (...)."""

    @abstractmethod
    def kl_divergence(self, parameters: Tensor, other: Tensor) -> Tensor:
        """KL divergence in nats of ``other`` from the first: (..., P), (..., P) -> (...)."""

    @abstractmethod
    def encode(self, actions: Tensor) -> Tensor:
        """Encode actions as input of the next step: actions -> (..., channels)."""

    @abstractmethod
    def decode(self, encoded: Tensor) -> Tensor:
        """Inverse of ``encode``: (..., channels) -> actions."""

    @abstractmethod
    def first(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The placeholder action before the first step, for a batch of trials."""

    def to_environment(self, actions: Tensor) -> Tensor:
        """Map actions to the environment's action space."""
        return actions


class Categorical(ActionHead):
    """Categorical distribution over A actions, parametrised by logits."""

    def __init__(self, num_actions: int):
        super().__init__()
        self.outputs = self.channels = self.predictable = num_actions

    def parameters_of(self, outputs: Tensor) -> Tensor:
        """The logits themselves."""
        return outputs

    def noise(self, rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Exponential random numbers (rows, A)."""
        return like.new_empty(rows, self.outputs).exponential_(generator=generator)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Sample as argmax of p / Exp(1), which needs no copy to the host: (B, A) -> (B,)."""
        return (parameters.log_softmax(-1).exp() / noise).argmax(-1)

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Logits (..., A), actions (...) -> (...)."""
        return parameters.log_softmax(-1).gather(-1, actions[..., None])[..., 0]

    def entropy(self, parameters: Tensor) -> Tensor:
        """(..., A) -> (...)."""
        log_p = parameters.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl_divergence(self, parameters: Tensor, other: Tensor) -> Tensor:
        """``sum_a p_a (log p_a - log q_a)``: (..., A), (..., A) -> (...)."""
        log_p, log_q = parameters.log_softmax(-1), other.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def encode(self, actions: Tensor) -> Tensor:
        """One-hot."""
        return F.one_hot(actions, self.outputs).float()

    def decode(self, encoded: Tensor) -> Tensor:
        """(..., A) -> (...)."""
        return encoded.argmax(-1)

    def first(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Action 0."""
        return torch.zeros(shape, dtype=torch.long, device=device)


class Gaussian(ActionHead):
    """Diagonal Gaussian over D numbers, with a learned standard deviation that does not depend on the state.

    Parameters are D means and D log standard deviations. Without ``squash``, actions are clipped to the space when
    passed to the environment, and log-probabilities are of the unclipped samples. With it, actions are ``tanh`` of the
    samples, scaled to the space, and so are log-probabilities; the entropy remains that of the Gaussian, since that of
    the squashed distribution has no closed form (Haarnoja et al. 2018, arXiv:1812.05905, appendix C). The divergence is
    the same in both cases.

    Args:
        low, high: (D,) the space.
        squash: whether to squash actions by tanh.
        initial_std: initial standard deviations, as fractions of half the space.
    """

    low: Tensor
    high: Tensor
    predictable = 0

    def __init__(self, low: Tensor, high: Tensor, squash: bool = False, initial_std: float = 0.6):
        super().__init__()
        self.outputs = self.channels = len(low)
        self.squash = squash
        self.register_buffer("low", low.float())
        self.register_buffer("high", high.float())
        self.log_std = nn.Parameter(torch.full((len(low),), math.log(initial_std)))

    def parameters_of(self, outputs: Tensor) -> Tensor:
        """Append the log standard deviations to the means: (..., D) -> (..., 2 D)."""
        return torch.cat([outputs, self.log_std.expand_as(outputs)], dim=-1)

    def noise(self, rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Standard normal random numbers (rows, D)."""
        return like.new_empty(rows, self.outputs).normal_(generator=generator)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """(B, 2 D) -> (B, D)."""
        mean, log_std = parameters.chunk(2, dim=-1)
        drawn = mean + log_std.exp() * noise
        return drawn.tanh() if self.squash else drawn

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """(..., 2 D), (..., D) -> (...)."""
        mean, log_std = parameters.chunk(2, dim=-1)
        correction: Tensor | float = 0.0
        if self.squash:
            edge = 1 - torch.finfo(actions.dtype).eps  # which tanh rounds to 1
            actions = actions.clamp(-edge, edge)
            correction = torch.log1p(-actions.square()).sum(-1)
            actions = actions.atanh()
        z = (actions - mean) * (-log_std).exp()
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1) - correction

    def entropy(self, parameters: Tensor) -> Tensor:
        """(..., 2 D) -> (...)."""
        return (parameters.chunk(2, dim=-1)[1] + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)

    def kl_divergence(self, parameters: Tensor, other: Tensor) -> Tensor:
        """(..., 2 D), (..., 2 D) -> (...)."""
        (mean, log_std), (mean_q, log_std_q) = parameters.chunk(2, dim=-1), other.chunk(2, dim=-1)
        ratio = (2 * (log_std - log_std_q)).exp()
        distance = ((mean - mean_q) * (-log_std_q).exp()).square()
        return 0.5 * (ratio + distance - 1).sum(-1) - (log_std - log_std_q).sum(-1)

    def encode(self, actions: Tensor) -> Tensor:
        """Unchanged: (..., D)."""
        return actions.float()

    def decode(self, encoded: Tensor) -> Tensor:
        """Unchanged: (..., D)."""
        return encoded

    def first(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Zeros: the middle of the space."""
        return torch.zeros(*shape, self.outputs, device=device)

    def to_environment(self, actions: Tensor) -> Tensor:
        """Scaled from [-1, 1] to the space, and clipped to it."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return (middle + half * actions).clamp(self.low, self.high)

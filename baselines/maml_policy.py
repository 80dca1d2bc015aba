"""MAML for trials: a policy whose weights take policy-gradient steps during the trial."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from envs.trials import require_positive
from snail.actions import ActionHead
from snail.sequence import SequenceModel, at_least_float32

Weights = tuple[Tensor, ...]
"""Weight and bias of every layer, each (B, ...), one set per trial."""


class MAMLPolicy(SequenceModel):
    """A memoryless network that adapts to a trial by gradient steps.

    The trial is divided into phases of equal length. After each, the trial's weights move along the policy gradient of
    that phase (REINFORCE with a baseline, within episodes):

        w <- w + rate * mean_t grad log pi_w(a_t | s_t) A_t,   A_t = sum_j discount^j (r_{t+j} - b(s_t)) / scale

    over the rest of the episode, ``scale`` being the phase's mean of ``sum_j discount^j``. Initial weights, the rate of
    each layer and the baseline b are trained by the outer loss, which differentiates through the steps. As a sequence
    model, its outputs are a function of the whole past of the trial, so PPO and TRPO give the exact gradient of
    the whole trial's return, including the value of exploration: E-MAML (Stadie et al. 2018, arXiv:1803.01118) rather
    than the original (Finn et al. 2017, arXiv:1703.03400, algorithm 3), which counts only the adapted episodes.

    Computed in at least float32, even under autocast. The cache holds the weights and the phase's inputs.

    Args:
        observations: channels O of the encoded observation, which come first in the input.
        actions: the distribution of actions; owned by the caller, whose optimiser trains it.
        max_len: steps of a trial.
        hidden_size, layers: units and number of hidden layers, tanh.
        inner_lr: initial learning rate of the inner steps.
        inner_steps: gradient steps in a trial.
        discount: discount factor within an episode.
        first_order: treat the inner gradients as constants.
    """

    actions: ActionHead

    def __init__(
        self,
        observations: int,
        actions: ActionHead,
        max_len: int,
        *,
        hidden_size: int = 64,
        layers: int = 2,
        inner_lr: float = 2.0,
        inner_steps: int = 9,
        discount: float = 0.99,
        first_order: bool = False,
    ):
        super().__init__()
        require_positive(hidden_size=hidden_size, layers=layers, inner_steps=inner_steps)
        if inner_lr <= 0:
            raise ValueError(f"inner_lr must be positive, got {inner_lr}")
        self.input_size, self.output_size = observations + actions.channels + 2, actions.outputs
        self.observations, self.discount, self.first_order = observations, discount, first_order
        self.__dict__["actions"] = actions  # not a submodule: its parameters are the caller's
        self.phase = math.ceil(max_len / (inner_steps + 1))
        sizes = [observations, *[hidden_size] * layers, actions.outputs]
        self.layers = nn.ModuleList(_Layer(n, m) for n, m in pairwise(sizes))
        _silence(self.layers[-1])  # start from a uniform policy
        self.log_rates = nn.Parameter(torch.full((2 * len(self.layers),), math.log(inner_lr)))
        self.baseline = nn.Sequential(_Layer(observations, 32), nn.Tanh(), _Layer(32, 1))
        _silence(self.baseline[-1])

    def init_cache(self, batch_size: int, max_len: int | None = None) -> tuple[Weights, Tensor]:
        """The initial weights, and an empty phase."""
        weights = tuple(w.expand(batch_size, *w.shape) for w in self.layers.parameters())
        return weights, self.log_rates.new_empty(batch_size, 0, self.input_size)

    def prefill(self, x: Tensor, max_len: int | None = None) -> tuple[Tensor, tuple[Weights, Tensor]]:
        """Phase by phase: (B, T, C) -> (B, T, D), cache."""
        return self._run(x, self.init_cache(len(x)))

    def step(self, x_t: Tensor, cache: tuple[Weights, Tensor]) -> tuple[Tensor, tuple[Weights, Tensor]]:
        """(B, C), cache -> (B, D), cache."""
        y, cache = self._run(x_t[:, None], cache)
        return y[:, 0], cache

    def _run(self, x: Tensor, cache: tuple[Weights, Tensor]) -> tuple[Tensor, tuple[Weights, Tensor]]:
        weights, seen = cache
        x, outputs = at_least_float32(x), []
        with torch.autocast(x.device.type, enabled=False):
            while x.shape[1]:
                if seen.shape[1] == self.phase:
                    weights, seen = self._adapted(weights, seen, x[:, :1]), seen[:, :0]
                now, x = x.tensor_split([self.phase - seen.shape[1]], dim=1)
                outputs.append(self._outputs(weights, now))
                seen = torch.cat([seen.to(now.dtype), now], dim=1)
        return torch.cat(outputs, dim=1), (weights, seen)

    def _outputs(self, weights: Weights, x: Tensor) -> Tensor:
        """The network with each trial's weights: (B, n, C) -> (B, n, D)."""
        h = x[..., : self.observations]
        for i in range(0, len(weights), 2):
            h = torch.baddbmm(weights[i + 1][:, None], h.tanh() if i else h, weights[i].transpose(1, 2))
        return h

    def _adapted(self, weights: Weights, seen: Tensor, following: Tensor) -> Weights:
        """One inner step from a phase's inputs (B, n, C) and the next input (B, 1, C), which has the last reward."""
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            if not outer:
                weights = tuple(w.detach().requires_grad_() for w in weights)
            objective = self._objective(weights, seen, following).sum()  # each depends on its trial's weights only
            gradients = torch.autograd.grad(objective, weights, create_graph=outer and not self.first_order)
        rates = self.log_rates.exp()
        return tuple(w + rate * g for w, g, rate in zip(weights, gradients, rates, strict=True))

    def _objective(self, weights: Weights, seen: Tensor, following: Tensor) -> Tensor:
        """The inner objective: (B,) means of log-probabilities times advantages."""
        last = self.observations + self.actions.channels  # where actions end
        told = torch.cat([seen[:, 1:], following], dim=1)  # (B, n, C): the outcome of each step
        actions = self.actions.decode(told[..., self.observations : last])
        rewards, ended = told[..., last], told[..., last + 1] > 0  # (B, n)
        steps = torch.arange(rewards.shape[1], device=rewards.device)
        later = steps - steps[:, None]  # (n, n): time from the step of the row to that of the column
        episode = ended.cumsum(1) - ended.long()  # (B, n), counted within the phase
        same = (episode[:, :, None] == episode[:, None, :]) & (later >= 0)
        ahead = torch.where(same, self.discount ** later.clamp(min=0).to(rewards.dtype), 0.0)  # (B, n, n)
        time = ahead.sum(-1)  # (B, n), discounted number of remaining steps
        baseline = self.baseline(seen[..., : self.observations])[..., 0]
        advantages = ((ahead @ rewards[..., None])[..., 0] - time * baseline) / time.mean(1, keepdim=True)
        parameters = self.actions.parameters_of(self._outputs(weights, seen))
        return (self.actions.log_probability(parameters, actions) * advantages).mean(1)


def _silence(layer: nn.Module) -> None:
    """Initialise a layer to output zeros."""
    for p in layer.parameters():
        nn.init.zeros_(p)


class _Layer(nn.Linear):
    """A linear layer; with no input channels, only its bias."""

    def reset_parameters(self) -> None:
        """Variance-preserving weights, zero bias."""
        if self.in_features:
            nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

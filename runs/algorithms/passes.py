"""Passes of Adam over a batch of trials, in minibatches; on a GPU each step is one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from envs.trials import require_positive
from runs.algorithms.cuda_graphs import ReplayedStep
from runs.algorithms.finite import require_finite
from runs.algorithms.meta_rl import MetaRLLearner


@dataclass(frozen=True)
class TrialBatch:
    """Trials, or states of them: a subclass has fields of tensors (B, ...), or None."""

    def rows(self, rows: Tensor) -> Self:
        """A subset."""
        return type(self)(*(None if x is None else x[rows] for x in vars(self).values()))

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))


Losses = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""The loss of a batch, and scalars to log; from the batch and scalars."""


class Passes:
    """Improves parameters by a few passes over each batch of trials.

    Args:
        learner: whose generator and processes are used.
        parts: parameters, in parts whose gradients are clipped separately.
        losses: what is minimised.
        batch: the class of batches.
        epochs: passes over a batch.
        minibatches: minibatches of whole trials in each pass.
        learning_rate: Adam's initial learning rate.
        max_grad_norm: maximum gradient norm of each part. If it is finite, the norm of the first part is logged.

    Raises:
        ValueError: if the trials of an update cannot be divided into the minibatches.
    """

    def __init__(
        self,
        learner: MetaRLLearner,
        parts: Sequence[Iterable[nn.Parameter]],
        losses: Losses,
        batch: type[TrialBatch],
        *,
        epochs: int,
        minibatches: int,
        learning_rate: float,
        max_grad_norm: float = float("inf"),
    ):
        require_positive(epochs=epochs)
        learner.check_minibatches(minibatches)
        if (trials := learner.training.batch_size) % minibatches:
            raise ValueError(f"batch_size must be a multiple of minibatches, got {trials} and {minibatches}")
        self.learner, self.losses, self.batch = learner, losses, batch
        self.parts = [list(part) for part in parts]
        self.parameters = [p for part in self.parts for p in part]
        self.epochs, self.minibatches = epochs, minibatches
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        device = learner.machine.device
        on_gpu = device.type == "cuda"
        # on a GPU the rate is a tensor, so that a captured step reads its current value
        self._rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
        self.optimizer = torch.optim.Adam(self.parameters, self._rate, eps=1e-5, fused=True, capturable=on_gpu)
        self.replayed = ReplayedStep(self.step, graphs=on_gpu and learner.group.single)

    def __call__(self, batch: TrialBatch, left: float, *scalars: Tensor) -> dict[str, Tensor]:
        """Improve the parameters; returns means of the scalars to log.

        Args:
            batch: trials of all processes.
            left: the remaining fraction of the training, to which the learning rate is proportional.
            scalars: for ``losses``.
        """
        learner, rate = self.learner, self.learning_rate * left
        self._set_rate(rate)
        logs: dict[str, list[Tensor]] = {}
        for _ in range(self.epochs):
            order = torch.randperm(len(batch), generator=learner.generator, device=learner.machine.device)
            for minibatch in order.chunk(self.minibatches):
                rows = batch.rows(learner.group.shard(minibatch))
                for name, x in self.replayed(*scalars, *vars(rows).values()).items():
                    logs.setdefault(name, []).append(x)
        means = {name: torch.stack(xs).mean() for name, xs in logs.items()}
        return means | {"learning_rate": torch.tensor(rate)}

    def step(self, *tensors: Tensor) -> dict[str, Tensor]:
        """One optimiser step, given scalars and the fields of a minibatch; returns scalars to log."""
        scalars, rows = tensors[: -len(fields(self.batch))], tensors[-len(fields(self.batch)) :]
        batch, model = self.batch(*rows), self.learner.model
        loss, found = self.losses(batch, *scalars)
        self.optimizer.zero_grad()
        loss.backward()
        self.learner.group.average_gradients(self.parameters)
        norms = [nn.utils.clip_grad_norm_(part, self.max_grad_norm) for part in self.parts]
        require_finite(model, norms, lambda: self.losses(batch, *scalars)[0])
        self.optimizer.step()
        if self.max_grad_norm < float("inf"):
            found["gradient_norm"] = norms[0]
        return {name: x.detach() for name, x in found.items()}

    def _set_rate(self, rate: float) -> None:
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, from any device."""
        self.optimizer.load_state_dict(state)
        for group in self.optimizer.param_groups:
            group["capturable"] = self.learner.machine.device.type == "cuda"

"""Trust region policy optimisation (Schulman et al. 2015) on whole trials, the SNAIL paper's algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from envs.trials import require_positive
from runs.algorithms.finite import require_finite
from runs.algorithms.learner import RunConfig
from runs.algorithms.policy_gradient import Batch, PolicyGradientLearner, PolicyGradientTraining
from runs.algorithms.returns import mean_over
from runs.config.serialization import renamed
from runs.system.machine import Machine


@dataclass(frozen=True)
class TRPOTraining(PolicyGradientTraining):
    """Trust region policy optimisation with generalised advantages, on whole trials."""

    max_kl: float = 0.01
    """Maximum mean KL divergence between the policies before and after an update."""
    fisher_part: float = 0.2
    """Fraction of the trials used for Fisher-vector products."""
    cg_steps: int = 10
    """Conjugate gradient iterations."""
    damping: float = 0.01
    """Damping, added to the Fisher matrix's diagonal."""
    backtracks: int = 10
    """Backtracking steps, each halving the update, before it is rejected."""
    minibatches: int = 4
    """Minibatches of whole trials."""
    value_epochs: int = 4
    """Epochs over the batch that fit the value network."""
    value_learning_rate: float = 2e-3
    """Adam's initial learning rate for the value network; it decays linearly to 0."""
    value_max_grad_norm: float = renamed("value_gradient_clip", 1.0)
    """Maximum gradient norm of the value network."""

    def learner(self, run: RunConfig, machine: Machine) -> TRPOLearner:
        """The learner that trains and tests the run's agent."""
        return TRPOLearner(self, run, machine)


class TRPOLearner(PolicyGradientLearner):
    """TRPO's update: a natural-gradient step within the trust region, then value regression."""

    training: TRPOTraining

    def __init__(self, training: TRPOTraining, run: RunConfig, machine: Machine):
        require_positive(
            cg_steps=training.cg_steps,
            backtracks=training.backtracks,
            value_epochs=training.value_epochs,
        )
        if not 0 < training.fisher_part <= 1:
            raise ValueError(f"fisher_part must be above 0 and at most 1, got {training.fisher_part}")
        super().__init__(training, run, machine)
        self.check_minibatches(training.minibatches)
        if (trials := max(1, round(training.fisher_part * training.batch_size))) < self.group.size:
            raise ValueError(f"fisher_part leaves too few trials for the processes, got {trials} and {self.group.size}")
        assert self.model.value is not None  # no shared trunk: fitting the value function would change the policy
        self.value: nn.Module = self.model.value
        self.optimizer = torch.optim.Adam(self.value.parameters(), training.value_learning_rate, eps=1e-5, fused=True)

    def improve(self, batch: Batch, left: float) -> dict[str, Tensor]:
        """One policy step within the trust region, and a few epochs of the value network."""
        order = torch.randperm(len(batch.inputs), generator=self.generator, device=self.machine.device)
        rate = {"learning_rate": torch.tensor(self.training.value_learning_rate * left)}
        return {**self._improve_policy(batch, order), **self._fit_value(batch, left), **rate}

    def _improve_policy(self, batch: Batch, order: Tensor) -> dict[str, Tensor]:
        training, policy, head = self.training, self.model.policy, self.model.actions
        parameters = [*policy.parameters(), *head.parameters()]
        old = parameters_to_vector(parameters).detach()
        pieces = [self.group.shard(piece) for piece in order.chunk(training.minibatches)]
        with torch.no_grad():
            before_step = torch.cat([self._outputs(batch.inputs[rows]) for rows in pieces])  # piece after piece

        every = batch.advantages.numel() if batch.valid is None else batch.valid.sum()

        def counted(x: Tensor, rows: Tensor) -> Tensor:
            """Masked terms of valid steps; advantages of others are 0."""
            return x if batch.valid is None else torch.where(batch.valid[rows], x, 0.0)

        def gain_of(rows: Tensor) -> Tensor:
            log_ratio = head.log_probability(self._outputs(batch.inputs[rows]), batch.actions[rows])
            log_ratio = log_ratio - batch.log_probs[rows]
            return (log_ratio.exp() * batch.advantages[rows]).sum() / every

        gradient = torch.zeros_like(old)
        for rows in pieces:
            gradient += parameters_to_vector(torch.autograd.grad(gain_of(rows), parameters))
        gradient = self.group.total(gradient)
        require_finite(policy, [gradient], lambda: sum(gain_of(rows) for rows in pieces))

        some = order[: max(1, round(training.fisher_part * len(order)))]
        part = some[self.group.rank :: self.group.size]  # not always of equal size
        weight = len(part) / len(some)
        with _twice_differentiable():
            product = fisher_product(
                lambda: self._outputs(batch.inputs[part]),
                lambda old, new: counted(head.kl_divergence(old, new), part) * (batch.advantages.numel() / every),
                parameters,
                training.damping,
            )

            def fisher(vector: Tensor) -> Tensor:
                return self.group.total(product(vector) * weight)

            direction = conjugate_gradient(fisher, gradient, training.cg_steps)
            curvature = direction @ fisher(direction)
        full = direction * (2 * training.max_kl / curvature.clamp(min=1e-12)).sqrt()

        @torch.no_grad()
        def measure(parameter_vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Surrogate gain, mean KL divergence from the old policy, and entropy, over the whole batch."""
            vector_to_parameters(parameter_vector, parameters)
            gain, kl, spread = (torch.zeros((), device=old.device) for _ in range(3))
            for rows, before in zip(pieces, before_step.split([len(p) for p in pieces]), strict=True):
                now = self._outputs(batch.inputs[rows])
                log_ratio = head.log_probability(now, batch.actions[rows]) - batch.log_probs[rows]
                gain += ((log_ratio.exp() - 1) * batch.advantages[rows]).sum()
                kl += counted(head.kl_divergence(before, now), rows).sum()
                spread += counted(head.entropy(now), rows).sum()
            gain, kl, spread = self.group.total(torch.stack([gain, kl, spread])) / every
            return gain, kl, spread

        scale = 1.0
        for _ in range(training.backtracks):
            gain, kl, spread = measure(old + scale * full)
            if gain > 0 and kl <= training.max_kl:
                break
            scale /= 2
        else:  # no step satisfies both conditions: keep the old policy
            scale = 0.0
            gain, kl, spread = measure(old)
        return {"policy_loss": -gain, "kl": kl, "entropy": spread, "step_scale": torch.tensor(scale)}

    def _outputs(self, inputs: Tensor) -> Tensor:
        with self._autocast():
            outputs = self.model.policy(inputs)[..., : self.model.actions.outputs]
        return self.model.actions.parameters_of(outputs)

    def _fit_value(self, batch: Batch, left: float) -> dict[str, Tensor]:
        training, losses = self.training, []
        for group in self.optimizer.param_groups:
            group["lr"] = training.value_learning_rate * left
        for _ in range(training.value_epochs):
            order = torch.randperm(len(batch.inputs), generator=self.generator, device=self.machine.device)
            for minibatch in order.chunk(training.minibatches):
                rows = batch.rows(self.group.shard(minibatch))
                loss = self._value_loss(rows)
                self.optimizer.zero_grad()
                loss.backward()
                self.group.average_gradients(self.value.parameters())
                norm = nn.utils.clip_grad_norm_(self.value.parameters(), training.value_max_grad_norm)
                require_finite(self.value, [norm], partial(self._value_loss, rows))
                self.optimizer.step()
                losses.append(loss.detach())
        return {"value_loss": torch.stack(losses).mean()}

    def _value_loss(self, batch: Batch) -> Tensor:
        x, privileged = batch.inputs, batch.privileged
        with self._autocast():
            values = self.value(x if privileged is None else torch.cat([x, privileged], dim=-1))[..., 0]
        return 0.5 * mean_over((values - batch.targets).square(), batch.valid)

    def state_dict(self) -> dict[str, Any]:
        """The state of every learner, and the value optimiser's."""
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])


def fisher_product(
    distributions: Callable[[], Tensor],
    kl_divergence: Callable[[Tensor, Tensor], Tensor],
    parameters: list[nn.Parameter],
    damping: float,
) -> Callable[[Tensor], Tensor]:
    """Products of a vector with the Fisher matrix of distributions, plus ``damping`` times the vector.

    The Fisher matrix is the Hessian of the mean KL divergence from the current distributions; the product is the
    gradient of the gradient's product with the vector (Schulman et al. 2015, appendix C), so the matrix itself is
    never formed.

    Args:
        distributions: computes the distributions' parameters, (..., P), with the model.
        kl_divergence: (..., P), (..., P) -> (...).
        parameters: P scalars in all.
        damping: added to the diagonal.

    Returns:
        A function (P,) -> (P,).
    """
    present = distributions()
    kl = kl_divergence(present.detach(), present).mean()
    first = torch.cat([g.flatten() for g in torch.autograd.grad(kl, parameters, create_graph=True)])

    def product(vector: Tensor) -> Tensor:
        second = torch.autograd.grad(first @ vector, parameters, retain_graph=True)
        return torch.cat([g.flatten() for g in second]) + damping * vector

    return product


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """Solve ``A x = b`` for a positive definite A by ``steps`` conjugate gradient steps (Hestenes & Stiefel 1952).

    Args:
        product: x (P,) -> A x (P,).
        b: (P,).
        steps: maximum number; P steps are exact up to rounding.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    square = residual @ residual
    for _ in range(steps):
        image = product(direction)
        # once solved, nothing changes; the bound avoids a host synchronisation
        rate = square / (direction @ image).clamp(min=1e-30)
        x += rate * direction
        residual -= rate * image
        following = residual @ residual
        direction = residual + following / square.clamp(min=1e-30) * direction
        square = following
    return x


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Select kernels with second derivatives: the fused ones for attention and recurrence have none."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield

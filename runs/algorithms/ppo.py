"""Proximal policy optimisation (Schulman et al. 2017) on whole trials, as in RL^2's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runs.algorithms.learner import RunConfig
from runs.algorithms.passes import Passes
from runs.algorithms.policy_gradient import Batch, PolicyGradientLearner, PolicyGradientTraining
from runs.algorithms.returns import clipped_surrogate_loss, mean_over
from runs.algorithms.rollout import Trajectories
from runs.config.serialization import renamed
from runs.system.machine import Machine


@dataclass(frozen=True)
class PPOTraining(PolicyGradientTraining):
    """Proximal policy optimisation with generalised advantages, on whole trials."""

    epochs: int = 4
    """Passes over the batch in each update."""
    minibatches: int = 4
    """Minibatches of whole trials in each pass."""
    learning_rate: float = 2e-3
    """Adam's initial learning rate; it decays linearly to 0."""
    clip_eps: float = renamed("clip", 0.2)
    """Clipping range of the probability ratio."""
    entropy_coef: float = renamed("entropy_bonus", 0.02)
    """Initial weight of the entropy bonus; it decays linearly to 0."""
    reward_prediction: float = 1.0
    """Weight of reward prediction, an auxiliary task of the policy network; 0: none."""
    posterior_rewards: bool = False
    """Predict the posterior mean rewards of all actions, given the trial so far, instead of the reward of the action
    taken: the same in expectation, without noise. Agents that do have learned to remember what matters."""
    max_grad_norm: float = renamed("gradient_clip", 1.0)
    """Maximum gradient norm, of the policy and the value network each."""
    shared_trunk: bool = False
    """One network for policy and value instead of the paper's two."""

    def learner(self, run: RunConfig, machine: Machine) -> PPOLearner:
        """The learner that trains and tests the run's agent."""
        return PPOLearner(self, run, machine)


class PPOLearner(PolicyGradientLearner):
    """PPO's update: a few epochs of clipped policy gradients and value regression."""

    training: PPOTraining

    def __init__(self, training: PPOTraining, run: RunConfig, machine: Machine):
        if training.posterior_rewards and not training.reward_prediction:
            raise ValueError("posterior rewards need reward prediction; give --training.reward-prediction 1")
        super().__init__(training, run, machine, training.shared_trunk, training.reward_prediction > 0)
        model = self.model
        parts = [[*model.policy.parameters(), *model.actions.parameters()]]
        parts += [] if model.value is None else [[*model.value.parameters()]]
        self.passes = Passes(
            self,
            parts,
            self._losses,
            Batch,
            epochs=training.epochs,
            minibatches=training.minibatches,
            learning_rate=training.learning_rate,
            max_grad_norm=training.max_grad_norm,
        )

    def improve(self, batch: Batch, left: float) -> dict[str, Tensor]:
        """A few epochs over the batch, in minibatches of whole trials."""
        return self.passes(batch, left, torch.tensor(self.training.entropy_coef * left, device=self.machine.device))

    def _predictable(self, trials: Trajectories, expected: Tensor) -> Tensor:
        """Targets of reward prediction: of all actions, (B, T, A), or of those taken."""
        if not (self.training.posterior_rewards and self.model.num_predicted):
            return expected
        return self.task.posterior_rewards(self.model.observations(trials.inputs), trials.actions, trials.rewards)

    def _losses(self, batch: Batch, entropy_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some trials, and scalars to log."""
        training = self.training
        with self._autocast():
            parameters, value, predicted = self.model.with_predicted_rewards(batch.inputs, batch.privileged)
        head = self.model.actions
        log_ratio = head.log_probability(parameters, batch.actions) - batch.log_probs
        policy_loss = clipped_surrogate_loss(log_ratio, batch.advantages, training.clip_eps, batch.valid)
        value_loss = 0.5 * mean_over((value - batch.targets).square(), batch.valid)
        spread = mean_over(head.entropy(parameters), batch.valid)
        loss = policy_loss + value_loss - entropy_weight * spread
        found = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": spread}
        if self.model.num_predicted:
            if not training.posterior_rewards:
                predicted = predicted.gather(-1, batch.actions[..., None])[..., 0]  # (B, T), of the actions taken
            found["reward_error"] = mean_over((predicted - batch.predictable).square(), batch.valid)
            loss = loss + training.reward_prediction * found["reward_error"]
        with torch.no_grad():
            kl = mean_over(log_ratio.exp() - 1 - log_ratio, batch.valid)
            clipped = mean_over(((log_ratio.exp() - 1).abs() > training.clip_eps).float(), batch.valid)
        return loss, found | {"loss": loss, "kl": kl, "clip_fraction": clipped}

    def state_dict(self) -> dict[str, Any]:
        """The state of every learner, and the optimiser's."""
        return super().state_dict() | {"optimizer": self.passes.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        super().load_state_dict(state)
        self.passes.load_state_dict(state["optimizer"])

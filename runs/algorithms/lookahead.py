"""Policy improvement by lookahead in belief states, for bandits and tabular MDPs.

What can be known of a task after what was seen of it, Bayes' rule says: `runs.algorithms.belief_values` estimates from
that the values Q(s, a) of all actions in each state of a trial, so that the choice of an action adds no noise. The
agent, which sees none of this, learns to choose from the improved policy

    pi'(a | h) ~ pi(a | h) exp(A / temperature),   A = Q(s, a) - sum_b pi(b | h) Q(s, b)

which is mirror descent (Tomar et al. 2020, arXiv:2005.09814) with a model, as in Muesli (Hessel et al. 2021,
arXiv:2104.06159). Here the model is exact. The network in Q is fitted to lambda-returns of expected rewards, with Q as
a control variate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from envs.trials import require_positive
from runs.algorithms.belief_values import STEPS_AT_ONCE, Beliefs, belief_values, chosen
from runs.algorithms.learner import RunConfig
from runs.algorithms.meta_rl import MetaRLLearner, MetaRLTraining
from runs.algorithms.passes import Passes, TrialBatch
from runs.algorithms.rollout import Trajectories
from runs.system.machine import Machine
from runs.tasks import TrialTask

T = TypeVar("T", bound=TrialBatch)


@dataclass(frozen=True)
class LookaheadTraining(MetaRLTraining):
    """Policy improvement by lookahead in belief states, for bandits and tabular MDPs."""

    epochs: int = 2
    """Passes over the batch in each update."""
    minibatches: int = 8
    """Minibatches of whole trials in each pass."""
    learning_rate: float = 2e-3
    """Adam's initial learning rate for the policy; it decays linearly to 0."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm of the policy."""
    reward_prediction: float = 1.0
    """Weight of predicting the posterior mean rewards of all actions, an auxiliary task of the policy; 0: none."""
    temperature: float = 0.2
    """Temperature of the improved policy, in units of reward: higher is a smaller step."""
    reverse: float = 0.0
    """Weight of the divergence from the policy to the improved one, the rest is on that from the improved one to it. An
    agent that does not remember what its actions depend on earns more with the former, but may stop exploring early."""
    value_lambda: float = 0.9
    """Lambda of the value network's targets; 1: Monte Carlo."""
    value_epochs: int = 8
    """Passes over the states that fit the value network."""
    value_states: int = 16_000
    """States of each update that the value network is fitted to, at most: with many arms they take time."""
    value_learning_rate: float = 2e-3
    """Adam's initial learning rate for the value network; it decays linearly to 0."""

    def learner(self, run: RunConfig, machine: Machine) -> LookaheadLearner:
        """The learner that trains and tests the run's agent."""
        return LookaheadLearner(self, run, machine)


@dataclass(frozen=True)
class Improved(TrialBatch):
    """What the policy learns.

    inputs: (B, T, C) as in `Trajectories`.
    log_policy: (B, T, A) log-probabilities of the improved policy.
    means: (B, T, A) posterior means of the actions' rewards.
    """

    inputs: Tensor
    log_policy: Tensor
    means: Tensor


class LookaheadLearner(MetaRLLearner):
    """Fits the values, then learns the improved policy."""

    training: LookaheadTraining

    def __init__(self, training: LookaheadTraining, run: RunConfig, machine: Machine):
        require_positive(value_states=training.value_states)
        if not 0 <= training.reverse <= 1:
            raise ValueError(f"reverse must be between 0 and 1, got {training.reverse}")
        if not training.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {training.temperature}")
        build = belief_values(cast(TrialTask, run.task))

        def critic() -> nn.Module:
            self.values = build()
            return self.values.network

        super().__init__(training, run, machine, predicts_rewards=training.reward_prediction > 0, critic=critic)
        self.fit_values = Passes(
            self,
            [self.values.network.parameters()],
            self._value_losses,
            self.values.examples,
            epochs=training.value_epochs,
            minibatches=training.minibatches,
            learning_rate=training.value_learning_rate,
        )
        self.fit_policy = Passes(
            self,
            [[*self.model.policy.parameters(), *self.model.actions.parameters()]],
            self._policy_losses,
            Improved,
            epochs=training.epochs,
            minibatches=training.minibatches,
            learning_rate=training.learning_rate,
            max_grad_norm=training.max_grad_norm,
        )

    def learn(self, trials: Trajectories, fraction: float) -> dict[str, Tensor]:
        """Fit the values, improve the policy in all states of the trials, and learn it."""
        group, left = self.group, 1 - fraction
        log_policy = self._log_policy(trials.inputs)
        beliefs = self.values.beliefs(self.model.observations(trials.inputs), trials.actions, trials.rewards)
        examples = self._examples(beliefs, trials.actions, log_policy)
        logs = self.fit_values(self._some(self._gathered(examples)), left)
        improved, gain = self._improved(trials.inputs, beliefs, log_policy)
        logs |= self.fit_policy(self._gathered(improved), left)
        policy = log_policy.exp()
        found = {
            "return": trials.rewards.sum(1),
            self.values.name: (policy * beliefs.rewards).sum((1, 2)) * self.values.sign,
            "entropy": -(policy * log_policy).sum(-1).mean(1),
            "expected_improvement": gain,
        }
        logs |= {name: group.gather(x).mean() for name, x in found.items()}
        mismatch = (chosen(log_policy, trials.actions) - trials.log_probs).abs()  # streaming and parallel: rounding
        return logs | {"step_forward_mismatch": group.gather(mismatch).max()}

    def _gathered(self, batch: T) -> T:
        """The trials of all processes."""
        return type(batch)(*map(self.group.gather, vars(batch).values()))

    @torch.no_grad()
    def _log_policy(self, inputs: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, A)."""
        at_once = max(1, STEPS_AT_ONCE // (inputs.shape[1] * self.model.actions.outputs))
        with self._autocast():
            return torch.cat([self._outputs(x)[0] for x in inputs.split(at_once)])

    @torch.no_grad()
    def _examples(self, beliefs: Beliefs, actions: Tensor, log_policy: Tensor) -> TrialBatch:
        """What the value network should say of all states."""
        values = self.values.action_values(beliefs)
        returns = control_variate_returns(
            (log_policy.exp() * values).sum(-1),
            chosen(values, actions),
            chosen(beliefs.rewards, actions),
            self.training.value_lambda,
        )
        return self.values.to_fit(beliefs, actions, returns)

    def _some(self, examples: T) -> T:
        """As many states as are used, at random."""
        training = self.training
        parts = training.minibatches * self.group.size
        n = max(1, min(training.value_states, len(examples)) // parts) * parts
        return examples.rows(torch.randperm(len(examples), generator=self.generator, device=self.machine.device)[:n])

    @torch.no_grad()
    def _improved(self, inputs: Tensor, beliefs: Beliefs, log_policy: Tensor) -> tuple[Improved, Tensor]:
        """The improved policies, and what the network expects of them: (B,) reward per trial."""
        values = self.values.action_values(beliefs)
        advantages = values - (log_policy.exp() * values).sum(-1, keepdim=True)
        improved = (log_policy + advantages / self.training.temperature).log_softmax(-1)
        return Improved(inputs, improved, beliefs.means), (improved.exp() * advantages).sum((1, 2))

    def _outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and predicted rewards of all actions: (B, T, C) -> (B, T, A), (B, T, A or 0)."""
        outputs, A = self.model.policy(inputs), self.model.actions.outputs
        return outputs[..., :A].float().log_softmax(-1), outputs[..., A : A + self.model.num_predicted]

    def _policy_losses(self, batch: Improved) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            log_policy, predicted = self._outputs(batch.inputs)
        difference = log_policy - batch.log_policy
        weights = torch.lerp(-batch.log_policy.exp(), log_policy.exp(), self.training.reverse)
        loss = (weights * difference).sum(-1).mean()
        found = {"policy_loss": loss}
        if self.model.num_predicted:
            found["reward_error"] = (predicted - batch.means).square().mean()
            loss = loss + self.training.reward_prediction * found["reward_error"]
        return loss, found | {"loss": loss}

    def _value_losses(self, examples: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.values.errors(examples).square().mean()
        return loss, {"value_loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """The state of every learner, and the optimisers'."""
        optimizers = {"optimizer": self.fit_policy.state_dict(), "value_optimizer": self.fit_values.state_dict()}
        return super().state_dict() | optimizers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        super().load_state_dict(state)
        self.fit_policy.load_state_dict(state["optimizer"])
        self.fit_values.load_state_dict(state["value_optimizer"])


def control_variate_returns(expected: Tensor, estimated: Tensor, costs: Tensor, lam: float) -> Tensor:
    """Lambda-returns whose noise from the choice of actions is reduced by a control variate.

        G_t = V_t + lambda (c_t + G_{t+1} - Q_t),   V_t = sum_a pi(a) Q(s_t, a)

    With lambda 1 their mean is that of the costs to go, whatever Q is; where Q is exact, they are V_t.

    Args:
        expected: (B, T) V_t.
        estimated: (B, T) Q_t of the actions taken.
        costs: (B, T) c_t.
        lam: lambda.

    Returns:
        (B, T).
    """
    found, later = [], torch.zeros_like(costs[:, 0])
    for t in reversed(range(costs.shape[1])):
        later = expected[:, t] + lam * (costs[:, t] + later - estimated[:, t])
        found.append(later)
    return torch.stack(found[::-1], dim=1)

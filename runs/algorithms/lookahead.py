"""Policy improvement by one step of lookahead in belief states, for Bernoulli bandits.

What an agent knows of a bandit is the number of pulls and successes of each arm; with a uniform prior, Bayes' rule says
how likely each outcome of each arm is. So the value of every arm follows from the values of the states after it, which
a network estimates, and neither the choice of an arm nor its outcome adds noise:

    Q(s, a) = E[max p | s] - E[p_a | s] + E[R(s')]        expected regret, where s' follows arm a in state s

The agent, which sees no counts, learns to choose in each state of its trials from the improved policy

    pi'(a | h) ~ pi(a | h) exp(A / temperature),   A = sum_b pi(b | h) Q(s, b) - Q(s, a)

which is mirror descent (Tomar et al. 2020, arXiv:2005.09814) with a model, as in Muesli (Hessel et al. 2021,
arXiv:2104.06159). Here the model is exact. R is regressed on lambda-returns of expected regrets, with Q as a control
variate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from baselines.beliefs import bandit_expected_best, bandit_posterior_means, pulls_and_wins
from baselines.regret_network import RegretNetwork
from envs.trials import require_positive
from runs.algorithms.learner import RunConfig
from runs.algorithms.meta_rl import MetaRLLearner, MetaRLTraining
from runs.algorithms.passes import Passes, TrialBatch
from runs.algorithms.rollout import Trajectories
from runs.system.machine import Machine
from runs.tasks import BanditTask

T = TypeVar("T", bound=TrialBatch)

STEPS_AT_ONCE = 65_536
"""Arms times steps per evaluation of the lookahead, which bounds memory."""


@dataclass(frozen=True)
class LookaheadTraining(MetaRLTraining):
    """Policy improvement by one step of lookahead in belief states, for bandits."""

    epochs: int = 2
    """Passes over the batch in each update."""
    minibatches: int = 8
    """Minibatches of whole trials in each pass."""
    learning_rate: float = 2e-3
    """Adam's initial learning rate for the policy; it decays linearly to 0."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm of the policy."""
    reward_prediction: float = 1.0
    """Weight of predicting the posterior mean rewards of all arms, an auxiliary task of the policy network; 0: none."""
    temperature: float = 0.2
    """Temperature of the improved policy, in units of reward: higher is a smaller step."""
    value_lambda: float = 0.9
    """Lambda of the regret network's targets; 1: Monte Carlo."""
    value_epochs: int = 8
    """Passes over the states that fit the regret network."""
    value_states: int = 16_000
    """States of each update that the regret network is fitted to, at most: with many arms they take time."""
    value_learning_rate: float = 2e-3
    """Adam's initial learning rate for the regret network; it decays linearly to 0."""

    def learner(self, run: RunConfig, machine: Machine) -> LookaheadLearner:
        """The learner that trains and tests the run's agent."""
        return LookaheadLearner(self, run, machine)


@dataclass(frozen=True)
class States(TrialBatch):
    """The states of trials: of one process, or of all.

    inputs: (B, N, C) as in `Trajectories`.
    actions: (B, N) arms pulled.
    pulls, wins: (B, N, K) before each pull.
    means: (B, N, K) posterior means of the arms.
    best: (B, N) posterior mean of the best arm's.
    log_policy: (B, N, K).
    """

    inputs: Tensor
    actions: Tensor
    pulls: Tensor
    wins: Tensor
    means: Tensor
    best: Tensor
    log_policy: Tensor

    def regrets(self) -> Tensor:
        """Expected regret of the next pull, of each arm: (B, N, K)."""
        return self.best[..., None] - self.means


@dataclass(frozen=True)
class Improved(TrialBatch):
    """What the policy learns.

    inputs: (B, N, C).
    policy: (B, N, K) probabilities of the improved policy.
    means: (B, N, K) posterior means of the arms.
    """

    inputs: Tensor
    policy: Tensor
    means: Tensor


@dataclass(frozen=True)
class Regrets(TrialBatch):
    """What the regret network learns, of M states.

    pulls, wins: (M, K) of each arm so far.
    left: (M,) pulls that are left.
    targets: (M,) regrets to go.
    """

    pulls: Tensor
    wins: Tensor
    left: Tensor
    targets: Tensor


class LookaheadLearner(MetaRLLearner):
    """Learns the regret network, then the improved policy."""

    training: LookaheadTraining
    task: BanditTask

    def __init__(self, training: LookaheadTraining, run: RunConfig, machine: Machine):
        if not isinstance(run.task, BanditTask):
            kind = type(run.task).__name__
            raise ValueError(f"lookahead needs belief states of bandits, not {kind}; give --algorithm ppo")
        require_positive(value_states=training.value_states)
        if not training.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {training.temperature}")
        predicts, pulls = training.reward_prediction > 0, run.task.pulls
        super().__init__(training, run, machine, predicts_rewards=predicts, critic=lambda: RegretNetwork(pulls))
        self.regret_network = cast(RegretNetwork, self.model.value)
        self.fit_regrets = Passes(
            self,
            [self.regret_network.parameters()],
            self._regret_losses,
            Regrets,
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
        """Fit the regret network, improve the policy in all states of the trials, and learn it."""
        group, left = self.group, 1 - fraction
        states, mismatch = self._states(trials)
        logs = self.fit_regrets(self._some(self._gathered(self._regret_targets(states))), left)
        improved, gain = self._improved(states)
        logs |= self.fit_policy(self._gathered(improved), left)
        policy = states.log_policy.exp()
        found = {
            "return": trials.rewards.sum(1),
            "regret": (policy * states.regrets()).sum((1, 2)),
            "entropy": -(policy * states.log_policy).sum(-1).mean(1),
            "expected_improvement": gain,
        }
        logs |= {name: group.gather(x).mean() for name, x in found.items()}
        return logs | {"step_forward_mismatch": group.gather(mismatch).max()}

    def _gathered(self, batch: T) -> T:
        """The trials of all processes."""
        return type(batch)(*map(self.group.gather, vars(batch).values()))

    @torch.no_grad()
    def _states(self, trials: Trajectories) -> tuple[States, Tensor]:
        """The states of the trials, and (B, N) differences between streaming and parallel form: rounding."""
        arms, played = self.task.arms, (trials.actions, trials.rewards)
        with self._autocast():
            log_policy = torch.cat([self._outputs(trials.inputs[rows])[0] for rows in self._pieces(trials.inputs)])
        states = States(
            trials.inputs,
            trials.actions,
            *pulls_and_wins(*played, arms),
            bandit_posterior_means(*played, arms),
            bandit_expected_best(*played, arms),
            log_policy,
        )
        return states, (chosen(log_policy, trials.actions) - trials.log_probs).abs()

    @torch.no_grad()
    def _regrets(self, states: States) -> Tensor:
        """Regret from here on after each arm, by one step of lookahead: (B, N, K)."""
        parts = (states.rows(rows) for rows in self._pieces(states.inputs))
        later = [self.regret_network.after_pulls(s.pulls, s.wins, self._left(s.pulls)) for s in parts]
        return states.regrets() + torch.cat(later)

    def _regret_targets(self, states: States) -> Regrets:
        """What the regret network should say of all states."""
        regrets = self._regrets(states)
        targets = control_variate_returns(
            (states.log_policy.exp() * regrets).sum(-1),
            chosen(regrets, states.actions),
            chosen(states.regrets(), states.actions),
            self.training.value_lambda,
        )
        return Regrets(*(x.flatten(0, 1) for x in (states.pulls, states.wins, self._left(states.pulls), targets)))

    def _some(self, regrets: Regrets) -> Regrets:
        """As many states as are used, at random."""
        training = self.training
        parts = training.minibatches * self.group.size
        n = max(1, min(training.value_states, len(regrets)) // parts) * parts
        return regrets.rows(torch.randperm(len(regrets), generator=self.generator, device=self.machine.device)[:n])

    def _improved(self, states: States) -> tuple[Improved, Tensor]:
        """The improved policies, and what the network expects of them: (B,) regret saved per trial."""
        regrets, policy = self._regrets(states), states.log_policy.exp()
        advantages = (policy * regrets).sum(-1, keepdim=True) - regrets
        improved = (states.log_policy + advantages / self.training.temperature).softmax(-1)
        return Improved(states.inputs, improved, states.means), (improved * advantages).sum((1, 2))

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows of trials, a part at a time."""
        at_once = max(1, STEPS_AT_ONCE // (x.shape[1] * self.task.arms))
        return torch.arange(len(x), device=x.device).split(at_once)

    @staticmethod
    def _left(pulls: Tensor) -> Tensor:
        """Pulls that are left at each step: (B, N, K) -> (B, N)."""
        B, N, _ = pulls.shape
        return torch.arange(N, 0, -1, dtype=pulls.dtype, device=pulls.device).expand(B, N)

    def _outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and predicted rewards of all arms: (B, N, C) -> (B, N, K), (B, N, K or 0)."""
        outputs, K = self.model.policy(inputs), self.task.arms
        return outputs[..., :K].float().log_softmax(-1), outputs[..., K : K + self.model.num_predicted]

    def _policy_losses(self, batch: Improved) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            log_policy, predicted = self._outputs(batch.inputs)
        loss = functional.kl_div(log_policy, batch.policy, reduction="none").sum(-1).mean()
        found = {"policy_loss": loss}
        if self.model.num_predicted:
            found["reward_error"] = (predicted - batch.means).square().mean()
            loss = loss + self.training.reward_prediction * found["reward_error"]
        return loss, found | {"loss": loss}

    def _regret_losses(self, batch: Regrets) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.regret_network(batch.pulls, batch.wins, batch.left) - batch.targets).square().mean()
        return loss, {"value_loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """The state of every learner, and the optimisers'."""
        optimizers = {"optimizer": self.fit_policy.state_dict(), "value_optimizer": self.fit_regrets.state_dict()}
        return super().state_dict() | optimizers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        super().load_state_dict(state)
        self.fit_policy.load_state_dict(state["optimizer"])
        self.fit_regrets.load_state_dict(state["value_optimizer"])


def chosen(x: Tensor, actions: Tensor) -> Tensor:
    """Entries of the actions taken: (B, N, K), (B, N) -> (B, N)."""
    return x.gather(-1, actions[..., None])[..., 0]


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

"""Policy gradients with generalised advantages: what PPO and TRPO share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from runs.algorithms.learner import RunConfig
from runs.algorithms.meta_rl import MetaRLLearner, MetaRLTraining
from runs.algorithms.passes import TrialBatch
from runs.algorithms.returns import generalized_advantages, moments, standardized
from runs.algorithms.rollout import Trajectories
from runs.algorithms.schedules import ramp
from runs.system.machine import Machine
from runs.tasks import TrialTask
from snail.actor_critic import BeliefCritic

STEPS_AT_ONCE = 32_768
"""Steps per forward pass over collected trials, which bounds memory."""


@dataclass(frozen=True)
class Batch(TrialBatch):
    """Trials with advantages and value targets, for the algorithm.

    inputs: (B, T, C); actions, log_probs: (B, T), as in `Trajectories`, of all processes.
    rewards: (B, T) as the agent received them.
    predictable: (B, T) or (B, T, A) targets of reward prediction.
    privileged: (B, T, F) privileged task information for the critic; None: nothing.
    advantages: (B, T) standardised.
    targets: (B, T) normalised targets of the value function.
    valid: (B, T) which steps count; None: all.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    predictable: Tensor
    privileged: Tensor | None
    advantages: Tensor
    targets: Tensor
    valid: Tensor | None = None


class ReturnNormalizer(nn.Module):
    """Running mean and standard deviation of returns, one pair for each number of remaining steps.

    The value network gets targets of one scale, and need not learn the number of remaining steps.

    Args:
        horizon: steps T of the longest trial.
        rate: weight of a new batch in the running moments.
    """

    mean: Tensor
    std: Tensor
    started: Tensor

    def __init__(self, horizon: int, rate: float = 0.1):
        super().__init__()
        self.rate = rate
        # entry t: the moments at step t of the longest trial; shorter trials use the last entries
        self.register_buffer("mean", torch.zeros(horizon))
        self.register_buffer("std", torch.ones(horizon))
        self.register_buffer("started", torch.zeros(horizon, dtype=torch.bool))

    def update(self, x: Tensor, valid: Tensor | None = None) -> None:
        """Move the moments towards those of ``x`` (B, t) over B; the first call sets them.

        valid: (B, t) which entries count; steps without any are not updated. None: all.
        """
        last = slice(-x.shape[1], None)
        rate = torch.where(self.started[last], self.rate, 1.0)
        mean, std = (x.mean(0), x.std(0, correction=0)) if valid is None else moments(x, valid)
        if valid is not None:
            rate = rate * valid.any(0)
        self.mean[last] = self.mean[last].lerp(mean, rate)
        self.std[last] = self.std[last].lerp(std.clamp(min=1e-6), rate)
        self.started[last] |= True if valid is None else valid.any(0)

    def normalize(self, x: Tensor) -> Tensor:
        """To zero mean and unit variance: (B, t) -> (B, t)."""
        last = slice(-x.shape[1], None)
        return (x - self.mean[last]) / self.std[last]

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of ``normalize``."""
        last = slice(-x.shape[1], None)
        return x * self.std[last] + self.mean[last]


@dataclass(frozen=True)
class PolicyGradientTraining(MetaRLTraining):
    """Settings of PPO and TRPO: how advantages are computed."""

    discount: float = 1.0
    """Discount factor; 1 makes the objective the total reward that is reported."""
    gae_lambda: float = 0.3
    """Lambda of generalised advantage estimation, for the policy."""
    final_lambda: float | None = None
    """Final value of gae_lambda, reached linearly: less bias once there is less noise; None: constant."""
    lambda_rise: tuple[float, float] = (0.2, 0.7)
    """Fractions of training at which gae_lambda starts and stops rising."""
    value_lambda: float = 1.0
    """Lambda of the value function's targets; 1: Monte Carlo returns."""
    expected_rewards: bool = False
    """Compute advantages from expected instead of sampled rewards; the agent still sees the sampled ones."""
    regrets: bool = False
    """Compute advantages from regrets: what an action loses against the best one for who knows the task. They differ
    from rewards by optimal values, which no policy can change, so the expected gradient (with lambda 1) is the same and
    most of its noise is gone."""
    privileged_critic: bool = False
    """Give the value network, which only training uses, the task: success probabilities, or an MDP's optimal values."""
    belief_critic: bool = False
    """Estimate values by a small network without memory, which reads the task and what can be known after the trial so
    far, such as pulls and successes of each arm, instead of by another network like the agent's."""


class PolicyGradientLearner(MetaRLLearner):
    """Estimates the advantage of every action of the trials (GAE). A subclass defines `improve`."""

    training: PolicyGradientTraining

    def __init__(
        self,
        training: PolicyGradientTraining,
        run: RunConfig,
        machine: Machine,
        shared_trunk: bool = False,
        predicts_rewards: bool = False,
    ):
        begin, end = training.lambda_rise
        if not 0 <= begin < end <= 1:
            raise ValueError(f"lambda_rise must be two rising fractions of the training, got {begin} and {end}")
        if training.regrets and training.discount != 1:
            raise ValueError(f"regrets need discount 1, got {training.discount}; give --training.no-regrets")
        told = self._check_critic(training, cast(TrialTask, run.task), shared_trunk)
        super().__init__(
            training,
            run,
            machine,
            shared=shared_trunk,
            predicts_rewards=predicts_rewards,
            privileged=told,
            critic=partial(BeliefCritic, told) if training.belief_critic else None,
        )
        self.return_normalizer = ReturnNormalizer(self.horizon).to(machine.device)

    @abstractmethod
    def improve(self, batch: Batch, left: float) -> dict[str, Tensor]:
        """Improve the policy and the value function; returns scalars to log, ``loss`` among them.

        Args:
            batch: trials of the current policy, with advantages and targets.
            left: the remaining fraction of the training, from 1 down to 0, for schedules.
        """

    @staticmethod
    def _check_critic(training: PolicyGradientTraining, task: TrialTask, shared_trunk: bool) -> int:
        """Channels of privileged information for the critic.

        Raises:
            ValueError: if the task has none, or the critic cannot read it.
        """
        if training.privileged_critic and training.belief_critic:
            raise ValueError("a critic of belief states is told the task anyway; give --training.no-privileged-critic")
        for wanted, size, option in (
            (training.privileged_critic, task.privileged_size, "privileged-critic"),
            (training.belief_critic, task.belief_size, "belief-critic"),
        ):
            if wanted and (shared_trunk or not size):
                missing = "privileged information" if option == "privileged-critic" else "belief states"
                why = "a shared trunk acts as well" if shared_trunk else f"{type(task).__name__} has no {missing}"
                raise ValueError(f"the critic cannot be privileged: {why}; give --training.no-{option}")
            if wanted:
                return size
        return 0

    def learn(self, trials: Trajectories, fraction: float) -> dict[str, Tensor]:
        """Compute advantages, improve."""
        batch, mismatch = self._compute_advantages(trials, self._lambda(fraction))
        logs = self.improve(batch, 1 - fraction)
        return logs | {"return": batch.rewards.sum(1).mean(), "step_forward_mismatch": mismatch}

    def _lambda(self, fraction: float) -> float:
        """Lambda of the advantages at a fraction of the training."""
        training = self.training
        last = training.gae_lambda if training.final_lambda is None else training.final_lambda
        return ramp(fraction, training.gae_lambda, last, *training.lambda_rise)

    @torch.no_grad()
    def _compute_advantages(self, trials: Trajectories, gae_lambda: float) -> tuple[Batch, Tensor]:
        """Advantages and value targets of the trials, and the largest difference between streaming and parallel form.

        Each process passes its own trials through the model; advantages are standardised over those of all.

        The difference is a free check: the policy is still the one that acted, so it can only be rounding.
        """
        training = self.training
        earned, expected, privileged = self._known(trials)
        predictable = self._predictable(trials, expected)
        rows = max(1, STEPS_AT_ONCE // trials.inputs.shape[1])
        inputs = trials.inputs.split(rows)
        pieces = zip(inputs, [None] * len(inputs) if privileged is None else privileged.split(rows), strict=True)
        with self._autocast():
            parameters, values = map(torch.cat, zip(*(self.model(x, t) for x, t in pieces), strict=True))
        log_probs = self.group.gather(self.model.actions.log_probability(parameters, trials.actions))  # (B, T)
        values = self.return_normalizer.restore(self.group.gather(values))
        trials, valid = trials.gathered(self.group), trials.valid
        if valid is not None:  # no value after a trial's last step
            values, log_probs = torch.where(valid, values, 0.0), torch.where(valid, log_probs, trials.log_probs)
        predictable, earned = self.group.gather(predictable), self.group.gather(earned)
        privileged = None if privileged is None else self.group.gather(privileged)

        def advantages(gae_lambda: float) -> Tensor:
            return generalized_advantages(earned, values, training.discount, gae_lambda)

        returns = advantages(training.value_lambda) + values  # (B, T)
        self.return_normalizer.update(returns, valid)
        batch = Batch(
            trials.inputs,
            trials.actions,
            log_probs,
            trials.rewards,
            predictable,
            privileged,
            standardized(advantages(gae_lambda), valid),
            self.return_normalizer.normalize(returns),
            valid,
        )
        return batch, (log_probs - trials.log_probs).abs().max()

    def _known(self, trials: Trajectories) -> tuple[Tensor, Tensor, Tensor | None]:
        """What training knows of the trials' tasks, as its settings ask for.

        Returns:
            (B, T) what advantages are computed from, (B, T) expected rewards, (B, T, F) what the critic is told.
        """
        training, task = self.training, self.task
        earned = expected = trials.rewards
        privileged = None
        if training.expected_rewards or training.regrets or training.privileged_critic or training.belief_critic:
            seen = self.model.observations(trials.inputs)  # (B, T)
            if training.expected_rewards:
                earned = expected = task.expected_rewards(trials.tasks, seen, trials.actions)
            if training.regrets:
                earned = -task.regrets(trials.tasks, seen, trials.actions)
            if training.belief_critic:
                privileged = task.belief(trials.tasks, seen, trials.actions, trials.rewards)
            elif training.privileged_critic:
                privileged = task.privileged(trials.tasks, seen)
        return earned, expected, privileged

    def _predictable(self, trials: Trajectories, expected: Tensor) -> Tensor:
        """What an auxiliary task may predict, given expected rewards of the actions taken."""
        return expected

    def state_dict(self) -> dict[str, Any]:
        """The state of every learner, and the return normaliser's."""
        return super().state_dict() | {"scale": self.return_normalizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        super().load_state_dict(state)
        self.return_normalizer.load_state_dict(state["scale"])

"""Meta-reinforcement learning as RL^2 trains: proximal policy optimisation on whole trials (Duan et al. 2016)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from envs.trials import TrialVectorEnv, require_positive
from runs.agents import AnyAgentConfig
from runs.learner import Measurement
from runs.machine import Machine, stream_seed
from runs.returns import (
    clipped_surrogate_loss,
    entropy,
    generalized_advantages,
    log_probability,
    standardized,
)
from runs.schedules import linear_decay
from runs.tasks import TrialTask
from snail.actor_critic import ActorCritic


@dataclass(frozen=True)
class Trajectories:
    """B whole trials of T steps.

    inputs: (B, T, C) what the agent saw at each step.
    actions: (B, T) what it did; log_probs: (B, T) how probable that was.
    rewards: (B, T) what came of it.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor


@torch.no_grad()
def rollout(
    agent: ActorCritic, env: TrialVectorEnv, generator: torch.Generator, tasks: Tensor | None = None
) -> Trajectories:
    """Play one trial in every row of ``env`` with sampled actions, on new tasks or on the given ones.

    The agent streams: each step costs the same convolution work, however long the trial already is.
    """
    observation, _ = env.reset(options=None if tasks is None else {"tasks": tasks})
    B, T, device = env.num_envs, env.horizon, env.device
    x = agent.first_input(observation)  # (B, C)
    cache = agent.init_cache(B, T)
    # time-major, as the convolutions read it
    inputs = x.new_empty(T, B, x.shape[1])
    actions = torch.empty(T, B, dtype=torch.long, device=device)
    log_probs, rewards = x.new_empty(T, B), x.new_empty(T, B)
    for t in range(T):
        logits, cache = agent.act(x, cache, in_place=True)  # (B, A)
        log_p = logits.log_softmax(-1)
        # the largest of p / Exp(1) is a draw from p, and needs no copy to the host
        noise = torch.empty_like(log_p).exponential_(generator=generator)
        action = (log_p.exp() / noise).argmax(-1)  # (B,)
        inputs[t], actions[t] = x, action
        log_probs[t] = log_p.gather(-1, action[:, None])[:, 0]
        observation, rewards[t], _, _, info = env.step(action)
        x = agent.encode(observation, action, rewards[t], info["episode_end"])
    return Trajectories(*(y.transpose(0, 1) for y in (inputs, actions, log_probs, rewards)))


@dataclass(frozen=True)
class PPOTraining:
    """Proximal policy optimisation (Schulman et al. 2017) with generalised advantages, on whole trials."""

    steps: int
    """Updates: each plays a batch of trials and learns from it."""
    batch_size: int = 512
    """Trials in an update."""
    epochs: int = 4
    """Passes over the trials of an update."""
    minibatches: int = 4
    """Pieces of whole trials that each pass is cut into."""
    learning_rate: float = 2e-3
    """Adam's step size at the start; it falls linearly to 0."""
    discount: float = 1.0
    """Discount of later rewards; 1 makes the objective the total reward that is reported."""
    gae_lambda: float = 0.3
    """Lambda of the generalised advantages."""
    clip: float = 0.2
    """How far the probability ratio may pay off."""
    entropy_bonus: float = 0.01
    """Weight of the policy's entropy at the start; it falls linearly to 0."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient, of policy and value network each."""
    shared_trunk: bool = False
    """One network for policy and value instead of the paper's two."""

    def learner(self, task: TrialTask, agent: AnyAgentConfig, test: TrialTest, seed: int, machine: Machine):
        """What trains ``agent`` on ``task``."""
        return PPOLearner(self, task, agent, test, seed, machine)


@dataclass(frozen=True)
class TrialTest:
    """The frozen tasks that the reported return is measured on."""

    trials: int = 20_000
    """Trials, each on a task of its own."""
    seed: int = 2018
    """What freezes the tasks: the same for all agents."""


class RunningScale(nn.Module):
    """Mean and standard deviation of the returns seen so far, to hand the value network targets of one scale."""

    mean: Tensor
    std: Tensor
    started: Tensor

    def __init__(self, rate: float = 0.1):
        super().__init__()
        self.rate = rate
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def update(self, x: Tensor) -> None:
        """Move towards the moments of ``x``; take them over the first time."""
        rate = torch.where(self.started, self.rate, 1.0)
        self.mean.lerp_(x.mean(), rate)
        self.std.lerp_(x.std().clamp(min=1e-6), rate)
        self.started.fill_(True)

    def normalize(self, x: Tensor) -> Tensor:
        """To zero mean and unit variance."""
        return (x - self.mean) / self.std

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of ``normalize``."""
        return x * self.std + self.mean


class PPOLearner:
    """Trains a policy and a value network with memory on trials of ever new tasks."""

    unit = "env step"
    validations = 0  # every training batch is of tasks never seen before: its return is out of sample

    def __init__(
        self,
        training: PPOTraining,
        task: TrialTask,
        agent: AnyAgentConfig,
        test: TrialTest,
        seed: int,
        machine: Machine,
    ):
        require_positive(steps=training.steps, epochs=training.epochs, minibatches=training.minibatches)
        if test.trials < 2:
            raise ValueError(f"an interval needs at least 2 trials, got {test.trials}")
        if training.batch_size % training.minibatches:
            raise ValueError(
                f"batch_size must be a multiple of minibatches, got {training.batch_size} and {training.minibatches}"
            )
        self.training, self.task, self.test, self.machine = training, task, test, machine
        self.env = task.make_env(training.batch_size, machine.device)
        self.steps, self.units_per_step = training.steps, training.batch_size * self.env.horizon
        torch.manual_seed(seed)
        env = self.env
        model = agent.build_actor_critic(env.num_observations, env.num_actions, env.horizon, training.shared_trunk)
        self.model = model.to(machine.device)
        self.scale = RunningScale().to(machine.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), training.learning_rate, eps=1e-5, fused=True)
        self.generator = machine.generator(stream_seed(seed, "actions"))
        self.env.reset(seed=stream_seed(seed, "tasks"))

    def update(self, step: int) -> dict[str, Tensor]:
        """Play a batch of trials, then a few epochs of clipped policy gradients on them."""
        training, model = self.training, self.model
        left = linear_decay(step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate * left
        trials = rollout(model, self.env, self.generator)
        with torch.no_grad():
            logits, values = _in_chunks(model, trials.inputs, training.minibatches)
            log_probs = log_probability(logits, trials.actions)
            # Before the first update the policy is the one that acted, so streaming and parallel form must agree.
            mismatch = (log_probs - trials.log_probs).abs().max()
            values = self.scale.restore(values)
            advantages = generalized_advantages(trials.rewards, values, training.discount, training.gae_lambda)
            returns = advantages + values  # (B, T)
            self.scale.update(returns)
            targets = self.scale.normalize(returns)
            advantages = standardized(advantages)
        logs: dict[str, list[Tensor]] = {}
        for _ in range(training.epochs):
            order = torch.randperm(len(log_probs), generator=self.generator, device=self.machine.device)
            for rows in order.chunk(training.minibatches):
                new_logits, value = model(trials.inputs[rows])
                log_ratio = log_probability(new_logits, trials.actions[rows]) - log_probs[rows]
                policy_loss = clipped_surrogate_loss(log_ratio, advantages[rows], training.clip)
                value_loss = 0.5 * (value - targets[rows]).square().mean()
                spread = entropy(new_logits).mean()
                loss = policy_loss + value_loss - training.entropy_bonus * left * spread
                self.optimizer.zero_grad()
                loss.backward()
                for part in (model.policy, model.value):
                    if part is not None:
                        nn.utils.clip_grad_norm_(part.parameters(), training.gradient_clip)
                self.optimizer.step()
                with torch.no_grad():
                    kl = (log_ratio.exp() - 1 - log_ratio).mean()
                found = {"loss": loss, "value_loss": value_loss, "entropy": spread, "kl": kl}
                for name, x in found.items():
                    logs.setdefault(name, []).append(x.detach())
        mean = {name: torch.stack(xs).mean() for name, xs in logs.items()}
        return {**mean, "return": trials.rewards.sum(1).mean(), "step_forward_mismatch": mismatch}

    def validate(self) -> dict[str, float]:
        """Nothing to add to the returns of the training batches."""
        return {}

    def evaluate(self, progress: Any) -> list[Measurement]:
        """Total reward of a trial with sampled actions, on the frozen test tasks."""
        n = self.test.trials
        # drawn on the host, so that they are the same whatever the device
        tasks = self.env.sample_tasks(n, torch.Generator().manual_seed(stream_seed(self.test.seed, "test tasks")))
        generator = self.machine.generator(stream_seed(self.test.seed, "test actions"))
        totals = []
        for start in range(0, n, 4000):
            batch = tasks[start : start + 4000].to(self.machine.device)
            env = self.task.make_env(len(batch), self.machine.device)
            env.reset(seed=stream_seed(self.test.seed, f"test rewards {start}"))
            totals.append(rollout(self.model, env, generator, batch).rewards.sum(1))
            progress(start + len(batch), n)
        task_set = hashlib.sha256(tasks.numpy().tobytes()).hexdigest()[:16]
        return [Measurement.of("return", torch.cat(totals), task_set)]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, scale of the returns and the state of the randomness."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.state_dict(),
            "generator": self.generator.get_state(),
            "env_generator": self.env.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale.load_state_dict(state["scale"])
        self.generator.set_state(state["generator"])
        self.env.generator.set_state(state["env_generator"])


def _in_chunks(model: ActorCritic, inputs: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """The model over all trials without holding the activations of all at once: (B, T, A), (B, T)."""
    logits, values = zip(*(model(x) for x in inputs.chunk(chunks)), strict=True)
    return torch.cat(logits), torch.cat(values)

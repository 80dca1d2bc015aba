"""Meta-reinforcement learning on whole trials of new tasks (Duan et al. 2016, RL^2): the part that algorithms share.

A learner plays a batch of trials, estimates the advantage of every action (GAE), and passes both to the algorithm,
`runs.algorithms.ppo` or `runs.algorithms.trpo`, to improve the policy and the value function.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from envs.gym_trials import GymTrialVectorEnv
from envs.trials import TrialVectorEnv, require_positive
from runs.agents import ActorCriticSpec, TrialAgent
from runs.algorithms.attention_maps import PlayedTrial
from runs.algorithms.finite import require_finite
from runs.algorithms.learner import Measurement, RunConfig, Test, Training
from runs.algorithms.returns import generalized_advantages, moments, standardized
from runs.algorithms.rollout import Player, Trajectories, player, rollout
from runs.algorithms.schedules import geometric_growth, ramp
from runs.system.distributed.layers import use_distributed_layers
from runs.system.machine import Machine, stream_seed, use_bfloat16
from runs.tasks import Task, TrialTask
from snail.attention.selection import recording
from snail.observations import OneHot

STEPS_AT_ONCE = 32_768
"""Steps per forward pass over collected trials, which bounds memory."""


@dataclass(frozen=True)
class Batch:
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

    def rows(self, rows: Tensor) -> Batch:
        """A subset of the trials."""
        return Batch(*(None if x is None else x[rows] for x in vars(self).values()))  # type: ignore[arg-type]


Play = Callable[[TrialVectorEnv, torch.Generator, Tensor], Tensor]
"""Plays a trial on each of the given tasks: env, generator, tasks (B, ...) -> rewards (B, T)."""


@dataclass(frozen=True)
class TrialTest(Test):
    """The frozen test tasks."""

    trials: int = 20_000
    """Test trials, each on its own task."""
    seed: int = 2018
    """Seed of the frozen test tasks, the same for all agents."""

    def measure(self, task: TrialTask, machine: Machine, play: Play, progress: Any) -> list[Measurement]:
        """Total reward of a trial, over the frozen tasks.

        Raises:
            ValueError: for fewer than 2 trials.
        """
        if self.trials < 2:
            raise ValueError(f"an interval needs at least 2 trials, got {self.trials}")
        # drawn on the host, so that they do not depend on the device
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "test tasks"))
        env = task.make_env(1, "cpu")
        tasks = env.sample_tasks(self.trials, generator)
        env.close()
        generator = machine.generator(stream_seed(self.seed, "test actions"))
        totals: dict[str, list[Tensor]] = {}
        for start in range(0, self.trials, task.tested_at_once):
            batch = tasks[start : start + task.tested_at_once].to(machine.device)
            env = task.make_env(len(batch), machine.device)
            env.reset(seed=stream_seed(self.seed, f"test rewards {start}"))
            totals.setdefault("return", []).append(play(env, generator, batch).sum(1).cpu())
            for name, x in episode_numbers(env, task.score):
                totals.setdefault(name, []).append(x.cpu())
            env.close()
            progress(start + len(batch), self.trials)
        task_set = hashlib.sha256(tasks.numpy().tobytes()).hexdigest()[:16]
        return [Measurement.of(name, torch.cat(parts), task_set) for name, parts in totals.items()]


def episode_numbers(env: Any, score: str = "") -> Iterator[tuple[str, Tensor]]:
    """Metrics per episode of the trials just played, if the task has them: names and (B,) returns of each episode.

    ``score`` names the environment's own metric, which is averaged over each episode's steps.
    """
    if isinstance(env, GymTrialVectorEnv):
        returns, scores = env.episode_returns, env.episode_scores  # (B, episodes)
        for e in range(env.episodes):
            yield f"return_episode{e + 1}", returns[:, e]
            if score:
                yield f"{score}_episode{e + 1}", scores[:, e]


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
class MetaRLTraining(Training):
    """Settings of all algorithms: number and length of trials, and how advantages are computed."""

    steps: int
    """Number of updates; each collects a batch of trials."""
    batch_size: int = 512
    """Trials per update; more while a curriculum shortens them."""
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
    bfloat16: bool = False
    """Train with bfloat16 autocast, on devices with instructions for it; parameters, losses and rollouts stay in
    float32."""
    curriculum: float = 0.0
    """Fraction of training in which trials grow to full length; 0: full from the start."""
    curriculum_episodes: int = 10
    """Inner episodes of a curriculum's first trials."""


class MetaRLLearner(ABC):
    """Trains a policy and a value network with memory on trials of new tasks.

    A subclass defines `improve`, and adds its own state to `state_dict` and `load_state_dict`.
    """

    unit = "env step"
    validations = 0  # every training batch has new tasks: its return is out of sample

    def __init__(
        self,
        training: MetaRLTraining,
        run: RunConfig,
        machine: Machine,
        shared_trunk: bool = False,
        predicts_rewards: bool = False,
    ):
        task, test, seed = cast(TrialTask, run.task), cast(TrialTest, run.test), run.seed
        require_positive(
            steps=training.steps, batch_size=training.batch_size, curriculum_episodes=training.curriculum_episodes
        )
        if not 0 <= training.curriculum <= 1:
            raise ValueError(f"curriculum must be between 0 and 1, got {training.curriculum}")
        begin, end = training.lambda_rise
        if not 0 <= begin < end <= 1:
            raise ValueError(f"lambda_rise must be two rising fractions of the training, got {begin} and {end}")
        if training.regrets and training.discount != 1:
            raise ValueError(f"regrets need discount 1, got {training.discount}; give --training.no-regrets")
        if test.trials < 2:
            raise ValueError(f"an interval needs at least 2 trials, got {test.trials}")
        privileged = self._check_critic(training, task, shared_trunk)
        if task.one_process:
            machine.group.require_single_process("Gymnasium environments are stepped by their own worker processes")
        self.training, self.task, self.test, self.machine, self.group = training, task, test, machine, machine.group
        self.steps = training.steps
        self.env = env = task.make_env(training.batch_size, machine.device)
        self.horizon, self.episodes = env.horizon, env.horizon // env.episode_length
        torch.manual_seed(seed)
        agent = cast(TrialAgent, run.model)
        spec = ActorCriticSpec(
            *task.encodings(env), env.horizon, shared_trunk, predicts_rewards, privileged, training.belief_critic
        )
        model = agent.build_actor_critic(spec)
        use_distributed_layers(model, self.group)
        self.model = model.to(machine.device)
        self._half = use_bfloat16(training.bfloat16, machine.device)
        self.return_normalizer = ReturnNormalizer(env.horizon).to(machine.device)
        self.generator = machine.generator(stream_seed(seed, "actions"))
        self.env.reset(seed=stream_seed(seed, "tasks"))
        self._player: Player | None = None  # of the current env

    @abstractmethod
    def improve(self, batch: Batch, left: float) -> dict[str, Tensor]:
        """Improve the policy and the value function; returns scalars to log, ``loss`` among them.

        Args:
            batch: trials of the current policy, with advantages and targets.
            left: the remaining fraction of the training, from 1 down to 0, for schedules.
        """

    @staticmethod
    def _check_critic(training: MetaRLTraining, task: TrialTask, shared_trunk: bool) -> int:
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

    def update(self, step: int) -> dict[str, Tensor]:
        """Collect a batch of trials, compute advantages, improve."""
        self._set_length(self._episodes_at(step))
        trials = self._play()
        batch, mismatch = self._compute_advantages(trials, self._lambda(step / self.steps))
        logs = self.improve(batch, 1 - step / self.steps)
        logs |= {name: x.mean() for name, x in episode_numbers(self.env, self.task.score)}
        self.model.encoder.update()
        return {**logs, "return": batch.rewards.sum(1).mean(), "step_forward_mismatch": mismatch}

    def units(self, step: int) -> int:
        """Environment steps of update number ``step``."""
        episodes = self._episodes_at(step)
        return self._trials_of(episodes) * episodes * self.env.episode_length

    def _lambda(self, fraction: float) -> float:
        """Lambda of the advantages at a fraction of the training."""
        training = self.training
        last = training.gae_lambda if training.final_lambda is None else training.final_lambda
        return ramp(fraction, training.gae_lambda, last, *training.lambda_rise)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self._half)

    def _episodes_at(self, step: int) -> int:
        first = min(self.training.curriculum_episodes, self.episodes)
        return round(geometric_growth(step / self.steps, first, self.episodes, self.training.curriculum))

    def _trials_of(self, episodes: int) -> int:
        """Trials per update: more while they are shorter, so that the number of steps stays the same."""
        return self.training.batch_size * self.episodes // episodes

    def _check_parts(self, minibatches: int) -> None:
        """Raise ValueError unless each of the ``pieces`` of every update's trials can be sharded over the group."""
        for episodes in {self._episodes_at(step) for step in range(self.steps)} if not self.group.single else ():
            for rows in torch.arange(self._trials_of(episodes)).chunk(minibatches):
                self.group.require_divisible("the trials of a minibatch", len(rows))

    def _set_length(self, episodes: int) -> None:
        """Set the number of inner episodes per trial; the environment's generator continues."""
        if episodes * self.env.episode_length == self.env.horizon:
            return
        env = self.task.make_env(self._trials_of(episodes), self.machine.device, episodes)
        env.generator.set_state(self.env.generator.get_state())
        self.env, self._player = env, None

    def _play(self) -> Trajectories:
        """This process's shard of the next batch."""
        if self._player is None:
            self._player = player(self.model, self.env, self.generator, self.group)
        return self._player()

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

    def validate(self) -> dict[str, float]:
        """Nothing: the training returns are already out of sample."""
        return {}

    def evaluate(self, progress: Any) -> list[Measurement]:
        """Total reward of a trial with sampled actions, on the frozen test tasks."""

        def play(env: TrialVectorEnv, generator: torch.Generator, tasks: Tensor) -> Tensor:
            trials = rollout(self.model, env, generator, tasks)
            # the largest of NaNs would pass for an action
            require_finite(self.model, [trials.log_probs], lambda: self.model.policy(trials.inputs), always=True)
            return trials.rewards

        return self.test.measure(self.task, self.machine, play, progress)

    def test_on(self, task: Task) -> None:
        """Test on another task of the same shapes, of any length.

        Raises:
            ValueError: if the shapes differ.
        """
        if not isinstance(task, TrialTask):
            raise ValueError("its tasks are not trials")
        ours, theirs = (t.make_env(1, "cpu") for t in (self.task, task))
        for what in ("single_observation_space", "single_action_space"):
            a, b = getattr(ours, what), getattr(theirs, what)
            if a != b:
                raise ValueError(f"the agent was trained for {what} {a}, not {b}")
        ours.close()
        theirs.close()
        self.task = task

    @torch.no_grad()
    def attention_maps(self, seed: int) -> PlayedTrial:
        """Play one trial and record the policy's attention maps."""
        model, env = self.model, self.task.make_env(1, self.machine.device)
        env.reset(seed=stream_seed(seed, "watched task"))
        model.eval()
        trial = rollout(model, env, self.machine.generator(stream_seed(seed, "watched actions")))
        env.close()
        T = env.horizon if trial.valid is None else int(trial.valid.sum())
        inputs, discrete = trial.inputs[:, :T], isinstance(model.encoder, OneHot)
        with recording(weights=True) as tape:
            outputs = model.policy(inputs)[0, :, : model.actions.outputs]
        return PlayedTrial(
            trial.tasks[0].cpu(),
            (model.observations(inputs) if discrete else inputs[..., : model.encoder.channels])[0].cpu(),
            trial.actions[0, :T].cpu(),
            trial.rewards[0, :T].cpu(),
            torch.cat([inputs[0, 1:, -1] > 0, torch.ones(1, dtype=torch.bool, device=inputs.device)]).cpu(),
            model.actions.parameters_of(outputs).cpu(),
            tuple(weights[0].float().cpu() for weights in tape.weights),
        )

    def details(self) -> dict[str, Any]:
        """No more entries."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Weights, return normaliser and random states."""
        return {
            "model": self.model.state_dict(),
            "scale": self.return_normalizer.state_dict(),
            "generator": self.generator.get_state(),
            "env_generator": self.env.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.load_weights(state)
        self.return_normalizer.load_state_dict(state["scale"])
        self.generator.set_state(state["generator"])
        self.env.generator.set_state(state["env_generator"])

    def load_weights(self, state: dict[str, Any]) -> None:
        """Restore the weights that testing needs, from any device."""
        self.model.load_state_dict(state["model"])

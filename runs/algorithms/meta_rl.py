"""Meta-reinforcement learning on whole trials of new tasks (Duan et al. 2016, RL^2): the part that algorithms share.

A learner plays a batch of trials and passes it to the algorithm to improve the policy: `runs.algorithms.ppo`,
`runs.algorithms.trpo` or `runs.algorithms.lookahead`. The result is tested on frozen tasks.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from envs.gym_trials import GymTrialVectorEnv
from envs.trials import TrialVectorEnv, require_positive
from runs.agents import ActorCriticSpec, TrialAgent
from runs.algorithms.attention_maps import PlayedTrial
from runs.algorithms.finite import require_finite
from runs.algorithms.learner import Measurement, RunConfig, Test, Training
from runs.algorithms.rollout import Player, Trajectories, player, rollout
from runs.algorithms.schedules import geometric_growth
from runs.system.distributed.layers import use_distributed_layers
from runs.system.machine import Machine, stream_seed, use_bfloat16
from runs.tasks import Task, TrialTask
from snail.attention.selection import recording
from snail.observations import OneHot

VALUE = "value."
"""Prefix of the weights of the value network, which only training needs."""

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


@dataclass(frozen=True)
class MetaRLTraining(Training):
    """Settings of all algorithms: number and length of trials."""

    steps: int
    """Number of updates; each collects a batch of trials."""
    batch_size: int = 512
    """Trials per update; more while a curriculum shortens them."""
    bfloat16: bool = False
    """Train with bfloat16 autocast, on devices with instructions for it; parameters, losses and rollouts stay in
    float32."""
    curriculum: float = 0.0
    """Fraction of training in which trials grow to full length; 0: full from the start."""
    curriculum_episodes: int = 10
    """Inner episodes of a curriculum's first trials."""


class MetaRLLearner(ABC):
    """Trains an agent with memory on trials of new tasks.

    A subclass defines `learn`, and adds its own state to `state_dict` and `load_state_dict`.

    Args:
        training: the algorithm's settings.
        run: task, agent, seed and test.
        machine: where to train.
        critic: optional fields of `ActorCriticSpec`: what kind of value network the algorithm needs.
    """

    unit = "env step"
    validations = 0  # every training batch has new tasks: its return is out of sample

    def __init__(self, training: MetaRLTraining, run: RunConfig, machine: Machine, **critic: Any):
        task, test, seed = cast(TrialTask, run.task), cast(TrialTest, run.test), run.seed
        require_positive(
            steps=training.steps, batch_size=training.batch_size, curriculum_episodes=training.curriculum_episodes
        )
        if not 0 <= training.curriculum <= 1:
            raise ValueError(f"curriculum must be between 0 and 1, got {training.curriculum}")
        if test.trials < 2:
            raise ValueError(f"an interval needs at least 2 trials, got {test.trials}")
        if task.one_process:
            machine.group.require_single_process("Gymnasium environments are stepped by their own worker processes")
        self.training, self.task, self.test, self.machine, self.group = training, task, test, machine, machine.group
        self.steps = training.steps
        self.env = env = task.make_env(training.batch_size, machine.device)
        self.horizon, self.episodes = env.horizon, env.horizon // env.episode_length
        torch.manual_seed(seed)
        agent = cast(TrialAgent, run.model)
        model = agent.build_actor_critic(ActorCriticSpec(*task.encodings(env), env.horizon, **critic))
        use_distributed_layers(model, self.group)
        self.model = model.to(machine.device)
        self._half = use_bfloat16(training.bfloat16, machine.device)
        self.generator = machine.generator(stream_seed(seed, "actions"))
        self.env.reset(seed=stream_seed(seed, "tasks"))
        self._player: Player | None = None  # of the current env

    @abstractmethod
    def learn(self, trials: Trajectories, fraction: float) -> dict[str, Tensor]:
        """Improve the agent; returns scalars to log, ``loss`` and ``return`` among them.

        Args:
            trials: this process's trials of the current policy.
            fraction: of the training that has passed, for schedules.
        """

    def update(self, step: int) -> dict[str, Tensor]:
        """Collect a batch of trials, and learn from it."""
        self._set_length(self._episodes_at(step))
        logs = self.learn(self._play(), step / self.steps)
        logs |= {name: x.mean() for name, x in episode_numbers(self.env, self.task.score)}
        self.model.encoder.update()
        return logs

    def units(self, step: int) -> int:
        """Environment steps of update number ``step``."""
        episodes = self._episodes_at(step)
        return self._trials_of(episodes) * episodes * self.env.episode_length

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self._half)

    def _episodes_at(self, step: int) -> int:
        first = min(self.training.curriculum_episodes, self.episodes)
        return round(geometric_growth(step / self.steps, first, self.episodes, self.training.curriculum))

    def _trials_of(self, episodes: int) -> int:
        """Trials per update: more while they are shorter, so that the number of steps stays the same."""
        return self.training.batch_size * self.episodes // episodes

    def check_minibatches(self, minibatches: int) -> None:
        """Raise ValueError unless the minibatches of every update's trials can be sharded over the group."""
        require_positive(minibatches=minibatches)
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
        """Weights and random states."""
        return {
            "model": self.model.state_dict(),
            "generator": self.generator.get_state(),
            "env_generator": self.env.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.load_weights(state)
        self.generator.set_state(state["generator"])
        self.env.generator.set_state(state["env_generator"])

    def load_weights(self, state: dict[str, Any]) -> None:
        """Restore the weights that testing needs, from any device; those of the value network may be missing."""
        value = {name: x for name, x in self.model.state_dict().items() if name.startswith(VALUE)}
        self.model.load_state_dict(value | state["model"])

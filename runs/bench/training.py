"""Speed of learning: whole iterations of PPO on bandits, and their updates relative to the machine's peak."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from runs.agents import SNAILConfig
from runs.algorithms.learner import RunConfig
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.policy_gradient import Batch
from runs.algorithms.ppo import PPOLearner, PPOTraining
from runs.bench.measure import Benchmark, Candidate, Sizes, measure
from runs.bench.recurrent_ppo import RecurrentPPO, bandit
from runs.system.machine import Machine
from runs.tasks import BanditTask


class Repeated(PPOLearner):
    """PPO whose update phase can be repeated on the trials of its last iteration."""

    batch: Batch

    def improve(self, batch: Batch, left: float) -> dict[str, Tensor]:
        """Remember the batch."""
        self.batch = batch
        return super().improve(batch, left)

    def improve_again(self) -> None:
        """Only the update phase, with step size 0, so that the weights do not change."""
        super().improve(self.batch, left=0.0)


def _run(training: PPOTraining, task: BanditTask) -> RunConfig:
    return RunConfig("bench", "snail", "none", 0, task, SNAILConfig(), training, TrialTest())


def bench_training(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Environment steps per second of PPO, playing and learning."""
    task = BanditTask(sizes.arms, sizes.pulls)
    training = PPOTraining(steps=1, batch_size=sizes.trials)
    learner = training.learner(_run(training, task), Machine(device))
    candidates = [
        Candidate("ours: an iteration", "float32", sizes.trials, sizes.trials * sizes.pulls, lambda: learner.update(0)),
    ]
    other = RecurrentPPO.if_installed(partial(bandit, task), device, sizes.recurrent_ppo_steps)
    if other is not None:
        candidates.append(Candidate(f"{other.name}: an iteration", "float32", 1, other.steps, other.iterate))
    rows, peaks = measure(candidates, device, repetitions, sizes.matrices)
    about = (
        f"playing and learning, {sizes.arms}-armed bandits, {sizes.pulls} pulls a trial; ours is PPO of SNAIL, "
        f"{training.epochs} epochs"
    )
    return Benchmark("training", about, "env steps", "trials", rows, peaks)


def bench_update(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Steps per second in the update phase of PPO: forward, backward and optimiser."""
    training = PPOTraining(steps=1, batch_size=sizes.trials, epochs=1)
    learner = Repeated(training, _run(training, BanditTask(sizes.arms, sizes.pulls)), Machine(device))
    learner.update(0)
    steps, minibatch = sizes.trials * sizes.pulls, sizes.trials // training.minibatches
    candidates = [Candidate("ours: an epoch", "float32", minibatch, steps, learner.improve_again)]
    rows, peaks = measure(candidates, device, repetitions, sizes.matrices)
    about = f"the update phase of PPO, SNAIL on {sizes.arms}-armed bandits, {sizes.pulls} pulls a trial"
    return Benchmark("update", about, "steps", "trials", rows, peaks)

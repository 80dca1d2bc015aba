"""Speed of acting: whole trials of bandits, and single steps early and late in a long trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from envs.trials import TrialVectorEnv
from runs.algorithms.rollout import Player, Trajectories, player, rollout
from runs.bench.measure import Benchmark, Candidate, Sizes, check_agreement, largest, measure
from runs.bench.recurrent_ppo import NOT_INSTALLED, RecurrentPPO, bandit
from runs.tasks import BanditTask
from snail.actor_critic import ActorCritic
from snail.minimal import minimal_copy
from snail.model import SNAIL


@dataclass(frozen=True)
class History:
    """The history of an agent without a cache: inputs (B, t, C), and values (B,) of the t steps."""

    inputs: Tensor
    values: tuple[Tensor, ...] = ()


class RerunAgent(ActorCritic):
    """An agent that runs policy and value network over all steps so far, for every action.

    Args:
        agent: the agent whose function it computes.
        policy: (B, t, C) -> (B, t, A), the agent's own or an equivalent one.
        value: (B, t, C) -> (B, t, 1), likewise.
    """

    def __init__(self, agent: ActorCritic, policy: nn.Module, value: nn.Module):
        super().__init__(agent.policy, agent.value, agent.encoder, agent.actions)
        self.networks = nn.ModuleList([policy, value])

    def init_cache(self, batch_size: int, max_len: int) -> History:
        """The history before the first step."""
        channels = self.policy.input_size
        return History(torch.empty(batch_size, 0, channels, device=next(self.parameters()).device))

    def act(self, x_t: Tensor, cache: History) -> tuple[Tensor, History]:
        """One step: (B, C), history -> logits (B, A), history."""
        inputs = torch.cat([cache.inputs, x_t[:, None]], dim=1)  # (B, t + 1, C)
        logits, values = (network(inputs)[:, -1] for network in self.networks)
        return logits, History(inputs, (*cache.values, values[:, 0]))


@torch.no_grad()
def collect(agent: ActorCritic, play: Player) -> tuple[Trajectories, Tensor]:
    """Our rollout: actions by ``step``, then all values in parallel; returns trajectories and values (B, T)."""
    assert agent.value is not None
    trials = play()
    # chunks whose activations fit the CPU cache
    piece = 32 if trials.inputs.device.type == "cpu" else len(trials.inputs)
    return trials, torch.cat([agent.value(x) for x in trials.inputs.split(piece)])[..., 0]


@torch.no_grad()
def replay(agent: ActorCritic, inputs: Tensor) -> tuple[Tensor, Any]:
    """An agent's log-probabilities (B, T, A) and final cache for ``inputs`` (B, T, C)."""
    cache, found = agent.init_cache(*inputs.shape[:2]), []
    for x_t in inputs.unbind(1):
        logits, cache = agent.act(x_t, cache)
        found.append(logits.log_softmax(-1))
    return torch.stack(found, dim=1), cache


def rollout_differences(
    agent: ActorCritic, reference: RerunAgent, env: TrialVectorEnv, generator: torch.Generator
) -> dict[str, float]:
    """Largest difference of log-probabilities and values over the trials of ``env``."""
    trials, values = collect(agent, partial(rollout, agent, env, generator))
    log_p, history = replay(reference, trials.inputs)  # (B, T, A)
    log_probs = log_p.gather(-1, trials.actions[..., None])[..., 0]  # (B, T)
    return {
        "log-probabilities": largest(log_probs - trials.log_probs),
        "values": largest(torch.stack(history.values, dim=1) - values),
    }


def bench_rollout(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Environment steps per second of SNAIL on bandits, with log-probabilities and values."""
    task = BanditTask(sizes.arms, sizes.pulls)
    torch.manual_seed(0)
    channels = ActorCritic.input_size(1, sizes.arms)
    policy, value = SNAIL.policy(channels, sizes.arms, sizes.pulls), SNAIL.value(channels, sizes.pulls)
    agent = ActorCritic(policy, value, 1, sizes.arms).to(device)
    rerun = RerunAgent(agent, policy, value)
    plain = RerunAgent(agent, minimal_copy(policy), minimal_copy(value))
    generator = torch.Generator(device).manual_seed(0)
    envs = {n: task.make_env(n, device) for n in (sizes.trials, sizes.rerun_trials, 1)}
    for env in envs.values():
        env.reset(seed=0)
    differences = rollout_differences(agent, plain, envs[sizes.rerun_trials], generator)
    check_agreement(differences)

    def way(name: str, trials: int, by: Callable[[TrialVectorEnv], Callable[[], object]]) -> Candidate:
        return Candidate(name, "float32", trials, trials * sizes.pulls, by(envs[trials]))

    def by_rerun(agent: RerunAgent) -> Callable[[TrialVectorEnv], Callable[[], object]]:
        return lambda env: partial(rollout, agent, env, generator)

    def by_streaming(env: TrialVectorEnv) -> Callable[[], object]:
        return partial(collect, agent, player(agent, env, generator))

    candidates = [
        way("ours: streaming", sizes.trials, by_streaming),
        way("re-running, our blocks", sizes.rerun_trials, by_rerun(rerun)),
        way("re-running, plain PyTorch", sizes.rerun_trials, by_rerun(plain)),
        way("ours: streaming", 1, by_streaming),
        way("re-running, plain PyTorch", 1, by_rerun(plain)),
    ]
    other = RecurrentPPO.if_installed(partial(bandit, task), device, sizes.recurrent_ppo_steps)
    if other is not None:
        candidates.append(Candidate(f"{other.name}: collecting", "float32", 1, other.steps, other.collect))
    rows, peaks = measure(candidates, device, repetitions, sizes.matrices)
    about = f"policy and value of SNAIL, {sizes.arms}-armed bandits, {sizes.pulls} pulls a trial"
    notes = (NOT_INSTALLED,) if other is None else other.notes
    return Benchmark("rollout", about, "env steps", "trials", rows, peaks, differences, notes=notes)


def bench_steps(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """The cost of one streaming step, early and late in a long trial."""
    horizon, n = max(sizes.step_times), sizes.steps_timed
    torch.manual_seed(0)
    policy = SNAIL.policy(ActorCritic.input_size(1, sizes.arms), sizes.arms, horizon).to(device)
    x_t = torch.randn(sizes.step_trials, policy.input_size, device=device)  # (B, C)

    @torch.no_grad()
    def steps(cache: tuple, count: int) -> tuple:
        for _ in range(count):
            _, cache = policy.step(x_t, cache)
        return cache

    # All caches share buffers for the whole trial; each has its own time.
    cache, now, candidates = policy.init_cache(sizes.step_trials, horizon), 0, []
    for t in sorted(sizes.step_times):
        start = min(t, horizon - n)
        cache, now = steps(cache, start - now), start
        name = f"from step {t} on" if t == start else f"up to step {t}"
        candidates.append(
            Candidate(name, "float32", sizes.step_trials, n * sizes.step_trials, partial(steps, cache, n))
        )
    steps(cache, horizon - now)
    rows, peaks = measure(candidates, device, repetitions, sizes.matrices)
    about = f"single steps of SNAIL's policy, {sizes.arms}-armed bandits, {horizon} pulls a trial"
    return Benchmark("step", about, "steps", "trials", rows, peaks, ratio="takes")

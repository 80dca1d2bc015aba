"""Speed of collecting trials of MuJoCo's cheetah: environments only, our agents, and RecurrentPPO."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from runs.agents import AGENTS, ActorCriticSpec
from runs.algorithms.rollout import rollout
from runs.bench.measure import Benchmark, Candidate, Sizes, measure
from runs.bench.recurrent_ppo import NOT_INSTALLED, RecurrentPPO
from runs.tasks import ControlTask

NAME = "HalfCheetah-v5"


class Loop(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """Environments that are stepped sequentially with random actions, several times per call."""

    observation_space = action_space = Box(-1, 1, (1,))

    def __init__(self, envs: int, steps: int):
        self.envs = [gymnasium.make(NAME) for _ in range(envs)]
        shape = (steps, envs, *self.envs[0].action_space.shape)  # type: ignore[misc]
        self._actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Reset them all."""
        for env in self.envs:
            env.reset()
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """All the steps."""
        for actions in self._actions:
            for env, a in zip(self.envs, actions, strict=True):
                env.step(a)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def bench_control(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Environment steps per second of environments only, and with agents of the catalogue's sizes.

    Raises:
        EnvironmentFailed: if MuJoCo is not installed.
    """
    trials, steps = sizes.control_trials, sizes.control_steps
    task = ControlTask(NAME, episodes=2, max_steps=steps // 2, goal="direction")
    env = task.make_env(trials, device)
    env.reset(seed=0)
    processes = min(torch.get_num_threads(), len(os.sched_getaffinity(0)), trials)
    loops = [partial(Loop, trials // processes, steps) for _ in range(processes)]
    raw: VectorEnv[Any, Any, Any] = AsyncVectorEnv(loops) if processes > 1 else SyncVectorEnv(loops)
    nothing = np.zeros((processes, 1), np.float32)
    some = torch.rand(trials, 6) * 2 - 1
    generator = torch.Generator(device).manual_seed(0)

    def alone() -> None:
        raw.reset()
        raw.step(nothing)

    def stepped() -> None:
        env.reset()
        for _ in range(env.horizon):
            env.step(some)

    candidates = [
        Candidate("environments alone", "float32", trials, trials // processes * processes * steps, alone),
        Candidate("ours: no agent", "float32", trials, trials * steps, stepped),
    ]
    for name, agent in AGENTS.items():
        torch.manual_seed(0)
        model = agent.build_actor_critic(ActorCriticSpec(*task.encodings(env), env.horizon)).to(device)
        play = partial(rollout, model, env, generator)
        candidates.append(Candidate(f"ours: {name}", "float32", trials, trials * steps, play))
    other = RecurrentPPO.if_installed(lambda: TimeLimit(task.make(), steps), device, sizes.recurrent_ppo_steps, trials)
    if other is not None:
        candidates.append(Candidate(f"{other.name}: collecting", "float32", trials, other.steps, other.collect))
    rows, peaks = measure(candidates, device, repetitions, sizes.matrices)
    raw.close()
    env.close()
    about = f"playing {NAME}, trials of {steps} steps, environments in {processes} process{'es'[: 2 * (processes > 1)]}"
    notes = (NOT_INSTALLED,) if other is None else other.notes
    return Benchmark("control", about, "env steps", "trials", rows, peaks, ratio="the first is", notes=notes)

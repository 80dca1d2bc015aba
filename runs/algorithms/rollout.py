"""Playing batches of trials step by step; on a GPU as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.trials import TrialVectorEnv
from runs.system.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from snail.actor_critic import ActorCritic


@dataclass(frozen=True)
class Trajectories:
    """B whole trials of T steps.

    inputs: (B, T, C) the agent's input at each step.
    actions: (B, T) its actions; log_probs: (B, T) their log-probabilities.
    rewards: (B, T).
    tasks: (B, ...) the tasks, as in `envs.trials.TrialVectorEnv.tasks`; hidden from the agent.
    valid: (B, T) which steps belong to the trial; None: all.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    tasks: Tensor
    valid: Tensor | None = None

    def gathered(self, group: ProcessGroup) -> Trajectories:
        """Gather the trajectories of all processes."""
        return Trajectories(*(None if x is None else group.gather(x) for x in vars(self).values()))  # type: ignore[arg-type]


@torch.no_grad()
def rollout(
    agent: ActorCritic,
    env: TrialVectorEnv,
    generator: torch.Generator,
    tasks: Tensor | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    collect: bool = False,
) -> Trajectories:
    """Play one trial in every row of ``env`` with sampled actions, on new tasks or on the given ones.

    With ``collect``, observations are added to the statistics that normalise later ones.

    The agent acts by ``step``: the convolutions of each step cost the same, however long the trial already is.

    In a process group, each process plays its own rows and returns their trajectories. It draws the tasks and the
    random numbers of all rows, so that these are the same in all processes, and plays placeholder actions in the other
    processes' rows, which do not affect its own.
    """
    observation, _ = env.reset(options=None if tasks is None else {"tasks": tasks})
    T, device = env.horizon, env.device
    x = agent.first_input(group.shard(observation))  # (B, C)
    B = len(x)
    cache = agent.init_cache(B, T)
    # time-major, as the convolutions need it
    inputs = x.new_empty(T, B, x.shape[1])
    head = agent.actions
    first = head.first(torch.Size([B]), device)
    actions = first.new_empty(T, *first.shape)
    log_probs, rewards = x.new_empty(T, B), x.new_empty(T, B)
    valid: list[Tensor] = []
    for t in range(T):
        if collect:
            agent.encoder.collect(observation[valid[-1]] if valid else observation)
        parameters, cache = agent.act(x, cache)  # (B, P)
        action = head.draw(parameters, group.shard(head.noise(env.num_envs, parameters, generator)))
        inputs[t], actions[t] = x, action
        log_probs[t] = head.log_probability(parameters, action)
        observation, reward, _, _, info = env.step(group.scatter(head.to_environment(action)))
        rewards[t] = group.shard(reward)
        if "valid" in info:
            valid.append(info["valid"])
        x = agent.encode(group.shard(observation), action, rewards[t], group.shard(info["episode_end"]))
    inputs, actions, log_probs, rewards = (y.transpose(0, 1) for y in (inputs, actions, log_probs, rewards))
    counted = torch.stack(valid, dim=1) if valid else None
    return Trajectories(inputs, actions, log_probs, rewards, group.shard(env.tasks), counted)


Player = Callable[[], Trajectories]
"""Plays one trial in every row of an environment, on new tasks."""


def player(
    agent: ActorCritic, env: TrialVectorEnv, generator: torch.Generator, group: ProcessGroup = SINGLE_PROCESS
) -> Player:
    """The fastest way to play: on a GPU a `RecordedRollout`, elsewhere `rollout` itself.

    If capturing is not possible, or its results differ from those of the plain rollout, a warning says so and the plain
    one is used.
    """
    if env.device.type == "cuda" and isinstance(env, TrialVectorEnv):
        try:
            return RecordedRollout(agent, env, generator, group)
        except RuntimeError as e:
            warnings.warn(f"rollouts are not recorded as a CUDA graph, so they are slower: {e}", stacklevel=2)
    return lambda: rollout(agent, env, generator, group=group, collect=True)


class RecordedRollout:
    """`rollout` of one batch as a CUDA graph: the same numbers, as one launch.

    A step of the rollout is about a hundred small kernels, which the host cannot launch one by one as fast as the GPU
    runs them. Everything in a rollout is known in advance: shapes, lengths of the caches and when episodes
    end; weights are read where the optimiser writes them, and random numbers continue from the generators' states.

    Args:
        agent, env, generator, group: as of `rollout`; env and generator on a GPU.

    Raises:
        RuntimeError: if the rollout cannot be captured, or the replay differs from the plain rollout.
    """

    def __init__(
        self, agent: ActorCritic, env: TrialVectorEnv, generator: torch.Generator, group: ProcessGroup = SINGLE_PROCESS
    ):
        generators = (generator, env.generator)
        before = [g.get_state() for g in generators]

        def rewind() -> None:
            for g, state in zip(generators, before, strict=True):
                g.set_state(state)

        try:
            plain = self._record(agent, env, generator, group)
            rewind()
            again = self()
            if not (torch.equal(again.actions, plain.actions) and torch.equal(again.rewards, plain.rewards)):
                raise RuntimeError("the captured rollout differs from the plain one")
        finally:
            rewind()  # the next rollout starts from the same random state

    def _record(
        self, agent: ActorCritic, env: TrialVectorEnv, generator: torch.Generator, group: ProcessGroup
    ) -> Trajectories:
        """Capture a rollout; returns the trajectories of a plain one played just before."""
        stream = torch.cuda.Stream(env.device)
        stream.wait_stream(torch.cuda.current_stream(env.device))
        with torch.cuda.stream(stream):
            # this also does the one-time set-up that capturing needs
            plain = rollout(agent, env, generator, group=group)
        torch.cuda.current_stream(env.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        for g in (generator, env.generator):
            self._graph.register_generator_state(g)
        with torch.cuda.graph(self._graph, stream=stream):
            self._trials = rollout(agent, env, generator, group=group)
        return plain

    def __call__(self) -> Trajectories:
        """Play the next batch; it stays valid until the next call."""
        self._graph.replay()
        return self._trials

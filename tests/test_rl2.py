"""What RL^2 reads, for agents of other libraries, and Gymnasium's own wrappers around our vector environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import NumpyToTorch, RecordEpisodeStatistics
from gymnasium.wrappers.vector.array_conversion import ArrayConversion

import envs
from envs.rl2 import RL2Observation
from runs.agents import AGENTS, ActorCriticSpec

NAMES = {
    "snail/BernoulliBandit-v0": {"arms": 3, "pulls": 6},
    "snail/TabularMDP-v0": {"states": 4, "actions": 3, "episodes": 2, "episode_length": 3},
}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_our_own_agents_read(name):
    """Step by step the very input that `ActorCritic` encodes."""
    plain, wrapped = (gymnasium.make(name, **NAMES[name]) for _ in range(2))
    wrapped = RL2Observation(wrapped)
    observations = int(plain.observation_space.n)
    model = AGENTS["gru"].build_actor_critic(ActorCriticSpec(observations, 3, 6))
    observation, _ = plain.reset(seed=3)
    x, _ = wrapped.reset(seed=3)
    assert x in wrapped.observation_space and torch.equal(
        torch.tensor(x), model.first_input(torch.tensor([observation]))[0]
    )
    for t in range(6):
        action = t % 3
        observation, reward, *_, info = plain.step(action)
        x, same, *_, also = wrapped.step(action)
        parts = (torch.tensor([v]) for v in (observation, action, reward, info["episode_end"]))
        assert torch.equal(torch.tensor(x), model.encode(*parts)[0]) and (same, also) == (reward, info)
    assert info["episode_end"] and x[-1] == 1


def test_continuous_observations_and_what_it_cannot_wrap():
    env = RL2Observation(gymnasium.make("CartPole-v1"))
    first, _ = env.reset(seed=0)
    assert first.shape == (4 + 2 + 2,) and first[4:].tolist() == [1, 0, 0, 1]
    x, *_ = env.step(1)
    assert x[4:].tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="needs discrete actions"):
        RL2Observation(gymnasium.make("Pendulum-v1"))


@pytest.mark.parametrize("name", NAMES)
def test_gymnasiums_vector_wrappers(name):
    """Tensors become arrays first; then episodes are counted as of any vector environment, and may be tensors again."""
    vector = gymnasium.make_vec(name, num_envs=4, **NAMES[name])
    counted = RecordEpisodeStatistics(ArrayConversion(vector, env_xp=torch, target_xp=np))
    counted.reset(seed=0)
    total = np.zeros(4)
    for _ in range(6):
        _, rewards, terminated, _, info = counted.step(np.zeros(4, dtype=np.int64))
        total += rewards
    assert terminated.all() and np.allclose(info["episode"]["r"], total) and (info["episode"]["l"] == 6).all()
    again = NumpyToTorch(counted)
    assert isinstance(again.reset(seed=1)[0], torch.Tensor)


def test_recurrent_ppo_of_another_library_trains_on_it():
    """The recipe of docs/environment.md."""
    sb3_contrib = pytest.importorskip("sb3_contrib")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    def trial() -> gymnasium.Env:
        return envs.RL2Observation(gymnasium.make("snail/BernoulliBandit-v0", arms=2, pulls=5))

    agent = sb3_contrib.RecurrentPPO("MlpLstmPolicy", make_vec_env(trial, 4, seed=0), n_steps=20, device="cpu", seed=0)
    before = [p.clone() for p in agent.policy.parameters()]
    agent.set_logger(Logger(None, []))  # by default it leaves an empty folder in /tmp
    agent.learn(160)
    assert any(not torch.equal(b, p) for b, p in zip(before, agent.policy.parameters(), strict=True))
    lengths = [episode["l"] for episode in agent.ep_info_buffer]
    assert len(lengths) == 32 and set(lengths) == {5}

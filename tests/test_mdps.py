"""Random tabular MDPs: what is particular to them, beside the laws in test_vector_envs.py."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from envs import TabularMDPEnv, TabularMDPVectorEnv


def play_randomly(mdps: TabularMDPVectorEnv, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, actions, rewards and next observations (T, B) of one trial, the env already reset."""
    generator = torch.Generator().manual_seed(seed)
    states, steps = torch.zeros(mdps.num_envs, dtype=torch.int64), []
    for _ in range(mdps.horizon):
        actions = torch.randint(mdps.num_actions, (mdps.num_envs,), generator=generator)
        observations, rewards, _, _, _ = mdps.step(actions)
        steps.append((states, actions, rewards, observations))
        states = observations
    s, a, r, n = (torch.stack(x) for x in zip(*steps, strict=True))
    return s, a, r, n


def one_mdp(S: int, A: int, num_envs: int, seed: int = 0) -> Tensor:
    """The same MDP in every row, (num_envs, S, A, S + 1), with mean rewards s - a / 2."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(S, A, S).exponential_(generator=generator)
    means = torch.arange(S)[:, None] - torch.arange(A) / 2
    task = torch.cat([weights / weights.sum(-1, keepdim=True), means[..., None]], dim=-1)
    return task.expand(num_envs, S, A, S + 1)


def kolmogorov_smirnov(sample: Tensor, cdf: Tensor) -> float:
    """Distance between the empirical distribution of a sorted sample and its cdf, over its 0.1 percent bound."""
    n = len(sample)
    return (cdf - torch.arange(n) / n).abs().max().item() / (1.95 / n**0.5)


def test_tasks_are_drawn_from_the_papers_distribution() -> None:
    n, S, A = 4000, 4, 3
    mdps = TabularMDPVectorEnv(1, states=S, actions=A)
    tasks = mdps.sample_tasks(n, torch.Generator().manual_seed(0))
    assert tasks.shape == (n, S, A, S + 1) and tasks.dtype == torch.float32
    chances, means = tasks.double().split([S, 1], dim=-1)
    torch.testing.assert_close(chances.sum(-1), torch.ones(n, S, A, dtype=torch.float64), atol=1e-6, rtol=0)
    # A flat Dirichlet distribution has Beta(1, S - 1) marginals, so P(p > x) = (1 - x)^(S - 1).
    for i in range(S):
        p = chances[..., i].flatten().sort().values
        assert kolmogorov_smirnov(p, 1 - (1 - p) ** (S - 1)) < 1
    mu = means.flatten().sort().values
    assert kolmogorov_smirnov(mu, torch.special.ndtr(mu - 1)) < 1
    # Within one such distribution the correlation is -1 / (S - 1); all else is independent.
    correlation = torch.corrcoef(tasks.flatten(1).T.double()).reshape(S * A, S + 1, S * A, S + 1)
    for i in range(S * A):
        for j in range(S * A):
            expected = torch.zeros(S + 1, S + 1, dtype=torch.float64)
            if i == j:
                expected[:S, :S] = -1 / (S - 1)
                expected.fill_diagonal_(1)
            assert (correlation[i, :, j] - expected).abs().max() < 5 / n**0.5


def test_reset_draws_what_sample_tasks_draws() -> None:
    mdps = TabularMDPVectorEnv(5, states=3, actions=2)
    mdps.reset(seed=3)
    assert torch.equal(mdps.tasks, mdps.sample_tasks(5, torch.Generator().manual_seed(3)))


def test_transitions_and_rewards_follow_the_given_mdp() -> None:
    S, A, num_envs = 4, 3, 1000
    mdps = TabularMDPVectorEnv(num_envs, S, A, episodes=10, episode_length=12)
    task = one_mdp(S, A, num_envs)
    mdps.reset(seed=0, options={"tasks": task})
    states, actions, rewards, observations = play_randomly(mdps)
    last = torch.arange(1, mdps.horizon + 1) % 12 == 0
    for s in range(S):
        for a in range(A):
            here = (states == s) & (actions == a)
            p, mu = task[0, s, a].double().split([S, 1])
            noise = rewards[here].double() - mu
            assert len(noise) > 1000
            assert noise.mean().abs() < 4 / len(noise) ** 0.5
            assert (noise.var() - 1).abs() < 4 * (2 / len(noise)) ** 0.5
            assert (noise**3).mean().abs() < 4 * (15 / len(noise)) ** 0.5  # sixth moment of N(0, 1)
            reached = observations[here & ~last[:, None]].bincount(minlength=S)
            total = reached.sum()
            assert ((reached - total * p).abs() < 4.5 * (total * p * (1 - p)).sqrt()).all()


def test_each_row_plays_its_own_mdp() -> None:
    # Action a moves from s to s + a + b (mod S) in row b, and the reward tells state and action.
    B, S, A = 3, 5, 2
    b, s, a = torch.meshgrid(torch.arange(B), torch.arange(S), torch.arange(A), indexing="ij")
    chances = torch.nn.functional.one_hot((s + a + b) % S, S).float()
    tasks = torch.cat([chances, (1000 * s + 100 * a)[..., None]], dim=-1)
    mdps = TabularMDPVectorEnv(B, S, A, episodes=4, episode_length=25)
    mdps.reset(seed=0, options={"tasks": tasks})
    states, actions, rewards, observations = play_randomly(mdps)
    last = torch.arange(1, mdps.horizon + 1) % 25 == 0
    assert torch.equal(observations[~last], ((states + actions + torch.arange(B)) % S)[~last])
    assert ((rewards - 1000 * states - 100 * actions).abs() < 10).all()


def test_impossible_transitions_never_happen() -> None:
    B, S, A = 2000, 6, 2
    tasks = torch.zeros(B, S, A, S + 1)
    tasks[..., [1, 4]] = 0.5  # never to the first state, to the last or to those between
    mdps = TabularMDPVectorEnv(B, S, A, episodes=2, episode_length=20)
    mdps.reset(seed=0, options={"tasks": tasks})
    *_, observations = play_randomly(mdps)
    starts = torch.arange(1, mdps.horizon + 1) % 20 == 0
    assert (observations[starts] == 0).all()  # by the start of an episode alone
    assert set(observations[~starts].unique().tolist()) == {1, 4}


def test_rewards_and_transitions_are_drawn_independently() -> None:
    num_envs = 20_000
    mdps = TabularMDPVectorEnv(num_envs, states=2, actions=1, episodes=1, episode_length=2)
    tasks = torch.tensor([0.5, 0.5, 0.0]).expand(num_envs, 2, 1, 3)
    mdps.reset(seed=0, options={"tasks": tasks})
    _, _, rewards, observations = play_randomly(mdps)
    values = torch.stack([rewards[0], rewards[1], observations[0].float()])
    assert (torch.corrcoef(values) - torch.eye(3)).abs().max() < 4 / num_envs**0.5


def spoiled(index: tuple[int, ...], value: float) -> Tensor:
    tasks = torch.full((2, 3, 2, 4), 1 / 3)
    tasks[index] = value
    return tasks


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (spoiled((1, 2, 0, 3), torch.nan), "finite"),
        (spoiled((1, 2, 0, 3), torch.inf), "finite"),
        (spoiled((0, 0, 0, 0), torch.nan), "finite"),
        (spoiled((1, 0, 1, 2), -0.25), "must not be negative, got -0.25"),
        (spoiled((1, 0, 1, 2), 0.5), "add up to 1, got sums of 1 to 1.16667"),
        (torch.zeros(2, 3, 2, 4), "add up to 1, got sums of 0 to 0"),
        (torch.full((2, 2, 3, 4), 1 / 3), r"shape \(2, 3, 2, 4\), got \(2, 2, 3, 4\)"),
        (torch.full((2, 3, 2, 3), 1 / 3), r"shape \(2, 3, 2, 4\), got \(2, 3, 2, 3\)"),
    ],
)
def test_impossible_tasks_are_refused(tasks: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularMDPVectorEnv(2, states=3, actions=2).reset(options={"tasks": tasks})


def test_tasks_from_numpy_in_double_precision_are_taken() -> None:
    mdps = TabularMDPVectorEnv(2, states=3, actions=2)
    given = np.full((2, 3, 2, 4), 1 / 3)
    mdps.reset(options={"tasks": given})
    given[:] = 0
    assert torch.equal(mdps.tasks, torch.full((2, 3, 2, 4), 1 / 3))


@pytest.mark.parametrize("name", ["num_envs", "states", "actions", "episodes", "episode_length"])
def test_counts_below_one_are_refused(name: str) -> None:
    counts = {"num_envs": 1, "states": 1, "actions": 1, "episodes": 1, "episode_length": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TabularMDPVectorEnv(**counts)


def test_single_mdp_plays_a_given_task() -> None:
    mdp = TabularMDPEnv(states=2, actions=1, episodes=2, episode_length=2)
    task = [[[0.0, 1.0, 100.0]], [[0.0, 1.0, -100.0]]]
    state, info = mdp.reset(seed=0, options={"task": task})
    assert state == 0 and info == {"episode_end": True}
    for reward, after, opens in [(100, 1, False), (-100, 0, True)] * 2:
        state, paid, ended, truncated, info = mdp.step(np.int64(0))
        assert state == after and paid == pytest.approx(reward, abs=6)
        assert not truncated and info == {"episode_end": opens}
    assert ended


def test_arguments_pass_through_the_registry() -> None:
    sizes = {"states": 3, "actions": 2, "episodes": 4, "episode_length": 5}
    mdp = gymnasium.make("snail/TabularMDP-v0", **sizes)
    assert mdp.observation_space == gymnasium.spaces.Discrete(3)
    assert mdp.action_space == gymnasium.spaces.Discrete(2)
    mdps = gymnasium.make_vec("snail/TabularMDP-v0", num_envs=6, **sizes)
    assert isinstance(mdps, TabularMDPVectorEnv)
    assert (mdps.num_envs, mdps.task_shape, mdps.horizon) == (6, (3, 2, 4), 20)

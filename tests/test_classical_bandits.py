"""Classical bandit methods: what they choose on hand-made counts, and what they earn."""

import json
from dataclasses import asdict
from itertools import product
from math import comb, log, sqrt

import pytest
import torch

from baselines.bandits import (
    UCB1,
    BanditMethod,
    EpsilonGreedy,
    FiniteHorizonGittins,
    Gittins,
    Greedy,
    OptimisticThompson,
    Random,
    Thompson,
    Trials,
)
from baselines.bayes_optimal import bayes_optimal_action, bayes_optimal_value
from envs import BernoulliBanditVectorEnv, TabularMDPVectorEnv

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
METHODS = [
    Random(),
    Greedy(),
    EpsilonGreedy(),
    UCB1(),
    Thompson(),
    OptimisticThompson(3),
    Gittins(0.9),
    FiniteHorizonGittins(),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def choices(
    method: BanditMethod, successes: list[int], failures: list[int], pulls_left: int = 3, rows: int = 4000
) -> torch.Tensor:
    """How often each arm is chosen, (K,), in many trials with the same counts."""
    s, f = torch.tensor([successes] * rows), torch.tensor([failures] * rows)
    trials = Trials(s, f, pulls_left, pulls_left + sum(successes) + sum(failures))
    return method.choose(trials, torch.Generator().manual_seed(0)).bincount(minlength=len(successes)) / rows


def chance_to_be_best(successes: list[int], failures: list[int]) -> list[float]:
    """P(each arm's chance is the largest), by the distribution function of Beta(s + 1, f + 1) on a fine grid.

    For integers that function is a binomial tail: P(at least s + 1 successes in s + f + 1 pulls).
    """
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    below = []
    for s, f in zip(successes, failures, strict=True):
        n = s + f + 1
        below.append(sum(comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(s + 1, n + 1)))
    chances = []
    for i, own in enumerate(below):
        others = torch.stack([b for j, b in enumerate(below) if j != i]).prod(0)
        chances.append((own.diff() * (others[1:] + others[:-1]) / 2).sum().item())
    return chances


@each_method
def test_untouched_arms_are_chosen_equally_often(method: BanditMethod) -> None:
    assert choices(method, [0, 0, 0], [0, 0, 0]) == pytest.approx(torch.full((3,), 1 / 3), abs=0.03)


@pytest.mark.parametrize("method", [Greedy(), UCB1(), Gittins(0.9), FiniteHorizonGittins()])
def test_ties_are_broken_evenly_among_the_best_only(method: BanditMethod) -> None:
    assert choices(method, [0, 2, 0, 2], [2, 1, 2, 1]) == pytest.approx(torch.tensor([0, 0.5, 0, 0.5]), abs=0.03)


def test_random_ignores_what_it_has_seen() -> None:
    assert choices(Random(), [9, 0], [0, 9]) == pytest.approx(torch.full((2,), 0.5), abs=0.03)


def test_greedy_counts_one_success_and_one_failure_before_the_first() -> None:
    assert choices(Greedy(), [9, 1], [1, 0]).tolist() == [1, 0]  # 10/12 beats 2/3, though 9/10 does not beat 1/1
    assert choices(Greedy(), [0, 0], [1, 0]).tolist() == [0, 1]  # 1/2 beats 1/3
    assert choices(Greedy(), [1, 0], [1, 0]) == pytest.approx(torch.full((2,), 0.5), abs=0.03)  # 2/4 ties with 1/2


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_explores_all_arms_at_its_rate(epsilon: float) -> None:
    expected = torch.tensor([epsilon / 4, 1 - epsilon * 3 / 4, epsilon / 4, epsilon / 4])
    assert choices(EpsilonGreedy(epsilon), [0, 5, 0, 1], [0, 0, 0, 1]) == pytest.approx(expected, abs=0.03)


def test_ucb1_by_hand() -> None:
    # The 7th pull. Arm 0: 5/6 + c sqrt(2 log 7 / 6). Arm 1: 2/4 + c sqrt(2 log 7 / 4). They meet at one c.
    unit = sqrt(2 * log(7))
    c = (5 / 6 - 2 / 4) / (unit / sqrt(4) - unit / sqrt(6))
    assert choices(UCB1(c - 0.01), [4, 1], [0, 1]).tolist() == [1, 0]
    assert choices(UCB1(c + 0.01), [4, 1], [0, 1]).tolist() == [0, 1]
    s, f = torch.tensor([[4, 1]]), torch.tensor([[0, 1]])
    index = UCB1(0.5).index(Trials(s, f, pulls_left=4, pulls=10), torch.Generator())
    assert index[0].tolist() == pytest.approx([5 / 6 + 0.5 * unit / sqrt(6), 1 / 2 + 0.5 * unit / sqrt(4)])


@pytest.mark.parametrize(("s", "f"), [([0, 0], [0, 1]), ([3, 0, 1], [2, 0, 0]), ([1, 8, 2], [0, 7, 5])])
def test_thompson_chooses_by_the_chance_to_be_best(s: list[int], f: list[int]) -> None:
    assert chance_to_be_best([0, 0], [0, 1]) == pytest.approx([2 / 3, 1 / 3], abs=1e-6)  # by hand
    expected = torch.tensor(chance_to_be_best(s, f))
    for method in (Thompson(), OptimisticThompson(1)):
        assert choices(method, s, f, rows=20_000) == pytest.approx(expected, abs=0.015)


def test_optimistic_thompson_believes_the_likeliest_draw() -> None:
    # One arm seen to fail once, with density 2 (1 - x), and one untouched, with density 1: of two draws the one with
    # the smaller x is believed. x is then Beta(1, 4), a minimum of two of Beta(1, 2), and y is uniform.
    assert choices(OptimisticThompson(2), [0, 0], [1, 0], rows=20_000)[0].item() == pytest.approx(1 / 5, abs=0.012)
    # In the limit that is the mode, and the greedy choice between arms equally often pulled.
    assert choices(OptimisticThompson(300), [6, 3], [3, 6], rows=300)[0] > 0.99


def test_gittins_looks_as_far_as_its_discount() -> None:
    # An untouched arm against one of 0.714 +- 0.07. At a discount of 0.9 its index is 0.703, as published (Gittins et
    # al., 2011), and less than the other's mean. At 0.95 it is 0.761, most of a standard deviation above.
    assert choices(Gittins(0.9), [29, 0], [11, 0]).tolist() == [1, 0]
    assert choices(Gittins(0.95), [29, 0], [11, 0]).tolist() == [0, 1]


def test_finite_horizon_index_knows_the_end() -> None:
    for pulls_left in range(1, 8):
        chosen = choices(FiniteHorizonGittins(), [3, 0], [2, 0], pulls_left).argmax().item()
        assert chosen == bayes_optimal_action([3, 0], [2, 0], 5 + pulls_left)
    assert choices(FiniteHorizonGittins(), [3, 0], [2, 0], 1).tolist() == [1, 0]
    assert choices(FiniteHorizonGittins(), [3, 0], [2, 0], 7).tolist() == [0, 1]


@each_method
@pytest.mark.parametrize("device", DEVICES)
def test_play(method: BanditMethod, device: str) -> None:
    env = BernoulliBanditVectorEnv(30, arms=4, pulls=7, device=device)
    generator = torch.Generator(device)

    def play(tasks: torch.Tensor | None = None) -> torch.Tensor:
        env.reset(seed=1)
        return method.play(env, generator.manual_seed(2), tasks)

    rewards = play()
    assert rewards.shape == (30, 7) and rewards.dtype == torch.float32 and rewards.device.type == device
    assert set(rewards.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(rewards, play())
    tasks = env.tasks
    assert torch.equal(play(tasks), play(tasks)) and torch.equal(env.tasks, tasks)
    assert not torch.equal(rewards, method.play(env, generator))  # both generators go on


def test_methods_see_what_has_happened() -> None:
    seen: list[Trials] = []

    class Watching(Greedy):
        def index(self, trials: Trials, generator: torch.Generator) -> torch.Tensor:
            seen.append(Trials(trials.successes.clone(), trials.failures.clone(), trials.pulls_left, trials.pulls))
            return super().index(trials, generator)

    env = BernoulliBanditVectorEnv(50, arms=3, pulls=6)
    rewards = Watching().play(env, torch.Generator().manual_seed(0))
    for t, trials in enumerate(seen):
        assert (trials.pulls, trials.pulls_left) == (6, 6 - t)
        assert torch.equal(trials.successes.sum(1), rewards[:, :t].sum(1).long())
        assert torch.equal(trials.failures.sum(1), (1 - rewards[:, :t]).sum(1).long())


def test_arms_keep_their_rewards_apart() -> None:
    env = BernoulliBanditVectorEnv(200, arms=3, pulls=12)
    tasks = torch.eye(3).repeat(67, 1)[:200]  # one arm always pays, the others never
    rewards = Greedy().play(env, torch.Generator().manual_seed(1), tasks)
    assert (rewards.diff(dim=1) >= 0).all() and (rewards[:, 2:] == 1).all()  # once found it is kept, soon it is found


def test_something_to_observe_is_refused() -> None:
    with pytest.raises(ValueError, match="a bandit has 1 observation, got an environment with 10"):
        Greedy().play(TabularMDPVectorEnv(2), torch.Generator())


def test_ties_are_not_broken_by_the_numbers_that_drew_the_tasks() -> None:
    env = BernoulliBanditVectorEnv(2)
    env.reset(seed=3)
    with pytest.raises(ValueError, match="generator and environment must have different seeds, got 3 for both"):
        Greedy().play(env, torch.Generator().manual_seed(3))


def test_earnings_on_short_trials() -> None:
    trials, arms, pulls = 20_000, 5, 10
    env = BernoulliBanditVectorEnv(trials, arms, pulls)
    env.reset(seed=0)
    tasks = env.tasks
    optimal = bayes_optimal_value(pulls, arms)  # 6.660
    earned = {}
    for method in [*METHODS, UCB1(0.2), OptimisticThompson(10)]:
        returns = method.play(env, torch.Generator().manual_seed(1), tasks).sum(1)
        earned[method] = returns.mean().item()
        error = returns.std().item() / trials**0.5
        assert earned[method] < optimal + 4 * error
    assert earned[Random()] == pytest.approx(5, abs=4 * error)
    for nearly_optimal in (Gittins(0.9), FiniteHorizonGittins(), UCB1(0.2)):
        assert earned[nearly_optimal] == pytest.approx(optimal, abs=0.06)
    # RL^2, table 1: 5.7 for Thompson sampling and 6.5 for the optimistic one
    assert 5.6 < earned[Thompson()] < earned[OptimisticThompson(3)] < earned[OptimisticThompson(10)] < 6.5


def test_grids_are_those_of_rl2() -> None:
    tenths = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert [asdict(method) for method in UCB1.grid()] == [{"c": c} for c in tenths]
    assert [asdict(method) for method in EpsilonGreedy.grid()] == [{"epsilon": c} for c in tenths]
    assert [asdict(method) for method in OptimisticThompson.grid()] == [{"samples": k} for k in range(1, 21)]
    assert [asdict(method) for method in Gittins.grid()] == [{"discount": a} for a in (0.9, 0.99, 0.999, 0.9999)]
    for method in (Random, Greedy, Thompson, FiniteHorizonGittins):
        assert method.grid() == (method(),)


@each_method
def test_methods_are_values(method: BanditMethod) -> None:
    again = type(method)(**json.loads(json.dumps(asdict(method))))
    assert again == method and hash(again) == hash(method)


def test_impossible_settings_are_refused() -> None:
    for epsilon, discount in product((-0.1, 1.1), (0.0, 1.0)):
        with pytest.raises(ValueError, match="epsilon must be between 0 and 1"):
            EpsilonGreedy(epsilon)
        with pytest.raises(ValueError, match="discount must be between 0 and 1"):
            Gittins(discount)
    with pytest.raises(ValueError, match="c must be at least 0, got -1"):
        UCB1(-1)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        OptimisticThompson(0)

"""Every experiment of the suite, as data: what is learned, with how much training, and how it is measured."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from runs.agents import AGENTS, AnyAgentConfig
from runs.errors import RunError
from runs.meta_rl import TrialTest
from runs.ppo import PPOTraining
from runs.supervised import FewShotTest, SupervisedTraining
from runs.tasks import BanditTask, DataName, FewShotTask, MDPTask, Task

Training = SupervisedTraining | PPOTraining
Test = FewShotTest | TrialTest


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that decides its numbers, but for the device."""

    experiment: str
    """Name in the catalogue."""
    agent: str
    """Name of the agent."""
    budget: str
    """How much training: full, demo or smoke."""
    seed: int
    """Seed of the initial weights and of everything drawn in training."""
    task: Task
    """What is learned."""
    model: AnyAgentConfig
    """What learns it."""
    training: Training
    """How it learns."""
    test: Test
    """How it is measured."""


@dataclass(frozen=True)
class Budget:
    """How much of an experiment is done: its task, training and test."""

    task: Task
    training: Training
    test: Test


BUDGETS = ("full", "demo", "smoke")
"""From the most training to the least; tables show the first of these that has been run."""


@dataclass(frozen=True)
class Experiment:
    """A task that agents are compared on."""

    id: str
    about: str
    agents: tuple[str, ...]
    budgets: Mapping[str, Budget]

    def limit(self) -> float | None:
        """What no agent can pass in expectation, in units of the metric; None where it is not known."""
        return self.budgets["full"].task.limit()

    def config(self, agent: str, seed: int = 0, budget: str = "full") -> RunConfig:
        """The run of one agent.

        Raises:
            RunError: if the experiment has no such agent or budget.
        """
        if agent not in self.agents:
            raise RunError(_unknown("agent", agent, self.agents) + f" for {self.id}")
        if budget not in self.budgets:
            raise RunError(_unknown("budget", budget, tuple(self.budgets)) + f" for {self.id}")
        b = self.budgets[budget]
        return RunConfig(self.id, agent, budget, seed, b.task, AGENTS[agent], b.training, b.test)


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        RunError: if there is none; the message suggests the nearest.
    """
    if name not in CATALOGUE:
        raise RunError(_unknown("experiment", name, tuple(CATALOGUE)) + "; `snail list` shows all")
    return CATALOGUE[name]


def as_catalogued(config: RunConfig) -> bool:
    """Whether a run has the settings of the catalogue: tables show only such runs."""
    return config == find(config.experiment).config(config.agent, config.seed, config.budget)


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]}?" if near else f", choose from {', '.join(known)}"
    return f"unknown {what} {name!r}{hint}"


def _bandit(arms: int, pulls: int) -> Experiment:
    task = BanditTask(arms, pulls)
    return Experiment(
        f"bandit/n{pulls}-k{arms}",
        f"{pulls} pulls of a {arms}-armed Bernoulli bandit",
        ("snail", "lstm", "gru", "transformer"),
        {
            "full": Budget(task, PPOTraining(steps=600, batch_size=1024), TrialTest()),
            "demo": Budget(task, PPOTraining(steps=190), TrialTest()),
            "smoke": Budget(task, PPOTraining(steps=4, batch_size=256), TrialTest(trials=2000)),
        },
    )


def _mdp(episodes: int) -> Experiment:
    task = MDPTask(episodes)
    return Experiment(
        f"mdp/n{episodes}",
        f"{episodes} episodes of 10 steps in a random MDP of 10 states and 5 actions",
        ("snail", "lstm", "gru", "transformer"),
        {
            "full": Budget(task, PPOTraining(steps=600, batch_size=256), TrialTest()),
            "smoke": Budget(task, PPOTraining(steps=4, batch_size=32), TrialTest(trials=200)),
        },
    )


def _smoke(task: FewShotTask) -> Budget:
    training = SupervisedTraining(steps=20, batch_size=4, validation_episodes=50, validations=4)
    return Budget(task, training, FewShotTest(episodes=200))


def _fewshot(data: DataName, ways: int, images: str) -> Experiment:
    """The paper's protocol: one model for 1 to 5 shots."""
    task = FewShotTask(data, ways, shots=(1, 2, 3, 4, 5), test_shots=(1, 5))
    return Experiment(
        f"{data}/{ways}way",
        f"{ways}-way classification of {images}, one model for 1 to 5 shots",
        ("snail", "lstm", "gru", "transformer"),
        {"full": Budget(task, SupervisedTraining(steps=6000), FewShotTest()), "smoke": _smoke(task)},
    )


def _one_shot(data: DataName, ways: int, images: str) -> Experiment:
    """A model for 1 shot alone, which learns in less time."""
    task = FewShotTask(data, ways, shots=(1,), test_shots=(1,))
    return Experiment(
        f"{data}/{ways}way-1shot",
        f"{ways}-way classification of {images}, 1 shot only",
        ("snail", "lstm", "gru", "transformer"),
        {
            "full": Budget(task, SupervisedTraining(steps=7000), FewShotTest()),
            "demo": Budget(task, SupervisedTraining(steps=1000), FewShotTest()),
            "smoke": _smoke(task),
        },
    )


CATALOGUE: dict[str, Experiment] = {
    e.id: e
    for e in (
        *(_bandit(arms, pulls) for pulls in (10, 100, 500) for arms in (5, 10, 50)),
        _bandit(arms=50, pulls=1000),
        *(_mdp(episodes) for episodes in (10, 25, 50, 75, 100)),
        _fewshot("omniglot", 5, "handwritten characters"),
        _one_shot("omniglot", 5, "handwritten characters"),
        _fewshot("glyphs", 5, "printed characters made here"),
        _one_shot("glyphs", 5, "printed characters made here"),
    )
}

"""Experiments: a task on which agents are compared, with training budgets and a test."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from baselines.classical_agent import ClassicalAgent
from runs.agents import AnyAgentConfig, MAMLConfig, TransferConfig
from runs.algorithms.learner import RunConfig, Test, Training
from runs.system.errors import RunError
from runs.tasks import Task


@dataclass(frozen=True)
class Budget:
    """A budget of an experiment: its task, training algorithms, the default first, and test."""

    task: Task
    algorithms: Mapping[str, Training]
    test: Test
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Tuned learning rates of the default algorithm, by agent; others have the algorithm's own."""


_OWN_ALGORITHMS: dict[str, type] = {"tuning": ClassicalAgent, "pretraining": TransferConfig}
"""Algorithms of particular agents, instead of the budget's."""

_NOT_FOR: dict[str, type] = {"paper": MAMLConfig}
"""Algorithms that agents do not support: MAML cannot normalise a single query by its own statistics."""

BUDGETS = ("full", "demo", "short", "smoke")
"""From the most training to the least; tables show the first of these that has been run."""


@dataclass(frozen=True)
class Experiment:
    """A task on which agents are compared."""

    id: str
    about: str
    agents: Mapping[str, AnyAgentConfig]
    budgets: Mapping[str, Budget]

    def algorithms(self, agent: str, budget: str | None = None) -> tuple[str, ...]:
        """The training algorithms of an agent, the default of a budget first; some agents have their own."""
        budgets = self.budgets.values() if budget is None else (self.budgets[budget],)
        algorithms = dict.fromkeys(name for b in budgets for name in b.algorithms)
        model = self.agents[agent]
        own = {name for name, kind in _OWN_ALGORITHMS.items() if isinstance(model, kind)}
        possible = (name for name in algorithms if (name in own if own else name not in _OWN_ALGORITHMS))
        return tuple(name for name in possible if not isinstance(model, _NOT_FOR.get(name, ())))

    def optimum(self) -> float | None:
        """Upper bound for every agent's expected result, in units of the metric; None if unknown."""
        return self.budgets["full"].task.optimum()

    def config(self, agent: str, seed: int = 0, budget: str = "full", algorithm: str | None = None) -> RunConfig:
        """The configuration of one agent's run; by default with the default algorithm.

        Raises:
            RunError: if the experiment has no such agent, budget or algorithm.
        """
        for what, name, known in (("agent", agent, self.agents), ("budget", budget, self.budgets)):
            if name not in known:
                raise RunError(unknown(what, name, tuple(known), f" for {self.id}"))
        algorithms = self.algorithms(agent, budget)
        if algorithm is not None and algorithm not in algorithms:
            raise RunError(unknown("algorithm", algorithm, algorithms, f" for {agent} on {self.id}"))
        b = self.budgets[budget]
        training = b.algorithms[algorithm or algorithms[0]]
        if agent in b.learning_rates and (algorithm or algorithms[0]) == algorithms[0]:
            training = replace(cast(Any, training), learning_rate=b.learning_rates[agent])
        return RunConfig(self.id, agent, budget, seed, b.task, self.agents[agent], training, b.test)


def unknown(what: str, name: str, known: tuple[str, ...], where: str = "") -> str:
    """The message for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
    return f"unknown {what} {name!r}{where}; {hint}"

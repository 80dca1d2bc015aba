"""The catalogue by name, and functions to add to it."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace

from runs.agents import (
    AnyAgentConfig,
)
from runs.catalogue.experiment import BUDGETS, Experiment, RunConfig, unknown
from runs.catalogue.experiments import CATALOGUE
from runs.config.serialization import from_dict, to_dict
from runs.system.errors import RunError


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        RunError: if there is none; the message suggests the nearest.
    """
    if name not in CATALOGUE:
        raise RunError(
            unknown("experiment", name, tuple(CATALOGUE)) + " `snail list` shows all, `snail --extend FILE` adds yours"
        )
    return CATALOGUE[name]


def register(experiment: Experiment) -> None:
    """Add an experiment to the catalogue.

    Args:
        experiment: its id is ``family/name`` in lower-case letters, digits and hyphens, as are its agents' names: they
            name folders. Its budgets are "full" and any of the other `BUDGETS`.

    Raises:
        RunError: if the id is taken or malformed, or one of its runs cannot be trained or does
            not survive a round trip through JSON.
    """
    if not re.fullmatch(f"{_NAME}/{_NAME}", experiment.id):
        raise RunError(f"an experiment's id must be family/name of a-z, 0-9 and hyphens, got {experiment.id!r}")
    if experiment.id in CATALOGUE:
        raise RunError(f"an experiment {experiment.id} exists already; choose another id")
    if "full" not in experiment.budgets or not set(experiment.budgets) <= set(BUDGETS):
        raise RunError(
            f"{experiment.id}: budgets must be some of {', '.join(BUDGETS)}, full among them, "
            f"got {', '.join(experiment.budgets) or 'none'}"
        )
    if not experiment.agents:
        raise RunError(f"{experiment.id} has no agents")
    for agent in experiment.agents:
        _check_runs(experiment, agent)
    CATALOGUE[experiment.id] = experiment


def register_agent(name: str, config: AnyAgentConfig, *experiments: str) -> None:
    """Add an agent to experiments of the catalogue.

    Args:
        name: lower-case letters, digits and hyphens.
        config: a frozen dataclass that derives from `SequenceAgent`, `FewShotAgent`, `TrialAgent` or `ClassicalAgent`.
        experiments: ids, or patterns such as ``bandit/*``.

    Raises:
        RunError: if a pattern has no experiment, one of them has an agent of that name, or one of its runs cannot be
            trained or does not survive a round trip through JSON. Then nothing is added.
    """
    added: dict[str, Experiment] = {}
    for pattern in experiments:
        found = fnmatch.filter(CATALOGUE, pattern)
        if not found:
            raise RunError(unknown("experiment", pattern, tuple(CATALOGUE)) + " `snail list` shows all")
        for e in map(find, found):
            if name in e.agents:
                raise RunError(f"{e.id} already has an agent {name}; choose another name")
            added[e.id] = replace(e, agents={**e.agents, name: config})
            _check_runs(added[e.id], name)
    CATALOGUE.update(added)


_NAME = "[a-z0-9]+(-[a-z0-9]+)*"


def _check_runs(experiment: Experiment, agent: str) -> None:
    """Raise RunError unless every run of an agent can be trained, named and read back from its folder."""
    where = f"{agent} on {experiment.id}"
    if not re.fullmatch(_NAME, agent):
        raise RunError(f"an agent's name must be of a-z, 0-9 and hyphens, got {agent!r}")
    for name, budget in experiment.budgets.items():
        ways = experiment.algorithms(agent, name)
        if not ways:
            known = ", ".join(budget.algorithms) or "none"
            raise RunError(f"{where}: the {name} budget has no algorithm for this agent, got {known}")
        for way in ways:
            config = experiment.config(agent, budget=name, algorithm=way)
            try:
                hash(config)
                same = from_dict(RunConfig, to_dict(config), where) == config
            except TypeError as e:
                raise RunError(f"{where}: settings must be numbers, strings and tuples of them ({e})") from e
            if not same:
                raise RunError(f"{where}: its settings are not the same after they were written to JSON and read back")


def as_catalogued(config: RunConfig) -> bool:
    """Whether a run has the settings of the catalogue: tables show only such runs."""
    return config == find(config.experiment).config(config.agent, config.seed, config.budget)

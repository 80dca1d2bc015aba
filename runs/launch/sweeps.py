"""Sweeps: combinations of experiments, agents, seeds and settings, from a TOML file or the command line."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs.catalogue import RunConfig, find
from runs.config.command_line import changed
from runs.config.serialization import flat, from_dict
from runs.system.errors import RunError
from runs.training import require_updates

MOST_RUNS = 20_000
"""Maximum runs of a sweep, which take about ten seconds to list."""


@dataclass(frozen=True)
class SweepSpec:
    """One run for every combination of experiment, agent, seed and settings."""

    experiments: tuple[str, ...]
    """Names in the catalogue, or EXPERIMENT/AGENT for only this agent."""
    agents: tuple[str, ...] = ("snail",)
    """Names of agents, which all experiments must have."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the initial weights and of everything drawn in training."""
    budget: str = "full"
    """How much training."""
    algorithm: str | None = None
    """Training algorithm; None: the default."""
    until: int | None = None
    """Updates after which every run pauses; None: train to the end."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Options of `snail train`, such as training.learning-rate, each with a value or, for a
    grid, a list of values. A value that is itself a list is a list in that list."""

    @classmethod
    def of_table(cls, data: dict[str, Any], where: str) -> SweepSpec:
        """Parse a sweep from a table of TOML; ``where`` names its place in error messages.

        Raises:
            RunError: for unknown keys or values of another type.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in data.keys() - set(known):
            near = difflib.get_close_matches(key, known, n=1)
            raise RunError(f"{where}: unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else _choose(known)))
        data = dict(data)
        settings = data.pop("set", {})
        if not isinstance(settings, dict):
            raise RunError(f"{where}: set must be a table, [set], got {settings!r}")
        # TOML reads training.steps = 5 as a table in a table
        return dataclasses.replace(from_dict(cls, data, where), set=flat(settings))

    def configs(self) -> list[RunConfig]:
        """The runs.

        Raises:
            RunError: for an unknown experiment, agent, budget, algorithm or option, or an invalid value.
        """
        require_updates(self.until)
        runs = len(self._pairs()) * len(self.seeds) * len(self._grid())
        if runs > MOST_RUNS:
            raise RunError(f"a sweep can have at most {MOST_RUNS:,} runs, this one has {runs:,}; split it")
        found = []
        for experiment, agent in self._pairs():
            base = find(experiment).config(agent, 0, self.budget, self.algorithm)
            for settings in self._grid():
                config = changed(base, settings, f"train {experiment} --agent {agent}")
                found += [dataclasses.replace(config, seed=seed) for seed in self.seeds]
        return found

    def bases(self) -> list[list[RunConfig]]:
        """The runs of all seeds for each experiment and agent, without the settings to be searched.

        Raises:
            RunError: for an unknown experiment, agent, budget or algorithm.
        """
        return [
            [find(experiment).config(agent, seed, self.budget, self.algorithm) for seed in self.seeds]
            for experiment, agent in self._pairs()
        ]

    def _pairs(self) -> list[tuple[str, str]]:
        """Experiments and agents."""
        found = []
        for name in self.experiments:
            family, _, rest = name.partition("/")
            experiment, _, agent = rest.partition("/")
            found += [(f"{family}/{experiment}" if rest else name, a) for a in ((agent,) if agent else self.agents)]
        return found

    def _grid(self) -> list[dict[str, Any]]:
        values = [v if isinstance(v, list) else [v] for v in self.set.values()]
        if empty := [name for name, v in zip(self.set, values, strict=True) if not v]:
            raise RunError(f"{empty[0]} has no values")
        return [dict(zip(self.set, chosen, strict=True)) for chosen in itertools.product(*values)]


def parse_setting(word: str) -> tuple[str, list[Any]]:
    """Parse a setting such as ``training.learning-rate=1e-3,3e-3`` into its name and values.

    Raises:
        RunError: if it has no value.
    """
    name, _, values = word.partition("=")
    if not name or not values:
        raise RunError(f"--set needs NAME=VALUE, such as training.learning-rate=1e-3,3e-3, got {word!r}")
    try:
        return name, tomllib.loads(f"x = [{values}]")["x"]
    except tomllib.TOMLDecodeError:  # plain words
        return name, values.split(",")


def read_sweeps(path: Path) -> list[SweepSpec]:
    """The sweeps of a TOML file: one, or one for each table [[sweeps]], in order.

    Raises:
        RunError: if it cannot be read, has unknown keys or values of another type.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise RunError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    except RecursionError as e:
        raise RunError(f"cannot read {path}: it is nested too deep") from e
    if "sweeps" not in data:
        return [SweepSpec.of_table(data, str(path))]
    tables = data.pop("sweeps")
    if data or not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise RunError(f"{path}: [[sweeps]] must be tables, without other keys beside them")
    return [SweepSpec.of_table(table, f"{path}: sweeps[{i}]") for i, table in enumerate(tables)]


def _choose(known: list[str]) -> str:
    return f"choose from {', '.join(known)}"

"""Reads runs from their folders as plain data; a damaged run costs only a warning."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.agents import METHODS
from runs.catalogue import RunConfig
from runs.config.serialization import from_dict, to_dict
from runs.results.folder import RunFolder, find_runs
from runs.results.metrics import SECONDS, UPDATE, unit_of, with_units
from runs.system.errors import RunError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Metrics logged at the same steps.

    steps, seconds: (L,) updates and seconds of training so far, increasing.
    units: (L,) environment steps or episodes so far; None if no throughput was logged.
    metrics: each (L,), means over the updates since the previous line.
    """

    steps: Floats
    seconds: Floats
    units: Floats | None
    metrics: Mapping[str, Floats]


@dataclass(frozen=True)
class Run:
    """One run.

    name: its folder relative to the one that was searched; unique, and used in the page's URL.
    published: whether it is one of the published runs.
    config: the configuration, without the names; settings newer than the run at their defaults.
    record: the record without results and configuration; empty for an unfinished run.
    results: one dictionary per measured number, as in the record.
    unit: the unit of throughput, in the plural; None if unknown.
    logged: time of the last write.
    """

    folder: Path
    name: str
    published: bool
    experiment: str
    agent: str
    budget: str
    seed: int
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    curves: Sequence[Curves]
    unit: str | None
    pictures: Sequence[Path]
    logged: datetime

    @property
    def finished(self) -> bool:
        """Whether it has a record."""
        return bool(self.record)

    @property
    def learns(self) -> bool:
        """Whether it has learning curves; a classical method logs the settings it tries."""
        return self.agent not in METHODS

    @property
    def settings(self) -> str:
        """The key that runs must share to be averaged over seeds."""
        return json.dumps([self.experiment, self.agent, self.budget, self.config], sort_keys=True)


@dataclass(frozen=True)
class Found:
    """All runs below some folders, and a warning for everything that could not be read."""

    runs: Sequence[Run]
    warnings: Sequence[str]


@dataclass
class Collector:
    """Reads the runs below folders, again only if their files have changed.

    folders: where to look; if a run is in several of them, as a copy, the first is taken.
    published: the folder of the published runs.
    """

    folders: Sequence[Path]
    published: Path | None = None
    _known: dict[Path, tuple[object, Run | None, list[str]]] = field(default_factory=dict)
    _found: Found | None = None

    def collect(self) -> Found:
        """All runs, in the order of folders and names; the same object as long as nothing has changed."""
        known, self._known = self._known, {}
        for top in self.folders:
            for folder in find_runs(top):
                stamp = _stamp(folder)
                old = known.get(folder)
                if old is None or old[0] != stamp:
                    old = (stamp, *_read_safely(folder, top, top == self.published))
                self._known[folder] = old
        same = list(known) == list(self._known) and all(known[folder] is new for folder, new in self._known.items())
        if self._found is None or not same:
            self._found = self._put_together()
        return self._found

    def _put_together(self) -> Found:
        runs: dict[object, Run] = {}
        for _, run, _ in self._known.values():
            if run is not None:
                runs.setdefault((run.settings, run.seed, run.record.get("finished", run.folder)), run)
        return Found([*runs.values()], [line for _, _, warnings in self._known.values() for line in warnings])


def _files(folder: Path) -> Iterator[Path]:
    """All files from which a run is read."""
    yield from (folder / name for name in ("config.json", "result.json", "metrics.jsonl"))
    yield from sorted((folder / "attention").glob("*.png"))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """A stamp that changes when any of the run's files does."""
    found = []
    for path in _files(folder):
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _read_safely(folder: Path, top: Path, published: bool) -> tuple[Run | None, list[str]]:
    warnings: list[str] = []
    try:
        return _read(folder, top, published, warnings), warnings
    except RunError as e:
        return None, [*warnings, f"{e}; left out"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        return None, [*warnings, f"{folder} is not a complete run ({type(e).__name__}: {e}); skipped"]


def _read(folder: Path, top: Path, published: bool, warnings: list[str]) -> Run:
    files = RunFolder(folder)
    record: dict[str, Any] = {}
    try:
        record = dict(files.result() or {})
    except (RunError, ValueError, TypeError) as e:
        if not files.config_path.exists():
            raise
        warnings.append(f"{e}; the run is shown without its record")
    config = record.pop("config", None) or files.plain_config()
    config = dict(_with_defaults(config))
    config.pop("type", None)
    key = {name: config.pop(name) for name in ("experiment", "agent", "budget", "seed")}
    results = [_result(r) for r in record.pop("results", [])]
    curves: list[Curves] = []
    unit = None
    try:
        lines = with_units(_ordered(files.metrics(), folder, warnings), record)
        unit = next((unit for line in lines if (unit := unit_of(line))), None)
        curves = _curves(lines, unit)
    except RunError as e:
        warnings.append(f"{e}; the run is shown without curves")
    return Run(
        folder=folder,
        name=("published/" if published else "") + folder.relative_to(top).as_posix(),
        published=published,
        experiment=str(key["experiment"]),
        agent=str(key["agent"]),
        budget=str(key["budget"]),
        seed=int(key["seed"]),
        config=config,
        record=record,
        results=results,
        curves=curves,
        unit=unit,
        pictures=[path for path in _files(folder) if path.suffix == ".png"],
        logged=datetime.fromtimestamp(max(p.stat().st_mtime for p in _files(folder) if p.exists()), UTC),
    )


def _with_defaults(config: Any) -> dict[str, Any]:
    """The configuration with newer settings at their defaults; unchanged if it can no longer be parsed."""
    try:
        return to_dict(from_dict(RunConfig, config))
    except RunError:
        return config


def _result(r: Mapping[str, Any]) -> dict[str, Any]:
    """A measured number of a record, checked."""
    return {**r, "metric": str(r["metric"]), "mean": float(r["mean"]), "ci95": float(r["ci95"]), "n": int(r["n"])}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ordered(lines: Iterable[Any], folder: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """The lines with valid, increasing steps and times."""
    kept: list[dict[str, Any]] = []
    left_out = 0
    step = -math.inf
    for line in lines:
        if isinstance(line, dict) and all(_is_number(line.get(k)) for k in (UPDATE, SECONDS)) and line[UPDATE] > step:
            step = line[UPDATE]
            kept.append(line)
        else:
            left_out += 1
    if left_out:
        warnings.append(f"{folder / 'metrics.jsonl'}: {left_out} lines are out of order; skipped")
    return kept


def _curves(lines: Sequence[dict[str, Any]], unit: str | None) -> list[Curves]:
    """The metrics, grouped by the steps at which they were logged."""
    steps = np.array([line[UPDATE] for line in lines], np.float64)
    seconds = np.maximum.accumulate([line[SECONDS] for line in lines], dtype=np.float64)
    units = None if unit is None else np.array([line[unit] for line in lines], np.float64)
    at: dict[tuple[int, ...], dict[str, Floats]] = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        if name in (UPDATE, SECONDS, unit):
            continue
        where = tuple(i for i, line in enumerate(lines) if _is_number(line.get(name)))
        if where:
            at.setdefault(where, {})[name] = np.array([lines[i][name] for i in where], np.float64)
    return [
        Curves(steps[i], seconds[i], None if units is None else units[i], metrics)
        for where, metrics in at.items()
        for i in [list(where)]
    ]


def thinned(curves: Curves, points: int) -> Curves:
    """The curves at no more than ``points`` steps.

    A logged line is the mean over the updates since the previous line; merged lines are averaged accordingly.
    """
    L = len(curves.steps)
    if points >= L:
        return curves
    ends = np.arange(points + 1) * L // points  # (points + 1,)
    last = ends[1:] - 1
    weights = np.diff(curves.steps, prepend=0.0)

    def mean(values: Floats) -> Floats:
        return np.add.reduceat(weights * values, ends[:-1]) / np.add.reduceat(weights, ends[:-1])

    return dataclasses.replace(
        curves,
        steps=curves.steps[last],
        seconds=curves.seconds[last],
        units=None if curves.units is None else curves.units[last],
        metrics={name: mean(values) for name, values in curves.metrics.items()},
    )

"""Compares runs: results with intervals, tests of differences, differing settings."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from runs.catalogue import CATALOGUE
from runs.config.serialization import flat
from runs.results.curves import comparable
from runs.results.folder import RunFolder
from runs.results.metrics import with_units
from runs.results.plots import Curve
from runs.results.records import Result, mean_over_tasks, read_results, task_optimum
from runs.results.statistics import (
    Estimate,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
    t_interval,
)
from runs.system.errors import RunError

LONGEST_DISTINCTION = 60
"""Characters of settings in a label; runs that differ in more are numbered, and their settings listed below."""

MOST_COLUMNS = 4
"""Groups whose settings stand side by side; those of more groups are listed one below the other."""

IntervalOf = Callable[[Sequence[float]], Estimate]
"""Function from samples to their mean with an interval; NaN bounds for a single sample."""


@dataclass(frozen=True)
class Number:
    """One measured number of a group of runs.

    over_tasks: their mean, with the interval over test tasks.
    """

    name: str
    results: tuple[Result, ...]

    @cached_property
    def over_tasks(self) -> Estimate:
        """Mean over seeds and test tasks."""
        return mean_over_tasks(self.results)

    @cached_property
    def samples(self) -> np.ndarray | None:
        """(n,) mean over seeds for each test task; None if there are no samples or seeds had different tasks."""
        found = [r.samples() for r in self.results]
        if any(x is None for x in found) or len({r.task_set for r in self.results}) > 1:
            return None
        return np.stack([x for x in found if x is not None]).mean(0, dtype=np.float64)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    experiment: str
    agent: str
    budget: str
    settings: Mapping[str, Any]
    folders: tuple[RunFolder, ...]
    numbers: tuple[Number, ...]
    seconds: float
    distinction: str = ""
    """Settings that distinguish it from others of the same agent and budget, or its number among them."""

    @property
    def label(self) -> str:
        """Its label in the comparison."""
        return f"{self.agent} {self.budget}" + (f" ({self.distinction})" if self.distinction else "")

    @cached_property
    def optimum(self) -> float | None:
        """The optimum of its task, which need not be the catalogue's; None if unknown."""
        return task_optimum(self.settings.get("task"))

    def curve(self) -> Curve:
        """Its learning curves; returns only of whole trials."""
        tested = {n.name: (n.over_tasks.value, n.over_tasks.half) for n in self.numbers}
        runs = [with_units(f.metrics(), f.result() or {}) for f in self.folders]
        return Curve(self.label, self.agent, [comparable(lines, self.settings) for lines in runs], tested)


def find_groups(
    targets: Sequence[str], folders: Sequence[Path], budget: str | None = None, where: Sequence[str] = ()
) -> list[Group]:
    """The finished runs that the targets name, grouped, in the order of the targets.

    Args:
        targets: folders with runs, or experiments, for all their runs in ``folders``,
            or EXPERIMENT/AGENT.
        folders: results folders; if a run is in several, the first is used.
        budget: only runs of this budget; None: all.
        where: only runs that have these settings, such as ``training.learning-rate=0.001``.

    Raises:
        RunError: for a target without such finished runs, or a setting that none of its runs has.
    """
    wanted = [_setting(word) for word in where]
    found: dict[Path, list[Result]] = {}
    if not targets:
        raise RunError("which runs? give folders or experiments: snail compare bandit/n10-k5/snail bandit/n10-k5/gru")
    for target in targets:
        of_target = _results(target, folders)
        if not of_target:
            raise RunError(
                f"there is no finished run in {target}; give the folder of a run or an experiment (`snail list`)"
            )
        of_target = [r for r in of_target if budget in (None, r.budget) and all(_has(r, *pair) for pair in wanted)]
        if not of_target:
            raise RunError(f"no finished run in {target} has {' and '.join([*where, *([budget] if budget else [])])}")
        for result in of_target:
            found.setdefault(result.path, [])
            if result not in found[result.path]:
                found[result.path].append(result)
    groups: dict[tuple[str, str], dict[int, list[Result]]] = {}
    for results in found.values():
        first = results[0]
        groups.setdefault((first.experiment, first.settings), {}).setdefault(first.seed, results)
    return _distinguished([_group(list(by_seed.values())) for by_seed in groups.values()])


def _setting(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise RunError(f"--where needs NAME=VALUE, such as training.learning-rate=0.001, got {word!r}")
    return name.replace("-", "_"), value


def _has(result: Result, name: str, value: str) -> bool:
    """Whether a run has the setting; numbers are compared by value."""
    found = flat(json.loads(result.settings)).get(name)
    try:
        return not isinstance(found, bool) and float(value) == float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value.lower() == str(found).lower()


def _distinguished(groups: list[Group]) -> list[Group]:
    """Add the differing settings to the labels of groups with the same experiment, agent and budget."""
    named: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        named.setdefault((group.experiment, group.label), []).append(group)
    found = []
    for group in groups:
        alike = named[group.experiment, group.label]
        differ = _differing([g.settings for g in alike]) if len(alike) > 1 else {}
        values = zip(*differ.values(), strict=True)
        own = [", ".join(map("=".join, zip(differ, of_group, strict=True))) for of_group in values]
        if max(map(len, own), default=0) > LONGEST_DISTINCTION:
            own = [str(1 + i) for i in range(len(alike))]
        found.append(replace(group, distinction=own[alike.index(group)] if own else ""))
    return found


def _results(target: str, folders: Sequence[Path]) -> list[Result]:
    if Path(target).is_dir():
        return read_results([Path(target)])
    parts = tuple(target.strip("/").split("/"))
    experiment, agent = "/".join(parts[:2]), "/".join(parts[2:])
    if experiment not in CATALOGUE:
        raise RunError(f"{target} is neither the folder of a run nor an experiment; `snail list` shows all experiments")
    below = [folder / experiment / agent for folder in folders]
    return read_results([folder for folder in below if folder.is_dir()])


def _group(runs: list[list[Result]]) -> Group:
    first = runs[0][0]
    numbers: dict[str, list[Result]] = {}
    for result in (r for results in runs for r in results):
        numbers.setdefault(result.name, []).append(result)
    return Group(
        first.experiment,
        first.agent,
        first.budget,
        json.loads(first.settings),
        tuple(RunFolder(results[0].path.parent) for results in runs),
        tuple(Number(name, tuple(found)) for name, found in numbers.items()),
        statistics.fmean(results[0].train_seconds for results in runs),
    )


Format = Literal["text", "markdown", "latex", "csv"]
_STYLES = {"text": "simple", "markdown": "pipe", "latex": "latex_booktabs"}
ABOUT_P = (
    "p is over test tasks: it compares these trained agents, also on other tasks. How another training of either "
    "would have turned out takes several seeds to tell."
)


@dataclass(frozen=True)
class Grid:
    """A table of a comparison, with title and caption."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    note: str = ""

    def text(self, style: Format) -> str:
        """The table in a format; in csv the caption is a comment."""
        if style == "csv":
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows([self.head, *self.rows])
            grid, caption = buffer.getvalue().rstrip("\n"), f"# {self.caption}" if self.caption else ""
        else:
            grid, caption = _table(self.head, self.rows, style), self.caption
            caption += "\n" if caption and style == "markdown" else ""
        note = self.note if style in ("text", "markdown") else ""
        return "\n".join(filter(None, [caption, grid, note and ("\n" * (style == "markdown") + note)]))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], style: Format) -> str:
    if style == "text":
        rows = [["\n".join(wrap(str(cell), 90)) for cell in row] for row in rows]
    return tabulate(rows, head, _STYLES[style], disable_numparse=True)


def describe_groups(groups: Sequence[Group], over_seeds: IntervalOf = t_interval, style: Format = "text") -> str:
    """The comparison of the groups as text: a section per experiment, and aggregates over experiments.

    ``over_seeds`` computes the interval over seeds from their means.
    """
    by_experiment: dict[str, list[Group]] = {}
    for group in groups:
        by_experiment.setdefault(group.experiment, []).append(group)
    sections = [(name, _section(found, over_seeds)) for name, found in by_experiment.items()]
    if len(by_experiment) > 1 and (over := _over_experiments(by_experiment)):
        sections.append(over)
    return "\n\n".join(
        part for title, grids in sections for part in (_title(title, style), *(grid.text(style) for grid in grids))
    )


def _title(title: str, style: Format) -> str:
    return {
        "text": f"{title}\n{'=' * len(title)}",
        "markdown": f"## {title}",
        "latex": f"% {title}",
        "csv": f"# {title}",
    }[style]


def _section(groups: list[Group], over_seeds: IntervalOf) -> list[Grid]:
    grids = []
    for name in dict.fromkeys(n.name for g in groups for n in g.numbers):
        having = [(g, n) for g in groups for n in g.numbers if n.name == name]
        grids.append(_final(name.replace("_", ", "), having, over_seeds))
        if len(having) > 1:
            grids.append(_differences(having))
    return [*grids, _settings(groups)] if len(groups) > 1 else grids


def _final(name: str, having: list[tuple[Group, Number]], over_seeds: IntervalOf) -> Grid:
    rows = []
    for group, number in having:
        tasks, seeds, optimum = number.over_tasks, over_seeds([r.mean for r in number.results]), group.optimum
        rows.append(
            [
                group.label,
                f"{tasks.value:.4g} +- {tasks.half:.2g}",
                "" if math.isnan(seeds.low) else f"+- {seeds.half:.2g}",
                len(number.results),
                number.results[0].n,
                "" if optimum is None else f"{100 * tasks.value / optimum:.2f}%",
                f"{number.results[0].parameters:,}",
                f"{group.seconds:.0f}",
            ]
        )
    over = ("mean, 95% CI over tasks", "CI over seeds", "seeds", "tasks", "% of optimum")
    return Grid(("agent", *over, "parameters", "seconds"), rows, name)


def _differences(having: list[tuple[Group, Number]]) -> Grid:
    """The first group against each of the others."""
    (first, ours), *others = having
    rows = [
        [group.label, *_difference(ours, theirs), _improvement(ours, theirs)]
        if group.settings.get("task") == first.settings.get("task")
        else [group.label, "", "", "another task", ""]
        for group, theirs in others
    ]
    head = [f"{first.label} minus", "difference, 95% CI", "p", "test", "P(better)"]
    return Grid(head, rows, note=ABOUT_P if any(row[2] for row in rows) else "")


def _difference(ours: Number, theirs: Number) -> tuple[str, str, str]:
    a, b = ours.samples, theirs.samples
    same = ours.results[0].task_set == theirs.results[0].task_set
    if a is not None and b is not None and same:
        found = paired_difference(a, b)
        d = found.difference
        p = "< 0.0001" if found.p < 1e-4 else f"{found.p:.4f}"
        return f"{d.value:+.4g} +- {d.half:.2g}", p, f"paired, {found.n} tasks"
    x, y = ours.over_tasks, theirs.over_tasks
    half = math.hypot(x.half, y.half)
    return f"{x.value - y.value:+.4g} +- {half:.2g}", "", "other tasks" if not same else "no samples kept"


def _improvement(ours: Number, theirs: Number) -> str:
    """Probability that one training of ours beats one of theirs, over seeds."""
    scores = [np.array([r.mean for r in n.results]) for n in (ours, theirs)]
    if min(map(len, scores)) < 2:
        return "" if len(scores[0]) == len(scores[1]) == 1 else "needs 2 seeds each"
    return _interval(probability_of_improvement(scores[:1], scores[1:]))


def _interval(e: Estimate) -> str:
    ends = "" if math.isnan(e.low) else f" [{e.low:.3g}, {e.high:.3g}]"
    return f"{e.value:.3g}{ends}"


def _over_experiments(by_experiment: Mapping[str, list[Group]]) -> tuple[str, list[Grid]] | None:
    """Aggregates of agents over all experiments, as shares of the optimum."""
    shares: dict[str, dict[str, np.ndarray]] = {}
    for name, groups in by_experiment.items():
        for group in groups:
            if group.optimum is not None:
                for number in group.numbers:
                    scores = np.array([r.mean for r in number.results]) / group.optimum
                    shares.setdefault(group.label, {}).setdefault(f"{name} {number.name}", scores)
    whole = set().union(*shares.values()) if shares else set()
    complete = {label: found for label, found in shares.items() if found.keys() == whole}
    if len(whole) < 2 or not complete:
        return None
    first, *_ = complete
    rows = []
    for label, found in complete.items():
        ours, theirs = ([scores[key] for key in sorted(whole)] for scores in (complete[first], found))
        chance = "" if label == first else _interval(probability_of_improvement(ours, theirs))
        rows.append([label, _interval(interquartile_mean(theirs)), chance])
    head = ["agent", "interquartile mean of shares of the optimum", f"P({first} better)"]
    note = "95% intervals, if every experiment has 2 seeds or more, by bootstrap over seeds with fixed experiments."
    return f"over {len(whole)} measured numbers", [Grid(head, rows, note=note)]


def _settings(groups: Sequence[Group]) -> Grid:
    """The settings in which the groups differ, with their values."""
    differ = _differing([g.settings for g in groups])
    if len(groups) > MOST_COLUMNS:
        first, *others = groups
        lists = [[f"{k}={v[i]}" for k, v in differ.items() if v[i] not in (v[0], "-")] for i in range(1, len(groups))]
        rows = [[g.label, ", ".join(own) or "only the seed"] for g, own in zip(others, lists, strict=True)]
        return Grid(["agent", f"what differs from {first.label}"], rows)
    rows = [[name, *values] for name, values in differ.items()]
    rows = rows or [["only the seed", *("" for _ in groups)]]
    return Grid(["what differs", *(g.label for g in groups)], rows)


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings that differ, each with the values of all groups; "-" if a group does not have it.

    Settings that only one kind of agent has are omitted: its type is shown.
    """
    texts = [{k: str(x) for k, x in flat(s).items()} for s in settings]
    keys = [k for k in dict.fromkeys(k for t in texts for k in t) if len({t[k] for t in texts if k in t}) > 1]
    return {k: [t.get(k, "-") for t in texts] for k in keys if k not in ("agent", "budget")}

"""Rows of tables from records: selected runs, means with intervals, the optimum, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from runs.catalogue import BUDGETS, CATALOGUE
from runs.results.records import Result, mean_over_tasks
from runs.results.statistics import Estimate, ratio_of_means, t_interval, t_quantile, welch_p
from runs.results.tables.cells import Cell, Printed, Table, learns
from runs.tasks import FewShotTask

Verdict = Literal["matches", "above", "below", ""]
LEVEL = 0.05
"""Level of the papers' t-test for which agents are best, or not significantly worse."""


@dataclass(frozen=True)
class Measured:
    """The result of an agent in a cell, in the units of the records.

    mean: over all seeds, with its interval over test tasks.
    over_seeds: the mean with its interval over seeds, if there are several.
    n: number of test tasks.
    share: share of the optimum, with its interval if it has one.
    best: no agent of the cell, except a reference for the optimum, is significantly better.
    """

    mean: Estimate
    n: int
    seeds: int
    over_seeds: Estimate | None
    share: Estimate | None
    budget: str
    seconds: float
    parameters: int
    current: bool
    best: bool = False


@dataclass(frozen=True)
class Row:
    """An agent in a cell: the paper's number, ours if it has been run, and the optimum."""

    cell: Cell
    agent: str
    paper: Printed | None
    ours: Measured | None
    optimum: float | None
    marks: str = ""
    """Why it is not compared: smaller budget, outdated config, or both."""

    def verdict(self, scale: float) -> Verdict:
        """Whether our number matches the paper's, or is above or below it; ``scale`` converts to the printed unit.

        It matches if the difference is within the two 95% intervals, combined in quadrature, plus the paper's
        rounding.
        """
        if self.ours is None or self.paper is None:
            return ""
        mean = self.ours.mean.scaled(scale)
        difference = mean.value - self.paper.value
        if abs(difference) <= math.hypot(mean.half, self.paper.half or 0.0) + self.paper.rounding:
            return "matches"
        return "above" if difference > 0 else "below"

    @property
    def at_chance(self) -> bool:
        """Whether a classifier is no better than guessing, within its interval."""
        task = CATALOGUE[self.cell.experiment].budgets["full"].task if self.cell.experiment in CATALOGUE else None
        return self.ours is not None and isinstance(task, FewShotTask) and self.ours.mean.low <= 1 / task.ways


def table_rows(
    table: Table, results: Iterable[Result], missing: bool = True, agents: Sequence[str] = (), cells: Sequence[str] = ()
) -> list[Row]:
    """All rows of a table; ``results`` may include other experiments.

    Args:
        missing: include rows that have not been run.
        agents, cells: only these, cells by setting or experiment; empty: all.
    """
    results = list(results)
    found = []
    for cell in table.cells:
        if not cells or cell.label in cells or cell.experiment in cells:
            rows = _mark_best(_mark_unequal(_cell_rows(table, cell, results, missing)), over_seeds=not table.of_paper)
            found += [row for row in rows if not agents or row.agent in agents]
    return found


def choose(results: list[Result], budgets: Sequence[str] = BUDGETS) -> list[Result]:
    """The results that a cell shows: of the largest budget that was run, as catalogued, one per seed.

    The choice never depends on the results. Only runs with the same settings and test tasks are combined: those of
    the first record in the order of folders, current configurations before outdated ones; likewise for
    several records of one seed.
    """
    for budget in budgets:
        of_budget = sorted((r for r in results if r.budget == budget and r.as_catalogued), key=lambda r: not r.current)
        by_seed: dict[int, Result] = {}
        for r in of_budget:
            if (r.settings, r.task_set) == (of_budget[0].settings, of_budget[0].task_set):
                by_seed.setdefault(r.seed, r)
        if by_seed:
            return list(by_seed.values())
    return []


def _cell_rows(table: Table, cell: Cell, results: list[Result], missing: bool) -> list[Row]:
    def runs_of(agent: str | None, experiment: str, budgets: Sequence[str], metric: str | None) -> list[Result]:
        of_agent = [r for r in results if (r.experiment, r.agent, r.shots) == (experiment, agent, cell.shots)]
        return choose([r for r in of_agent if metric is None or r.metric == metric], budgets)

    def reference_runs() -> list[Result]:
        if cell.reference_experiment:
            return runs_of(cell.reference, cell.reference_experiment, BUDGETS, "return")
        return runs_of(cell.reference, cell.experiment, BUDGETS, cell.metric)

    learners = [r for r in results if r.experiment == cell.experiment and learns(r.experiment, r.agent)]
    # trainings of minutes are not shown beside those of an hour
    comparable = BUDGETS[:2] if any(r.budget in BUDGETS[:2] for r in learners) else BUDGETS

    def shown(agent: str) -> list[Result]:
        budgets = comparable if table.budget is None or agent == cell.reference else (table.budget,)
        found = runs_of(agent, cell.experiment, budgets, cell.metric)
        return found if cell.minus is None else _differences(found, cell.minus, results)

    exact, reference = cell.optimum(), reference_runs()
    optimum = exact if exact is not None else reference[0].mean if reference else None
    trainable = CATALOGUE[cell.experiment].agents if cell.experiment in CATALOGUE else {}
    rows = []
    for agent, printed in cell.paper.items():
        chosen = shown(agent)
        if chosen:
            ours = _measured(chosen, share_of_optimum(chosen, reference if exact is None else exact))
            rows.append(Row(cell, agent, printed, ours, optimum))
        elif missing and cell.in_paper and agent not in table.optional and (printed is not None or agent in trainable):
            rows.append(Row(cell, agent, printed, None, optimum))
    return rows


def _stand_in(cell: Cell) -> str | None:
    """The agent of a cell that is the reference for its optimum."""
    return None if cell.reference_experiment or cell.optimum() is not None else cell.reference


def _differences(chosen: list[Result], minus: str, results: list[Result]) -> list[Result]:
    """Differences of two numbers of the same runs, by test task; runs without samples are skipped."""
    found = []
    for r in chosen:
        other = next(o for o in results if o.path == r.path and o.metric == minus)
        samples = [x for x in (r.samples(), other.samples()) if x is not None]
        if len(samples) == 2:
            paired = samples[0].astype(np.float64) - samples[1]
            half = 1.96 * paired.std(ddof=1) / len(paired) ** 0.5
            found.append(replace(r, mean=float(paired.mean()), ci95=float(half)))
    return found


def _measured(chosen: list[Result], share: Estimate | None) -> Measured:
    means = [r.mean for r in chosen]
    return Measured(
        mean=mean_over_tasks(chosen),
        n=chosen[0].n,
        seeds=len(means),
        over_seeds=t_interval(means) if len(means) > 1 else None,
        share=share,
        budget=chosen[0].budget,
        seconds=statistics.fmean(r.train_seconds for r in chosen),
        parameters=chosen[0].parameters,
        current=all(r.current for r in chosen),
    )


def share_of_optimum(chosen: list[Result], optimum: float | list[Result]) -> Estimate | None:
    """The mean as a share of the optimum, or of a reference method's mean on the same tasks.

    For a reference method the interval is that of a ratio of paired means. Without its samples there is none;
    results on other tasks are not comparable.
    """
    mean = mean_over_tasks(chosen)
    if isinstance(optimum, float):
        return mean.scaled(1 / optimum)
    if not optimum or optimum[0].task_set != chosen[0].task_set:
        return None
    samples = [x for r in (*chosen, optimum[0]) if (x := r.samples()) is not None]
    if len(samples) <= len(chosen):
        return Estimate(mean.value / optimum[0].mean, float("nan"), float("nan"))
    *ours, theirs = (x.astype(np.float64) for x in samples)
    return ratio_of_means(np.mean(ours, axis=0), theirs)


def _mark_unequal(rows: list[Row]) -> list[Row]:
    """Mark rows with less training than others of their cell, or with an outdated configuration."""
    learners = [row for row in rows if row.ours is not None and learns(row.cell.experiment, row.agent)]
    largest = min((BUDGETS.index(row.ours.budget) for row in learners if row.ours), default=0)

    def marks(row: Row) -> str:
        if row.ours is None:
            return ""
        smaller = row in learners and BUDGETS.index(row.ours.budget) > largest
        found = {"smaller budget": smaller, "outdated config": not row.ours.current}
        return ", ".join(mark for mark, holds in found.items() if holds)

    return [replace(row, marks=marks(row)) for row in rows]


def _mark_best(rows: list[Row], over_seeds: bool) -> list[Row]:
    """Mark the best agent of a cell, and those not significantly worse by the papers' one-sided t-test.

    References for the optimum, such as an oracle, do not compete, nor do agents with a smaller budget or
    an outdated configuration. The test is over test tasks, as in the papers. In our own comparisons it is
    ``over_seeds``: without several seeds nothing is marked, since another training might change the order.
    """

    def competes(row: Row) -> bool:
        return row.ours is not None and row.agent != _stand_in(row.cell) and not row.marks

    def sample(m: Measured) -> tuple[float, float, int]:
        if over_seeds and m.over_seeds is not None:
            return sign * m.mean.value, m.over_seeds.half / t_quantile(m.seeds), m.seeds
        return sign * m.mean.value, m.mean.half / 1.96, m.n

    competing = [row.ours for row in rows if competes(row) and row.ours is not None]
    if len(competing) < 2 or (over_seeds and any(m.seeds < 2 for m in competing)):
        return rows
    sign = -1 if rows[0].cell.lower else 1
    top = max(competing, key=lambda m: sign * m.mean.value)
    return [
        replace(row, ours=replace(row.ours, best=True))
        if row.ours is not None and competes(row) and welch_p(*sample(top), *sample(row.ours)) >= LEVEL
        else row
        for row in rows
    ]

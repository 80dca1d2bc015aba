"""Figures of tables: each agent's result in every setting, with the paper's and the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from runs.results.folder import writing
from runs.results.plots import COLOURS, OTHERS
from runs.results.records import Result
from runs.results.tables.cells import Table, learns
from runs.results.tables.costs import LENGTH, cost_of
from runs.results.tables.rows import Row, table_rows
from runs.system.errors import RunError

ROW_INCHES = 0.16
"""Height per agent."""


def draw_table(
    table: Table, results: Iterable[Result], path: Path, agents: Sequence[str] = (), cells: Sequence[str] = ()
) -> None:
    """Draw a table into a PNG: a group of points per setting, one per agent, with 95% intervals over test tasks.

    Points instead of bars, since the differences are far from zero. Agents with less training than others of their
    setting are hollow. If there is an optimum, numbers are in per cent of it. Settings that the paper does not have are
    drawn if they are named in ``cells``, or nothing else has been run. A table with costs is drawn as quality against
    each cost, with the Pareto front.

    Raises:
        RunError: if matplotlib is not installed, or no row of the table has been run.
    """
    rows = [row for row in table_rows(table, results, False, agents, cells) if row.ours and row.agent != "random"]
    if table.costs:
        return _draw_costs(rows, table, path)
    if table.of_paper and not cells:
        rows = [row for row in rows if row.cell.in_paper] or rows
    what = "% of the optimum" if table.shares else table.unit
    _draw(rows, table, f"Table {table.name}: {table.title}" if table.of_paper else table.title, what, path)


def draw_headline(tables: Iterable[Table], results: Sequence[Result], path: Path) -> None:
    """Draw the share of the optimum of each trained agent, over all settings of the tables.

    Raises:
        RunError: as for ``draw_table``.
    """
    rows = [row for table in tables for row in table_rows(table, results, False) if _compared(row)]
    _draw(rows, None, "Share of the optimum, by agent", "% of the optimum (few-shot: accuracy in %)", path)


def _compared(row: Row) -> bool:
    """Whether a row is a trained agent with the largest budget of its cell, in a setting of the paper."""
    full = row.ours is not None and row.ours.budget == "full"
    return full and row.cell.in_paper and learns(row.cell.experiment, row.agent)


def _position(row: Row, shares: bool) -> tuple[float, float, float | None]:
    """Position of a row, half-width of its interval, and position of the paper's number."""
    assert row.ours is not None
    if row.optimum is None or not shares:
        mean = row.ours.mean.scaled(100.0 if row.ours.mean.value <= 1 else 1.0)
        return mean.value, mean.half, row.paper.value if row.paper else None
    unit = 1.0 if row.optimum == 1 else 100 / row.optimum  # accuracies are printed in per cent
    paper = row.paper.value * unit if row.paper else None
    share = row.ours.share
    if share is None:  # the optimum is only known for other tasks
        share = row.ours.mean.scaled(1 / row.optimum)
    return 100 * share.value, 0.0 if math.isnan(share.half) else 100 * share.half, paper


def _figure(rows: list[Row], size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise RunError("matplotlib is not installed; run: pip install 'snail-suite[plot]'") from e
    if not rows:
        raise RunError("nothing to draw: no row of this table has been run")
    return Figure(figsize=size, layout="constrained")


def _styles(rows: list[Row]) -> tuple[dict[str, str], dict[str, str]]:
    """Colours and markers by agent."""
    agents = list(dict.fromkeys(row.agent for row in rows))
    others = [agent for agent in agents if agent not in COLOURS]
    colours = {agent: COLOURS.get(agent, "") for agent in agents}
    colours |= {agent: OTHERS[i % len(OTHERS)] for i, agent in enumerate(others)}
    return colours, {
        agent: "os^vDPX"[others.index(agent) // len(OTHERS)] if agent in others else "o" for agent in agents
    }


def _draw_costs(rows: list[Row], table: Table, path: Path) -> None:
    costs: dict[str, Callable[[Row], float | None]] = {
        "seconds of training": lambda row: row.ours.seconds if row.ours else None,
        f"µs of a step after {LENGTH:,}": lambda row: found.step_time if (found := cost_of(row)) else None,
        f"kB of cache after {LENGTH:,} steps": lambda row: found.cache if (found := cost_of(row)) else None,
    }
    settings = list(dict.fromkeys(row.cell.label for row in rows))
    figure = _figure(rows, (3.6 * len(costs), 2.6 * len(settings) + 0.8))
    colours, markers = _styles(rows)
    from matplotlib.ticker import LogLocator

    panels = figure.subplots(len(settings), len(costs), squeeze=False)
    for label, line in zip(settings, panels, strict=True):
        group = [row for row in rows if row.cell.label == label]
        for (what, cost), panel in zip(costs.items(), line, strict=True):
            points = [(x, _position(row, True)[0], row) for row in group if (x := cost(row)) is not None]
            if not points:
                panel.set_axis_off()
                continue
            for x, y, row in points:
                colour = colours[row.agent]
                panel.plot(x, y, markers[row.agent], color=colour, mfc="white" if row.marks else colour)
            front = pareto_front([(x, y) for x, y, _ in points])
            panel.plot(*zip(*front, strict=True), color="0.6", linewidth=1, drawstyle="steps-post", zorder=0)
            panel.set(xscale="log", xlabel=what)
            wide = max(x for x, *_ in points) > 50 * min(x for x, *_ in points)
            panel.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter("")
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set(ylabel="% of the optimum", title=label)
    _legend(figure, rows, colours, markers)
    figure.suptitle(f"{table.title[0].upper()}{table.title[1:]}: quality against cost", fontsize=10)
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _legend(figure: Any, rows: list[Row], colours: dict[str, str], markers: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    def sign(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, label=label, **style)

    signs = [sign(markers[agent], agent, color=colour) for agent, colour in colours.items()]
    if any(row.paper for row in rows):
        signs.append(sign("|", "the paper's", color="black", markersize=9))
    if any(row.marks for row in rows):
        signs.append(sign("o", "smaller budget or outdated config", color="0.5", markerfacecolor="white"))
    figure.legend(handles=signs, loc="outside lower center", ncols=5, frameon=False, fontsize="small")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of (cost, quality), from the cheapest on."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def _draw(rows: list[Row], table: Table | None, title: str, what: str, path: Path) -> None:
    settings = list(dict.fromkeys((row.cell.experiment, row.cell.label) for row in rows))
    colours, markers = _styles(rows)
    figure = _figure(rows, (8, 1.3 + ROW_INCHES * (len(rows) + 1.5 * len(settings))))
    panel: Any = figure.subplots()
    y, ticks = 0.0, []
    for setting in settings:
        group = [row for row in rows if (row.cell.experiment, row.cell.label) == setting]
        ticks.append(y + (len(group) - 1) / 2)
        for row in group:
            x, half, paper = _position(row, table is None or table.shares)
            colour = colours[row.agent]
            style = {"color": colour, "mfc": "white" if row.marks else colour, "capsize": 2, "markersize": 5}
            panel.errorbar(x, y, xerr=half, fmt=markers[row.agent], **style)
            if paper is not None:
                panel.plot(paper, y, marker="|", color="black", markersize=9, linestyle="none")
            y += 1
        panel.axhline(y + 0.25, color="0.9", linewidth=0.8)
        y += 1.5
    if "%" in what:
        panel.axvline(100, color="0.4", linestyle="--", linewidth=1)
    families = {experiment.split("/")[0] for experiment, _ in settings}
    labels = [label if len(families) == 1 else f"{experiment.split('/')[0]} {label}" for experiment, label in settings]
    panel.set(yticks=ticks, yticklabels=labels, ylim=(y - 1, -1), xlabel=what, title=title)
    panel.spines[["top", "right"]].set_visible(False)
    _legend(figure, rows, colours, markers)
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=150)

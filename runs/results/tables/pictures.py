"""Figures of tables: each agent's result in every setting, with the paper's and the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from runs.results.folder import writing
from runs.results.plots import COLOURS, OTHERS
from runs.results.records import Result
from runs.results.tables.cells import Table, learns
from runs.results.tables.costs import LENGTH, cost_of
from runs.results.tables.rows import Row, table_rows
from runs.system.errors import RunError

AGENT_INCHES = 0.13
"""Width of an agent's column."""
LEAST_COLUMNS = 6.0
"""Columns of a setting, at least, so that its label of 10 characters a line fits."""


def draw_table(
    table: Table, results: Iterable[Result], path: Path, agents: Sequence[str] = (), cells: Sequence[str] = ()
) -> None:
    """Draw a table into a PNG: a group of points per setting, one per agent, with 95% intervals over test tasks.

    Points instead of bars, since the differences are small beside the results. Agents with less training than others
    of their setting are hollow. If there is an optimum, numbers are in per cent of it. Settings that the paper does not
    have are drawn if they are named in ``cells``, or nothing else has been run. A table with costs is drawn as quality
    against each cost, with the Pareto front.

    Raises:
        RunError: if matplotlib is not installed, or no row of the table has been run.
    """
    rows = [row for row in table_rows(table, results, False, agents, cells) if row.ours and row.agent != "random"]
    if table.costs:
        return _draw_costs(rows, table, path)
    if table.of_paper and not cells:
        rows = [row for row in rows if row.cell.in_paper] or rows
    _draw([(table, rows)], f"Table {table.name}: {table.title}" if table.of_paper else table.title, path)


def draw_headline(tables: Iterable[Table], results: Sequence[Result], path: Path) -> None:
    """Draw the results of all trained agents in all settings of the tables, with a panel per table.

    Raises:
        RunError: as for ``draw_table``.
    """
    found = [(table, [row for row in table_rows(table, results, False) if _compared(row)]) for table in tables]
    _draw([(table, rows) for table, rows in found if rows], "", path)


def _compared(row: Row) -> bool:
    """Whether a row is a trained agent with the largest budget of its cell, in a setting of the paper."""
    full = row.ours is not None and row.ours.budget == "full"
    return full and row.cell.in_paper and learns(row.cell.experiment, row.agent)


def _position(row: Row, table: Table) -> tuple[float, float, float | None]:
    """Position of a row, half-width of its interval, and position of the paper's number."""
    assert row.ours is not None
    if row.optimum is None or not table.shares:
        mean = row.ours.mean.scaled(table.scale)
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
            points = [(x, _position(row, table)[0], row) for row in group if (x := cost(row)) is not None]
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
        signs.append(sign("_", "the paper's", color="black", markersize=9))
    if any(row.marks for row in rows):
        signs.append(sign("o", "smaller budget or outdated config", color="0.5", markerfacecolor="white"))
    columns = min(6, int(figure.get_figwidth() / 1.6))  # inches; the longest label needs some more
    figure.legend(handles=signs, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of (cost, quality), from the cheapest on."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def _draw(panels: list[tuple[Table, list[Row]]], title: str, path: Path) -> None:
    """A panel per table; of several, the widest is drawn below the others."""
    every = [row for _, rows in panels for row in rows]
    widths = [sum(map(_columns, _settings(rows))) for _, rows in panels]
    order = sorted(range(len(panels)), key=widths.__getitem__)
    lines = [line for line in (sorted(order[:-1]), order[-1:]) if line]
    inches = max((AGENT_INCHES * sum(widths[i] for i in line) + 0.8 * len(line) for line in lines), default=0)
    height = 3.0 if len(lines) > 1 else 4.0
    figure = _figure(every, (max(6.0, inches), 0.9 + height * len(lines)))
    colours, markers = _styles(every)
    grid = figure.add_gridspec(len(lines), 1)
    for line, place in zip(lines, grid, strict=True):
        columns = place.subgridspec(1, len(line), width_ratios=[widths[i] for i in line])
        for i, column in zip(line, columns, strict=True):
            (table, rows), panel = panels[i], figure.add_subplot(column)
            _draw_panel(panel, table, rows, colours, markers)
            if len(panels) > 1:
                panel.set_title(rows[0].cell.experiment.partition("/")[0])
    _legend(figure, every, colours, markers)
    figure.suptitle(title)
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _settings(rows: list[Row]) -> list[list[Row]]:
    """The rows of each setting."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell.experiment, row.cell.label), []).append(row)
    return [*groups.values()]


def _columns(group: list[Row]) -> float:
    """The width of a setting."""
    return max(len(group) + 1.5, LEAST_COLUMNS)


def _draw_panel(panel: Any, table: Table, rows: list[Row], colours: dict[str, str], markers: dict[str, str]) -> None:
    left, ticks, labels = 0.0, [], []
    for group in _settings(rows):
        width = _columns(group)
        ticks.append(left + width / 2)
        labels.append(fill(group[0].cell.label, 10, break_long_words=False, break_on_hyphens=False))
        for i, row in enumerate(group):
            x, colour = left + width / 2 + i - (len(group) - 1) / 2, colours[row.agent]
            y, half, paper = _position(row, table)
            style = {"color": colour, "mfc": "white" if row.marks else colour, "capsize": 2, "markersize": 4}
            panel.errorbar(x, y, yerr=half, fmt=markers[row.agent], **style)
            if paper is not None:
                panel.plot(x, paper, marker="_", color="black", markersize=9, linestyle="none")
        left += width
        panel.axvline(left, color="0.9", linewidth=0.8)
    what = "% of the optimum" if table.shares else table.unit
    if "%" in what:
        panel.axhline(100, color="0.4", linestyle="--", linewidth=1)
    panel.set(xticks=ticks, xlim=(0, left), ylabel=what)
    panel.set_xticklabels(labels, fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)

"""All tables, with the rows that extensions add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from runs.catalogue import find
from runs.results.tables.cells import Cell, Table, as_printed
from runs.results.tables.comparisons import comparison_tables
from runs.results.tables.paper import paper_tables
from runs.system.errors import RunError

REGISTERED: dict[str, list[Cell]] = {}
"""Rows added by extensions, by table."""


def register_row(
    table: str,
    label: str,
    experiment: str,
    agents: Sequence[str] = (),
    shots: int | None = None,
    paper: Mapping[str, tuple[float, float | None]] | None = None,
) -> None:
    """Add a setting to one of the paper's tables, where it is shown once it has been run, or to your own table.

    Args:
        table: its name; a new name creates a table.
        label: name of the setting.
        experiment: its id in the catalogue.
        agents: the agents to show, in this order; empty: all of the experiment.
        shots: for few-shot classification, one of the tested numbers of shots.
        paper: published numbers by agent, with the half-width of their 95% interval or None.

    Raises:
        RunError: for unknown names or shots, or a label that the table already has.
    """
    found = find(experiment)
    agents, printed = tuple(agents) or tuple(found.agents), dict(paper or {})
    if wrong := [agent for agent in (*agents, *printed) if agent not in found.agents]:
        raise RunError(f"{experiment} has no agent {wrong[0]}; it has {', '.join(found.agents)}")
    tested = getattr(found.budgets["full"].task, "test_shots", (None,))
    if shots not in tested:
        raise RunError(f"shots of {experiment} must be one of {', '.join(map(str, tested))}, got {shots}")
    there = tables()
    if table in there and label in (cell.label for cell in there[table].cells):
        raise RunError(f"table {table} has a row {label!r} already; choose another label")
    numbers = {agent: as_printed(*printed[agent]) if agent in printed else None for agent in agents}
    own = table not in there or table in REGISTERED
    cell = Cell(label, experiment, shots, numbers, found.optimum, in_paper=own)
    REGISTERED.setdefault(table, []).append(cell)


def tables() -> dict[str, Table]:
    """All tables: the SNAIL paper's by number, our own comparisons, and those of extensions."""
    found = paper_tables() | comparison_tables()
    for name, cells in REGISTERED.items():
        if name in found:
            found[name] = replace(found[name], cells=(*found[name].cells, *cells))
        else:
            scale, digits = (100.0, 2) if cells[0].shots else (1.0, 3)
            found[name] = Table(name, "rows of extensions", scale, digits, tuple(cells), shares=not cells[0].shots)
    return found

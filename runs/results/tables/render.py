"""Tables as text, Markdown, LaTeX (with the booktabs package), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from tabulate import tabulate

from runs.results.records import Result
from runs.results.statistics import Estimate
from runs.results.tables.cells import Table
from runs.results.tables.rows import LEVEL, Row, table_rows

Format = Literal["text", "markdown", "latex", "csv", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
BEST = f"the best, or not told from it by a one-sided t-test at {LEVEL:g}, as the papers print in bold"


def render(
    table: Table,
    results: Iterable[Result],
    form: Format = "text",
    missing: bool = True,
    agents: Sequence[str] = (),
    cells: Sequence[str] = (),
) -> str:
    """The table in a format, with or without the rows that are not run.

    Args:
        results: may hold other experiments' numbers too.
        agents, cells: only these, cells by setting or experiment; none: all.
    """
    return _RENDERERS[form](table, table_rows(table, results, missing, agents, cells))


@dataclass(frozen=True)
class _Column:
    """A column: its head, what it shows of a row, and whether any row has something to show."""

    head: str
    show: Callable[[Row], str]


def _title(table: Table) -> str:
    return f"Table {table.name}: {table.title}" if table.of_paper else f"{table.name.capitalize()}: {table.title}"


def _notes(table: Table, rows: list[Row]) -> list[str]:
    """What a reader has to know: the table's own notes, and what verdicts and marks mean."""
    notes = list(table.notes)
    if table.of_paper and any(row.verdict(table.scale) for row in rows):
        notes.append("verdict: where the paper's value lies, as printed, against our interval over test tasks.")
    return notes


def _columns(table: Table, rows: list[Row], strong: Callable[[str], str]) -> list[_Column]:
    scale, digits = table.scale, table.digits

    def number(x: float) -> str:
        return f"{scale * x:.{digits}f}"

    def paper(row: Row) -> str:
        if row.paper is None:
            return "-"
        value, half = row.paper
        return f"{value:g}" if half is None else f"{value:g} ± {half:g}"

    def parameters(row: Row) -> str:
        return f"{row.ours.parameters:,}" if row.ours else ""

    def ours(row: Row) -> str:
        if row.ours is None:
            return "not run"
        shown = f"{number(row.ours.mean)} ± {number(row.ours.ci95)}"
        return strong(shown) if row.ours.best else shown

    def over_seeds(row: Row) -> str:
        seeds = row.ours.over_seeds if row.ours else None
        return f"± {number(seeds.half)} ({row.ours.seeds} seeds)" if row.ours and seeds else ""

    def limit(row: Row) -> str:
        return "-" if row.limit is None else number(row.limit)

    def share(row: Row) -> str:
        found: Estimate | None = row.ours.share if row.ours else None
        if found is None:
            return ""
        return f"{100 * found.value:.2f}" + ("%" if math.isnan(found.low) else f" ± {100 * found.half:.2f}%")

    def fraction(row: Row) -> str:
        return f"{row.ours.mean / row.cell.paper_unit:.3f}" if row.ours and row.cell.paper_unit else ""

    def budget(row: Row) -> str:
        if row.ours is None:
            return ""
        return f"{row.ours.budget}{'' if row.ours.current else ' (earlier settings)'}, {row.ours.seconds:.0f} s"

    found = [_Column("setting", lambda row: row.cell.label), _Column("agent", lambda row: row.agent)]
    found.append(_Column("paper", paper) if table.of_paper else _Column("parameters", parameters))
    found.append(_Column("ours (95% CI over tasks)", ours))
    if any(row.ours and row.ours.over_seeds for row in rows):
        found.append(_Column("95% CI over seeds", over_seeds))
    if table.of_paper:
        found.append(_Column("verdict", lambda row: row.verdict(scale)))
    found.append(_Column("limit", limit))
    if table.shares:
        found.append(_Column("of limit", share))
    if any(row.cell.paper_unit for row in rows):
        found.append(_Column("paper's scale", fraction))
    return [*found, _Column("budget", budget)]


def _grid(table: Table, rows: list[Row], strong: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    columns = _columns(table, rows, strong)
    return [c.head for c in columns], [[c.show(row) for c in columns] for row in rows]


def _blank_repeats(body: list[list[str]]) -> list[list[str]]:
    """Name each setting once, on the first of its rows."""
    first = body[:1]
    return first + [["", *row[1:]] if row[0] == before[0] else row for before, row in pairwise(body)]


def _text(table: Table, rows: list[Row]) -> str:
    head, body = _grid(table, rows, lambda s: s + " *")
    body = [[value.replace("±", "+-") for value in row] for row in _blank_repeats(body)]
    drawn = tabulate(body, head, "simple", disable_numparse=True)
    lines = [_title(table), *(line.rstrip() for line in drawn.splitlines())]
    notes = _notes(table, rows) + ([f"*: {BEST}."] if any(row.ours and row.ours.best for row in rows) else [])
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _markdown(table: Table, rows: list[Row]) -> str:
    head, body = _grid(table, rows, lambda s: f"**{s}**")
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join([f"**{_title(table)}**", "", *lines, *(["", *n] if (n := _bold_notes(table, rows)) else [])])


def _bold_notes(table: Table, rows: list[Row]) -> list[str]:
    bold = any(row.ours and row.ours.best for row in rows)
    return _notes(table, rows) + ([f"Bold: {BEST}."] if bold else [])


def _latex(table: Table, rows: list[Row]) -> str:
    head, body = _grid(table, rows, lambda s: s + " *")
    drawn = tabulate(_blank_repeats(body), head, "latex_booktabs", disable_numparse=True)
    drawn = re.sub(r"(?<=& )\s*([^&\n]+?) \*", r"\\textbf{\1}", drawn).replace("±", r"$\pm$")
    caption = " ".join([_title(table) + ".", *_bold_notes(table, rows)])
    for special in "%&_#":
        caption = caption.replace(special, "\\" + special)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", f"\\caption{{{caption}}}", drawn]
    return "\n".join([*lines, r"\end{table}"])


def _html(table: Table, rows: list[Row]) -> str:
    head, body = _grid(table, rows, lambda s: s + " *")

    def cell(value: str) -> str:
        shown = html.escape(value)
        return f"<strong>{shown[:-2]}</strong>" if shown.endswith(" *") else shown

    drawn = tabulate(
        [[cell(v) for v in row] for row in body], [*map(html.escape, head)], "unsafehtml", disable_numparse=True
    )
    caption = f"<caption>{html.escape(_title(table))}</caption>"
    notes = "".join(f"\n<p>{html.escape(note)}</p>" for note in _bold_notes(table, rows))
    return drawn.replace("<table>", f"<table>\n{caption}", 1) + notes


_CSV_HEAD = (
    *("setting", "experiment", "shots", "agent", "paper", "paper_ci95"),
    *("mean", "tasks_ci95", "tasks", "seeds", "seeds_ci95", "verdict", "best", "limit", "share_of_limit", "share_ci95"),
    *("budget", "current_settings", "train_seconds", "parameters"),
)


def _csv(table: Table, rows: list[Row]) -> str:
    """Plain numbers, for programs: in the units of the printed table, intervals as half-widths."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_HEAD)
    for row in rows:
        paper, m, scale = row.paper or (None, None), row.ours, table.scale
        limit = None if row.limit is None else scale * row.limit
        key = [row.cell.label, row.cell.experiment, row.cell.shots, row.agent, *paper]
        if m is None:
            writer.writerow([*key, *[None] * 7, limit, *[None] * 6])
            continue
        seeds = m.over_seeds and scale * m.over_seeds.half
        share = [None, None] if m.share is None else [m.share.value, m.share.half]
        numbers = [scale * m.mean, scale * m.ci95, m.n, m.seeds, seeds, row.verdict(scale), m.best, limit, *share]
        writer.writerow([*key, *numbers, m.budget, m.current, m.seconds, m.parameters])
    return file.getvalue().rstrip("\n")


_RENDERERS: dict[Format, Callable[[Table, list[Row]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "html": _html,
}

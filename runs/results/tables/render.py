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
from runs.results.tables.costs import cost_of
from runs.results.tables.rows import LEVEL, Row, table_rows

Format = Literal["text", "markdown", "pivot", "latex", "csv", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
BEST = f"the best, or not significantly worse by a one-sided t-test at {LEVEL:g}, as the papers' bold"


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
        results: may include other experiments.
        agents, cells: only these, cells by setting or experiment; empty: all.
    """
    return _RENDERERS[form](table, table_rows(table, results, missing, agents, cells))


@dataclass(frozen=True)
class _Column:
    """A column: its header, its text for a row, and whether any row has one."""

    head: str
    show: Callable[[Row], str]


def _title(table: Table) -> str:
    return f"Table {table.name}: {table.title}" if table.of_paper else f"{table.name.capitalize()}: {table.title}"


def _notes(table: Table, rows: list[Row]) -> list[str]:
    """The notes below a table: its own, and the meaning of verdicts and marks."""
    notes = list(table.notes)
    if table.budget == "short":
        notes.insert(
            0,
            "All rows of a task have the same short budget, seed and test tasks: they show early learning, not final "
            "performance.",
        )
    if table.of_paper and any(row.verdict(table.scale) for row in rows):
        notes.append("verdict: our number against the paper's, within both 95% intervals and the paper's rounding.")
    if any(row.marks for row in rows):
        notes.append(
            "Rows marked *smaller budget* had less training than others of their cell, rows marked *outdated config* "
            "were produced with earlier hyperparameters; neither competes for the best."
        )
    return notes + _at_chance(rows)


def _at_chance(rows: list[Row]) -> list[str]:
    """A note on classifiers that learned nothing."""
    if not (agents := dict.fromkeys(row.agent for row in rows if row.at_chance)):
        return []
    return [
        f"No better than chance in some settings: {', '.join(agents)}. Recurrent agents learn late in few-shot "
        "classification: notes 11 and 12 of docs/reproduction.md tell when."
    ]


def _columns(table: Table, rows: list[Row], strong: Callable[[str], str]) -> list[_Column]:
    scale, digits = table.scale, table.digits

    def number(x: float) -> str:
        return f"{scale * x:.{digits}f}"

    def paper(row: Row) -> str:
        return "-" if row.paper is None else str(row.paper)

    def parameters(row: Row) -> str:
        return f"{row.ours.parameters:,}" if row.ours else ""

    def ours(row: Row) -> str:
        if row.ours is None:
            return "not run"
        shown = f"{number(row.ours.mean.value)} ± {number(row.ours.mean.half)}"
        return strong(shown) if row.ours.best else shown

    def over_seeds(row: Row) -> str:
        seeds = row.ours.over_seeds if row.ours else None
        return f"± {number(seeds.half)} ({row.ours.seeds} seeds)" if row.ours and seeds else ""

    def optimum(row: Row) -> str:
        return "-" if row.optimum is None else number(row.optimum)

    def share(row: Row) -> str:
        found: Estimate | None = row.ours.share if row.ours else None
        if found is None:
            return ""
        return f"{100 * found.value:.2f}" + ("%" if math.isnan(found.low) else f" ± {100 * found.half:.2f}%")

    def fraction(row: Row) -> str:
        return f"{row.ours.mean.value / row.cell.paper_unit:.3f}" if row.ours and row.cell.paper_unit else ""

    def budget(row: Row) -> str:
        if row.ours is None:
            return ""
        return f"{row.ours.budget}{f' ({row.marks})' if row.marks else ''}, {row.ours.seconds:.0f} s"

    def step_time(row: Row) -> str:
        cost = cost_of(row)
        return f"{cost.step_time:,.0f} µs" if cost else ""

    def cache_size(row: Row) -> str:
        cost = cost_of(row)
        return f"{cost.cache:,.0f} kB" if cost else ""

    found = [_Column("setting", lambda row: row.cell.label), _Column("agent", lambda row: row.agent)]
    found.append(_Column("paper", paper) if table.of_paper else _Column("parameters", parameters))
    found.append(_Column("ours (95% CI over tasks)", ours))
    if any(row.ours and row.ours.over_seeds for row in rows):
        found.append(_Column("95% CI over seeds", over_seeds))
    if table.of_paper:
        found.append(_Column("verdict", lambda row: row.verdict(scale)))
    found.append(_Column(table.bound, optimum))
    if table.shares:
        found.append(_Column("% of optimum", share))
    if table.costs and any(map(cost_of, rows)):
        found += [_Column("a step", step_time), _Column("cache", cache_size)]
    if any(row.cell.paper_unit for row in rows):
        found.append(_Column("paper's scale", fraction))
    return [*found, _Column("budget", budget)]


def _grid(table: Table, rows: list[Row], strong: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    columns = _columns(table, rows, strong)
    return [c.head for c in columns], [[c.show(row) for c in columns] for row in rows]


def _blank_repeats(body: list[list[str]]) -> list[list[str]]:
    """Show each setting once, in its first row."""
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


def _pivot(table: Table, rows: list[Row]) -> str:
    """Markdown as in the papers: a row per setting, a column per agent, ours above the paper's number."""
    shown = [row for row in rows if row.ours or row.paper]
    agents = list(dict.fromkeys(row.agent for row in shown))
    cells = {(row.cell.label, row.agent): row for row in shown}
    digits = table.digits

    def number(row: Row | None) -> str:
        if row is None:
            return ""
        ours = "not run"
        if row.ours is not None:
            mean = row.ours.mean.scaled(table.scale)
            ours = f"{mean.value:.{digits}f}"
            ours = (f"**{ours}**" if row.ours.best else ours) + f" ± {mean.half:.{digits}f}"
            ours += {"": "", "smaller budget": " †", "outdated config": " ‡"}.get(row.marks, " † ‡")
        return ours if row.paper is None else f"{ours}<br>*{row.paper}*"

    def optimum(label: str) -> str:
        found = next((row.optimum for row in rows if row.cell.label == label), None)
        return "-" if found is None else f"{table.scale * found:.{digits}f}"

    labels = list(dict.fromkeys(row.cell.label for row in shown))
    head = ["setting", table.bound, *agents]
    body = [[label, optimum(label), *(number(cells.get((label, agent))) for agent in agents)] for label in labels]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]
    notes = ["Upper number: ours, with its 95% interval over test tasks; below it, in italics: the paper's."]
    if not table.of_paper:
        notes = ["Our numbers, with their 95% intervals over test tasks.", *table.notes]
    if any(row.marks for row in shown):
        notes.append("†: smaller budget than others of its row; ‡: earlier hyperparameters. Neither competes for bold.")
    notes += _at_chance(shown)
    if any(row.ours and row.ours.best for row in shown):
        notes.append(f"Bold: {BEST}.")
    return "\n".join([f"**{_title(table)}**", "", *lines, "", " ".join(notes)])


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
    *(
        "mean",
        "tasks_ci95",
        "tasks",
        "seeds",
        "seeds_ci95",
        "verdict",
        "best",
        "optimum",
        "share_of_optimum",
        "share_ci95",
    ),
    *("budget", "current_settings", "train_seconds", "parameters"),
)


def _csv(table: Table, rows: list[Row]) -> str:
    """Plain numbers for programs, in the units of the printed table, intervals as half-widths."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_HEAD)
    for row in rows:
        m, scale = row.ours, table.scale
        paper = (None, None) if row.paper is None else (row.paper.value, row.paper.half)
        optimum = None if row.optimum is None else scale * row.optimum
        key = [row.cell.label, row.cell.experiment, row.cell.shots, row.agent, *paper]
        if m is None:
            writer.writerow([*key, *[None] * 7, optimum, *[None] * 6])
            continue
        mean, seeds = m.mean.scaled(scale), m.over_seeds and scale * m.over_seeds.half
        share = [None, None] if m.share is None else [m.share.value, m.share.half]
        numbers = [mean.value, mean.half, m.n, m.seeds, seeds, row.verdict(scale), m.best, optimum, *share]
        writer.writerow([*key, *numbers, m.budget, m.current, m.seconds, m.parameters])
    return file.getvalue().rstrip("\n")


_RENDERERS: dict[Format, Callable[[Table, list[Row]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "pivot": _pivot,
    "latex": _latex,
    "csv": _csv,
    "html": _html,
}

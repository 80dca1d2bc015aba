"""The papers' tables beside ours: every cell with its interval, and the limit that no agent can pass."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from runs.catalogue import BUDGETS, CATALOGUE
from runs.records import Result
from snail.scores import SCORE_NAMES

Format = Literal["text", "markdown"]
Printed = tuple[float, float | None] | None


@cache
def paper_tables() -> dict:
    """The papers' printed numbers."""
    return json.loads((Path(__file__).parent / "paper_tables.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Cell:
    """One setting of a table, measured for several agents.

    paper: the printed number for an agent or method, with the half-width of its interval where it has one.
    limit: what no agent can pass in expectation; None where it is not known.
    reference: the method whose own measured number stands for the limit where that is not known.
    in_paper: False for a setting of ours, which is shown only where it has been run.
    paper_unit: what the paper divides by, where it prints fractions.
    """

    label: str
    experiment: str
    shots: int | None
    paper: Mapping[str, Printed]
    limit: Callable[[], float | None]
    reference: str | None = None
    in_paper: bool = True
    paper_unit: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper, or of comparisons of our own.

    name: what it is asked for by: a number is the paper's.
    shares: whether to give the numbers in per cent of the limit, too.
    budget: the only one to show; None: the largest that was run.
    """

    name: str
    title: str
    scale: float
    digits: int
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=())
    shares: bool = True
    budget: str | None = None

    @property
    def of_paper(self) -> bool:
        """Whether there are printed numbers to stand beside ours."""
        return any(printed for cell in self.cells for printed in cell.paper.values())

    @property
    def columns(self) -> tuple[str, ...]:
        """What its columns are called."""
        return (
            "setting",
            "agent",
            *(("paper",) if self.of_paper else ("parameters",)),
            "ours (95% CI)",
            "limit",
            *(("of limit",) if self.shares else ()),
            *(("paper's scale",) if any(cell.paper_unit for cell in self.cells) else ()),
            "budget",
        )


def _printed(table: str, row: str, column: str) -> Printed:
    found = paper_tables()[table].get(row, {}).get(column)
    return None if found is None else (found[0], found[1])


_FEWSHOT_ROWS = {
    "snail": "SNAIL",
    "lstm": None,
    "gru": None,
    "transformer": None,
    "maml": "Finn 2017 (MAML)",
    "protonet": "Snell 2017",
}
"""Agents of few-shot classification, and whose printed numbers stand beside theirs."""


def _fewshot_cell(data: str, ways: int, shots: int) -> Cell:
    column = f"{ways}way_{shots}shot"
    paper = {agent: None if row is None else _printed(data, row, column) for agent, row in _FEWSHOT_ROWS.items()}
    return Cell(f"{ways}-way {shots}-shot", f"{data}/{ways}way", shots, paper, lambda: 1.0)


def _our_cell(label: str, experiment: str, shots: int) -> Cell:
    """A setting that the paper does not have."""
    return Cell(label, experiment, shots, dict.fromkeys(_FEWSHOT_ROWS), CATALOGUE[experiment].limit, in_paper=False)


def _bandit_cell(pulls: int, arms: int) -> Cell:
    row = f"{pulls},{arms}"
    # the SNAIL paper's LSTM column repeats RL^2's GRU, except for the longest trials, which are its own LSTM
    recurrent = _printed("bandits", row, "LSTM")
    paper = {
        "snail": _printed("bandits", row, "SNAIL"),
        "lstm": recurrent if pulls == 1000 else None,
        "gru": recurrent if pulls != 1000 else None,
        "transformer": None,
        "maml": _printed("bandits", row, "MAML"),
        "random": _printed("bandits", row, "Random"),
        "greedy": _printed("rl2-bandits", row, "Greedy"),
        "eps-greedy": _printed("rl2-bandits", row, "eps-Greedy"),
        "ucb1": _printed("rl2-bandits", row, "UCB1"),
        "thompson": _printed("rl2-bandits", row, "TS"),
        "optimistic-thompson": _printed("rl2-bandits", row, "OTS"),
        "gittins": _printed("bandits", row, "Gittins"),
        "finite-gittins": None,
    }
    experiment = CATALOGUE[f"bandit/n{pulls}-k{arms}"]
    return Cell(f"N={pulls} K={arms}", experiment.id, None, paper, experiment.limit, reference="finite-gittins")


PAPER_EPISODE = 20.76
"""What the SNAIL paper's fractions of the optimum divide the reward of an episode by: less than the real optimum."""


def _mdp_cell(episodes: int) -> Cell:
    row = str(episodes)
    gru = _printed("rl2-mdps", row, "RL2")
    fraction = _printed("mdps", row, "LSTM")
    assert gru is not None and fraction is not None
    unit = gru[0] / fraction[0]  # RL^2 printed the return of which the SNAIL paper prints the fraction

    def converted(column: str) -> Printed:
        found = _printed("mdps", row, column)
        return None if found is None else (round(unit * found[0], 1), found[1] and round(unit * found[1], 1))

    paper = {
        "snail": converted("SNAIL"),
        "lstm": None,
        "gru": gru,
        "transformer": None,
        "maml": converted("MAML"),
        "random": _printed("rl2-mdps", row, "Random"),
    }
    for method, column in (
        ("greedy", "Greedy"),
        ("eps-greedy", "eps-Greedy"),
        ("psrl", "PSRL"),
        ("opsrl", "OPSRL"),
        ("ucrl2", "UCRL2"),
        ("beb", "BEB"),
    ):
        # the papers' numbers are of a prior that expects rewards of 0
        paper |= {f"{method}-mean0": _printed("rl2-mdps", row, column), method: None}
    paper |= {"oracle": None}
    experiment = CATALOGUE[f"mdp/n{episodes}"]
    paper = {agent: number for agent, number in paper.items() if agent in experiment.agents or agent == "maml"}
    unit = PAPER_EPISODE * episodes
    return Cell(f"N={episodes}", experiment.id, None, paper, experiment.limit, reference="oracle", paper_unit=unit)


def _comparison(name: str, title: str, rows: Mapping[str, tuple[str, ...]]) -> Table:
    """A table of few-shot classification and of bandits, with a group of agents a row of ``rows``.

    Every agent is shown where the catalogue has it.
    """
    tasks = (("few-shot", "omniglot/5way-1shot", 1), ("bandit", "bandit/n100-k5", None))
    return Table(
        name,
        title,
        1.0,
        3,
        tuple(
            Cell(
                f"{task}: {group}",
                experiment,
                shots,
                dict.fromkeys(a for a in agents if a in CATALOGUE[experiment].agents),
                CATALOGUE[experiment].limit,
                reference=None if shots else "finite-gittins",
            )
            for task, experiment, shots in tasks
            for group, agents in rows.items()
        ),
        (
            "few-shot: accuracy on 5-way 1-shot Omniglot. bandit: total reward over 100 pulls of 5 arms; its limit is "
            "what the finite-horizon Gittins index collects on the same tasks.",
            "All rows of a task have the same short budget, seed and test tasks: they show what is learned soon, not "
            "what can be reached.",
        ),
        budget="short",
    )


_SCORE_ROWS = {"score function": ("snail", *(f"snail-{score}" for score in SCORE_NAMES if score != "scaled-dot"))}
_ABLATION_ROWS = {
    "blocks": ("snail", "snail-convolutions", "snail-attention", "snail-dilation-2"),
    "reach": ("snail", "snail-local-m", "snail-local-p"),
    "selection": ("snail", "snail-hard", "snail-gumbel"),
    "heads": ("snail", "snail-4-heads"),
    "width": ("snail-half", "snail", "snail-double"),
    "lineage": ("snail", "lstm", "gru", "seq2seq", "seq2seq-aligned", "encoder-decoder", "transformer", "transfer"),
    "embedding": ("snail", "snail-self-attention", "snail-glimpses", "snail-hard-glimpses"),
}


def tables() -> dict[str, Table]:
    """Every table that can be printed: by its number in the SNAIL paper, and comparisons of our own."""
    omniglot = [_fewshot_cell("omniglot", ways, shots) for ways in (5, 20) for shots in (1, 5)]
    ours = [
        _our_cell("5-way 1-shot only", "omniglot/5way-1shot", 1),
        _our_cell("glyphs 5-way 1-shot", "glyphs/5way", 1),
        _our_cell("glyphs 5-way 5-shot", "glyphs/5way", 5),
        _our_cell("glyphs 5-way 1-shot only", "glyphs/5way-1shot", 1),
    ]
    photographs = tuple(_fewshot_cell("mini-imagenet", 5, shots) for shots in (1, 5))
    settings = [(n, k) for n in (10, 100, 500) for k in (5, 10, 50)] + [(1000, 50)]
    return {
        "1": Table(
            "1",
            "few-shot accuracy on Omniglot, in per cent",
            100.0,
            2,
            (*omniglot, *ours),
            (
                "The paper trains one model for 1 to 5 shots, as do the rows of 1 and 5 shots; "
                "a row of 1 shot only is of a model that was trained for nothing else.",
            ),
            shares=False,
        ),
        "2": Table("2", "few-shot accuracy on mini-ImageNet, in per cent", 100.0, 2, photographs, shares=False),
        "3": Table(
            "3",
            "total reward on K-armed Bernoulli bandits over N pulls",
            1.0,
            3,
            tuple(_bandit_cell(n, k) for n, k in settings),
            (
                "limit: expected total reward of the Bayes-optimal agent, by exact dynamic programming; where that is "
                "out of reach, what the finite-horizon Gittins index, which comes close to it, collects on the same "
                "tasks.",
                "The papers' numbers are means of about 1000 trials, so one can exceed the limit. "
                "What the SNAIL paper prints as LSTM is RL^2's GRU, except for N=1000.",
            ),
        ),
        "4": Table(
            "4",
            "total reward in random MDPs over N episodes",
            1.0,
            1,
            tuple(_mdp_cell(n) for n in (10, 25, 50, 75, 100)),
            (
                "limit: what an oracle that knows each MDP collects on the same tasks. The SNAIL paper prints "
                f"fractions of {PAPER_EPISODE} an episode, which is less than that; its numbers are converted to "
                "rewards here, and ours are given on its scale too.",
                "mean0: with a prior that expects mean rewards of 0, as the papers' numbers imply; the MDPs' true mean "
                "is 1.",
            ),
        ),
        "attention": _comparison("attention", "six score functions for SNAIL's attention", _SCORE_ROWS),
        "ablation": _comparison("ablation", "SNAIL with one thing changed, and what it descends from", _ABLATION_ROWS),
    }


def render(table: Table, results: Iterable[Result], form: Format = "text", missing: bool = True) -> str:
    """The table as text or Markdown, with or without the rows that are not run.

    ``results`` may hold other experiments' numbers too.
    """
    results = list(results)
    rows = [row for cell in table.cells for row in _rows(table, cell, results, missing)]
    head = f"Table {table.name}: {table.title}" if table.of_paper else f"{table.name.capitalize()}: {table.title}"
    if form == "markdown":
        lines = [f"**{head}**", "", *_markdown(table.columns, rows)]
    else:
        lines = [head, *_text(table.columns, rows)]
    return "\n".join([*lines, *(["", *table.notes] if table.notes else [])])


def _rows(table: Table, cell: Cell, results: list[Result], missing: bool) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []

    def measured(agent: str | None) -> list[Result]:
        key = (cell.experiment, agent, cell.shots)
        budgets = BUDGETS if table.budget is None or agent == cell.reference else (table.budget,)
        return choose([r for r in results if (r.experiment, r.agent, r.shots) == key], budgets)

    exact, reference = cell.limit(), measured(cell.reference)
    limit = exact if exact is not None else reference[0].mean if reference else None
    shown_limit = "-" if limit is None else f"{table.scale * limit:.{table.digits}f}"
    for agent, printed in cell.paper.items():
        chosen = measured(agent)
        trainable = agent in _agents(cell.experiment)
        if not chosen and not (missing and cell.in_paper and (printed is not None or trainable)):
            continue
        ours, budget = ("not run", "") if not chosen else _summary(chosen, table)
        if table.of_paper:
            beside = (
                "-" if printed is None else f"{printed[0]:g}" + ("" if printed[1] is None else f" +- {printed[1]:g}")
            )
        else:
            beside = f"{chosen[0].parameters:,}" if chosen else ""
        row = [cell.label, agent, beside, ours, shown_limit]
        if table.shares:
            row.append("" if not chosen else of_reference(chosen, reference if exact is None else exact))
        if cell.paper_unit is not None:
            row.append(f"{statistics.fmean(r.mean for r in chosen) / cell.paper_unit:.3f}" if chosen else "")
        rows.append((*row, budget))
    return rows


def of_reference(chosen: list[Result], reference: float | list[Result]) -> str:
    """The mean in per cent of a limit, or of a reference method's mean on the same tasks.

    Against a method the interval is that of the ratio of means of paired samples, by the delta method: tasks on which
    both collect much widen neither. Without its samples there is none.
    """
    mean = statistics.fmean(r.mean for r in chosen)
    if isinstance(reference, float):
        half = statistics.fmean(r.ci95 for r in chosen) / reference
        return f"{100 * mean / reference:.2f} +- {100 * half:.2f}%"
    if not reference or reference[0].task_set != chosen[0].task_set:
        return ""
    ratio = mean / reference[0].mean
    samples = [x.astype(np.float64) for r in (*chosen, reference[0]) if (x := r.samples()) is not None]
    if len(samples) <= len(chosen):
        return f"{100 * ratio:.2f}%"
    *ours, theirs = samples
    residual = np.mean(ours, axis=0) - ratio * theirs  # (n,)
    half = 1.96 * residual.std(ddof=1) / len(residual) ** 0.5 / theirs.mean()
    return f"{100 * ratio:.2f} +- {100 * half:.2f}%"


def _agents(experiment: str) -> tuple[str, ...]:
    return tuple(CATALOGUE[experiment].agents) if experiment in CATALOGUE else ()


def choose(results: list[Result], budgets: Sequence[str] = BUDGETS) -> list[Result]:
    """The results that a cell shows: of the largest of the budgets that was run, as catalogued, one a seed.

    The choice never looks at the numbers. Only runs of the same settings on the same tasks are put together, those of
    the first record in the order of folders; so is one of several records of a seed.
    """
    for budget in budgets:
        of_budget = [r for r in results if r.budget == budget and r.as_catalogued]
        by_seed: dict[int, Result] = {}
        for r in of_budget:
            if (r.settings, r.task_set) == (of_budget[0].settings, of_budget[0].task_set):
                by_seed.setdefault(r.seed, r)
        if by_seed:
            return list(by_seed.values())
    return []


def _summary(chosen: list[Result], table: Table) -> tuple[str, str]:
    """Mean over seeds with the interval over test episodes, and what was run.

    Seeds are tested on the same tasks, so that averaging them does not narrow the interval; how much they differ is
    told apart from it.
    """
    means = [r.mean for r in chosen]
    half = statistics.fmean(r.ci95 for r in chosen)
    seconds = statistics.fmean(r.train_seconds for r in chosen)
    spread = f", {len(means)} seeds (sd {table.scale * statistics.stdev(means):.2g})" if len(means) > 1 else ""
    earlier = "" if all(r.current for r in chosen) else " (earlier settings)"
    return (
        f"{table.scale * statistics.fmean(means):.{table.digits}f} +- {table.scale * half:.{table.digits}f}",
        f"{chosen[0].budget}{earlier}, {seconds:.0f} s{spread}",
    )


def _text(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines, last = [], None
    for row in [header, tuple("-" * w for w in widths), *rows]:
        repeated = row[0] == last
        last = row[0]
        shown = ("" if repeated else row[0], *row[1:])
        lines.append("  ".join(value.ljust(w) for value, w in zip(shown, widths, strict=True)).rstrip())
    return lines


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    shown = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(value.replace("+-", "±") for value in row) + " |" for row in shown]

"""Agents after equal training time, where the tables have equal updates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from runs.results.compare import Group, find_groups
from runs.results.curves import Lines
from runs.results.metrics import SECONDS, main_metric
from runs.results.records import Result
from runs.results.tables import learns

TAIL = 10
"""The last 1 / TAIL of the curve is averaged."""


def learned_in_full(results: Iterable[Result], folder: Path) -> dict[str, list[Group]]:
    """By experiment, the agents trained with the full budget and the current configuration, if there are several."""
    current = {
        (r.experiment, r.agent) for r in results if r.budget == "full" and r.current and learns(r.experiment, r.agent)
    }
    found: dict[str, list[Group]] = {}
    for experiment, agent in sorted(current):
        groups = find_groups([f"{experiment}/{agent}"], [folder], "full")
        found.setdefault(experiment, []).extend(
            replace(group, distinction="") for group in groups if group.numbers[0].results[0].current
        )
    return {experiment: groups for experiment, groups in found.items() if len(groups) > 1}


def score_after(runs: Sequence[Lines], metric: str, seconds: float) -> float:
    """The metric's mean over the last tenth of the curve up to ``seconds``, and over the runs; NaN for no curve."""
    found = []
    for lines in runs:
        values = [line[metric] for line in lines if metric in line and line[SECONDS] <= seconds]
        if values:
            found.append(statistics.fmean(values[-max(1, len(values) // TAIL) :]))
    return statistics.fmean(found) if found else float("nan")


def equal_seconds(groups: Sequence[Group]) -> tuple[str, float, dict[str, float]]:
    """The metric of the curves, the time of the agent that finished first, and every agent's score at that time."""
    curves = {group.agent: group.curve().runs for group in groups}
    metric = main_metric([line for runs in curves.values() for lines in runs for line in lines])
    seconds = min(statistics.fmean(lines[-1][SECONDS] for lines in runs) for runs in curves.values())
    return metric, seconds, {agent: score_after(runs, metric, seconds) for agent, runs in curves.items()}


def render_equal_seconds(compared: dict[str, list[Group]]) -> str:
    """As Markdown: a row per experiment, a column per agent."""
    found = {experiment: equal_seconds(groups) for experiment, groups in compared.items()}
    agents = list(dict.fromkeys(agent for _, _, scores in found.values() for agent in scores))
    rows = [
        [experiment, metric, f"{seconds:,.0f}", *(_shown(scores.get(agent)) for agent in agents)]
        for experiment, (metric, seconds, scores) in found.items()
    ]
    return tabulate(rows, ["experiment", "metric", "seconds", *agents], "pipe", disable_numparse=True)


def _shown(score: float | None) -> str:
    """A score; "-" for an agent that has logged none so far."""
    if score is None:
        return ""
    return "-" if math.isnan(score) else f"{score:.4g}"

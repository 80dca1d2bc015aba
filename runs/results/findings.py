"""Paired comparisons of SNAIL with other agents, in every setting in which both were trained in full."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import scipy  # scipy.stats is imported on use, which takes a second
from tabulate import tabulate

from runs.results.compare import Group, Number
from runs.results.records import Result
from runs.results.statistics import Estimate, paired_difference

Word = Literal["better", "worse", "not significant"]
REPORTED = ("return", "accuracy")
"""The measured numbers by which agents are compared."""

OPTIMAL = ("finite-gittins", "oracle")
"""Methods whose results take the place of an unknown optimum."""


@dataclass(frozen=True)
class Finding:
    """The difference of two agents in one number of a setting.

    over: whether the 95% interval is over seeds, if both have several, or over the test tasks of one training each.
    """

    experiment: str
    number: str
    other: str
    difference: Estimate
    over: str
    optimum: float | None

    @property
    def share(self) -> float | None:
        """The difference in per cent of the optimum, if one is known."""
        return None if self.optimum is None else 100 * self.difference.value / self.optimum

    @property
    def decimals(self) -> int:
        """Of the difference, so that its interval has two significant digits."""
        half = self.difference.half
        return max(0, 1 - math.floor(math.log10(half))) if half > 0 else 1

    @property
    def word(self) -> Word:
        """The conclusion from the interval."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "not significant"


def measured_optima(results: Iterable[Result]) -> dict[str, float]:
    """By experiment, what a method of `OPTIMAL` earned in the full test."""
    return {r.experiment: r.mean for r in results if r.agent in OPTIMAL and r.budget == "full" and r.metric == "return"}


def findings(
    compared: Mapping[str, Sequence[Group]], optima: Mapping[str, float], agent: str = "snail"
) -> Iterator[Finding]:
    """The agent against every other one of the same setting.

    Args:
        compared: as of `learned_in_full`.
        optima: as of `measured_optima`, for experiments whose optimum is unknown.
        agent: the one to compare with the others.
    """
    for experiment, groups in compared.items():
        for ours in (g for g in groups if g.agent == agent):
            for theirs in (g for g in groups if g.agent != agent):
                for number, other in _shared(ours, theirs):
                    if found := _difference(number, other):
                        optimum = optima.get(experiment) if ours.optimum is None else ours.optimum
                        yield Finding(experiment, number.name, theirs.agent, *found, optimum)


def _shared(ours: Group, theirs: Group) -> Iterator[tuple[Number, Number]]:
    named = {number.name: number for number in theirs.numbers}
    for number in ours.numbers:
        if number.name in named and number.name.startswith(REPORTED) and "episode" not in number.name:
            yield number, named[number.name]


def _difference(ours: Number, theirs: Number) -> tuple[Estimate, str] | None:
    """None if there are no samples, or they are of different tasks."""
    means = [[r.mean for r in number.results] for number in (ours, theirs)]
    if min(map(len, means)) > 1:
        ends = scipy.stats.ttest_ind(*means, equal_var=False).confidence_interval()
        middle = (ends.low + ends.high) / 2
        return Estimate(middle, float(ends.low), float(ends.high)), f"{len(means[0])} and {len(means[1])} seeds"
    if ours.samples is None or theirs.samples is None or len(ours.samples) != len(theirs.samples):
        return None
    if ours.results[0].task_set != theirs.results[0].task_set:
        return None
    return paired_difference(ours.samples, theirs.samples).difference, "tasks"


def render_findings(found: Sequence[Finding]) -> str:
    """As Markdown: a summary, the counts by kind of experiment, then a row per finding."""
    counts = Counter(f.word for f in found)
    total = (
        f"In {len(found)} comparisons, SNAIL is better in {counts['better']} and worse in {counts['worse']}; "
        f"in {counts['not significant']} the difference is not significant."
    )
    rows = []
    for f in found:
        share = "" if f.share is None else f"{f.share:+.2f}"
        difference = f"{f.difference.value:+.{f.decimals}f} ± {f.difference.half:.{f.decimals}f}"
        rows.append([f.experiment, f.number.replace("_", ", "), f.other, difference, share, f.over, f.word])
    heads = ["experiment", "of", "SNAIL minus", "difference", "% of optimum", "interval over", "SNAIL is"]
    every = tabulate(rows, heads, "pipe", disable_numparse=True)
    key = "Each entry: in how many of them SNAIL is better or worse, and the range of differences in % of the optimum."
    return "\n".join([total, key, "", _overview(found), "", "## All comparisons", "", every])


def _overview(found: Sequence[Finding]) -> str:
    """By kind of experiment and agent: how often SNAIL is better or worse, and the range of the differences.

    Agents of a single kind are left out.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for f in found:
        groups.setdefault((f.experiment.partition("/")[0], f.other), []).append(f)
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    agents = [agent for agent, n in Counter(agent for _, agent in groups).items() if n > 1]
    rows = [[kind, *(_counted(groups.get((kind, agent), [])) for agent in agents)] for kind in kinds]
    shown = [row for row in rows if any(row[1:])]
    return tabulate(shown, ["SNAIL against", *agents], "pipe", disable_numparse=True)


def _counted(found: Sequence[Finding]) -> str:
    """Such as: 3 of 8 better, 1 worse; -1.9 to +4.2%."""
    if not found:
        return ""
    counts = Counter(f.word for f in found)
    text = f"{counts['better']} of {len(found)} better, {counts['worse']} worse"
    shares = sorted({f"{f.share:+.1f}" for f in found if f.share is not None}, key=float)
    return text if not shares else f"{text}; {' to '.join(dict.fromkeys((shares[0], shares[-1])))}%"

"""Where SNAIL is better than other agents, where not, and by how much: every setting that both learned in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import scipy  # loads scipy.stats when it is used: that takes a second
from tabulate import tabulate

from runs.results.compare import Group, Number
from runs.results.statistics import Estimate, paired_difference

Word = Literal["better", "worse", "not told apart"]
REPORTED = ("return", "accuracy")
"""What agents are compared by, of all that is measured."""


@dataclass(frozen=True)
class Finding:
    """One agent less another, by a number of a setting.

    over: what the 95% interval is over: seeds where both have several, else the test tasks, of one training each.
    """

    experiment: str
    number: str
    other: str
    difference: Estimate
    over: str
    optimum: float | None

    @property
    def word(self) -> Word:
        """What the interval says."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "not told apart"


def findings(compared: Mapping[str, Sequence[Group]], agent: str = "snail") -> Iterator[Finding]:
    """The agent against every other one of the same setting; ``compared`` as of `learned_in_full`."""
    for experiment, groups in compared.items():
        for ours in (g for g in groups if g.agent == agent):
            for theirs in (g for g in groups if g.agent != agent):
                for number, other in _shared(ours, theirs):
                    if found := _difference(number, other):
                        yield Finding(experiment, number.name, theirs.agent, *found, ours.optimum)


def _shared(ours: Group, theirs: Group) -> Iterator[tuple[Number, Number]]:
    named = {number.name: number for number in theirs.numbers}
    for number in ours.numbers:
        if number.name in named and number.name.startswith(REPORTED) and "episode" not in number.name:
            yield number, named[number.name]


def _difference(ours: Number, theirs: Number) -> tuple[Estimate, str] | None:
    """None where the samples were not kept, or are of other tasks."""
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
    """As Markdown: what they come to, then a row a finding."""
    counts = Counter(f.word for f in found)
    total = (
        f"Of {len(found)} comparisons SNAIL is better in {counts['better']} and worse in {counts['worse']}; "
        f"in {counts['not told apart']} the two are not told apart."
    )
    rows = []
    for f in found:
        share = "" if f.optimum is None else f"{100 * f.difference.value / f.optimum:+.2f}"
        half = f"{f.difference.value:+.4g} ± {f.difference.half:.2g}"
        rows.append([f.experiment, f.number.replace("_", ", "), f.other, half, share, f.over, f.word])
    heads = ["experiment", "of", "SNAIL less", "difference", "% of optimum", "interval over", "SNAIL is"]
    return "\n".join([total, "", tabulate(rows, heads, "pipe", disable_numparse=True)])

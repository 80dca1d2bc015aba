"""`snail compare`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from runs.results.compare import Format, describe_groups, find_groups
from runs.results.folder import RESULTS
from runs.results.plots import AXES, learning_curves
from runs.results.records import PUBLISHED
from runs.results.statistics import bootstrap_interval, t_interval


@dataclass(frozen=True)
class Compare:
    """Compare runs: final numbers with intervals, paired tests, differing settings, learning curves."""

    targets: Positional[tuple[str, ...]]
    """Run folders, experiments, or EXPERIMENT/AGENT. The first is tested against each of the others."""
    results: Path = RESULTS
    """Folder of your own results; experiments include the published runs."""
    mine: bool = False
    """Only your own results, without the published runs."""
    budget: str | None = None
    """Only runs of this budget."""
    where: tuple[str, ...] = ()
    """Only runs with these settings, such as training.learning-rate=0.001."""
    format: Format = "text"
    """text, markdown, latex (booktabs) or csv."""
    metric: str | None = None
    """Metric to draw, by its name in metrics.jsonl; None: return or validation accuracy."""
    interval: Literal["t", "bootstrap"] = "t"
    """Interval over seeds: Student's t, or a bias-corrected, accelerated bootstrap."""
    plot: bool = True
    """Draw the curves, over environment steps or episodes, updates and seconds, with a band over seeds."""

    def run(self) -> None:
        folders = [self.results] if self.mine else [self.results, PUBLISHED]
        groups = find_groups(self.targets, folders, self.budget, self.where)
        over_seeds = {"t": t_interval, "bootstrap": bootstrap_interval}[self.interval]
        print(describe_groups(groups, over_seeds, self.format))
        for experiment in dict.fromkeys(g.experiment for g in groups) if self.plot else ():
            drawn = [g for g in groups if g.experiment == experiment]
            curves, optima = [g.curve() for g in drawn], {g.optimum for g in drawn}
            if not any(any(c.runs) for c in curves):  # classical methods
                continue
            optimum = optima.pop() if len(optima) == 1 else None
            path = self.results / f"compare-{experiment.replace('/', '-')}.png"
            logged = {name for c in curves for lines in c.runs for line in lines for name in line}
            axes = [axis for axis in AXES if axis in logged]
            learning_curves(curves, path, experiment, optimum=optimum, axes=axes, metric=self.metric)
            print(f"\ncurves: {path}", file=sys.stdout if self.format == "text" else sys.stderr)

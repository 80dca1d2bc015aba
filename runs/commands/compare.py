"""`snail compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from runs.results.compare import describe_groups, find_groups
from runs.results.folder import RESULTS
from runs.results.plots import learning_curves
from runs.results.records import PUBLISHED
from runs.results.statistics import bootstrap_interval, t_interval


@dataclass(frozen=True)
class Compare:
    """Compare runs: final numbers with intervals, paired tests, differing settings, learning curves."""

    targets: Positional[tuple[str, ...]]
    """Folders of runs, experiments, or EXPERIMENT/AGENT. The first one is tested against each of the others."""
    results: Path = RESULTS
    """Folder of your own results; of experiments the published runs are read too."""
    metric: str | None = None
    """Metric to draw, by its name in metrics.jsonl; None: return or validation accuracy."""
    interval: Literal["t", "bootstrap"] = "t"
    """Interval over seeds: Student's t, or a bias-corrected, accelerated bootstrap."""
    plot: bool = True
    """Draw the curves, over updates and over seconds, with a band over seeds."""

    def run(self) -> None:
        groups = find_groups(self.targets, [self.results, PUBLISHED])
        print(describe_groups(groups, {"t": t_interval, "bootstrap": bootstrap_interval}[self.interval]))
        for experiment in dict.fromkeys(g.experiment for g in groups) if self.plot else ():
            drawn = [g for g in groups if g.experiment == experiment]
            curves, optima = [g.curve() for g in drawn], {g.optimum for g in drawn}
            if not any(any(c.runs) for c in curves):  # methods that do not learn
                continue
            optimum = optima.pop() if len(optima) == 1 else None
            path = self.results / f"compare-{experiment.replace('/', '-')}.png"
            learning_curves(curves, path, experiment, optimum=optimum, axes=("step", "seconds"), metric=self.metric)
            print(f"\ncurves: {path}")

"""`snail demo`: from launch to table in minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.fewshot.datasets.registry import dataset_status
from runs.catalogue import RunConfig, find
from runs.results.compare import find_groups
from runs.results.folder import RESULTS, RunFolder, run_path
from runs.results.plots import learning_curves
from runs.results.records import describe, read_results
from runs.results.tables import render, tables
from runs.system.machine import Machine
from runs.tracking import TrackerName
from runs.training import train

BANDIT, OMNIGLOT, GLYPHS = "bandit/n10-k5", "omniglot/5way-1shot", "glyphs/5way-1shot"
FEWSHOT_AGENTS = ("snail", "lstm", "transformer")
AGENTS = {BANDIT: ("snail", "lstm", "gru", "transformer"), OMNIGLOT: FEWSHOT_AGENTS, GLYPHS: FEWSHOT_AGENTS}
"""The experiments: bandits, and one of the few-shot ones."""


@dataclass(frozen=True)
class Demo:
    """Train and compare SNAIL and its baselines on bandits and on 5-way 1-shot: two tables and two figures."""

    fast: bool = False
    """Run everything in a minute, with meaningless numbers."""
    results: Path = RESULTS
    """Folder of all results. Finished runs are not repeated."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache."""
    overwrite: bool = False
    """Repeat finished runs."""
    tracker: TrackerName = "auto"
    """Mirror metrics to wandb (offline unless you have logged in), trackio (on this machine), both or none;
    auto: wandb if installed."""

    def _train(self, config: RunConfig, folder: RunFolder, machine: Machine) -> dict[str, Any]:
        return train(config, folder, machine, tracker=self.tracker, resume=not self.overwrite, overwrite=self.overwrite)

    def run(self) -> None:
        began = time.monotonic()
        machine = Machine.named(self.device, self.data_root, self.threads)
        budget = "smoke" if self.fast else "demo"
        status = dataset_status("omniglot", self.data_root)
        if status.cached or len(status.sources) == 2:
            fewshot = OMNIGLOT
            print("few-shot data: Omniglot")
        else:
            fewshot = GLYPHS
            print("few-shot data: glyphs, drawn from fonts (Omniglot not found; set --data-root or SNAIL_DATA)")
        pictures = []
        for experiment in (BANDIT, fewshot):
            folders = []
            for agent in AGENTS[experiment]:
                config = find(experiment).config(agent, budget=budget)
                folder = RunFolder(run_path(self.results, config))
                print(describe(self._train(config, folder, machine)))
                folders.append(folder)
            pictures.append(self.results / f"learning-curves-{experiment.replace('/', '-')}-{budget}.png")
            curves = [group.curve() for group in find_groups([str(f.path) for f in folders], [])]
            title = f"{experiment}, {budget} budget"
            learning_curves(curves, pictures[-1], title, optimum=find(experiment).optimum())
        found = [r for r in read_results([self.results]) if r.budget == budget]
        for name in ("3", "1"):
            print("\n" + render(tables()[name], found, missing=False))
        print("\nlearning curves: " + ", ".join(map(str, pictures)))
        print(f"done in {time.monotonic() - began:.0f} s; full tables: snail table 1, snail table 3")

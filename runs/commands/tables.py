"""`snail table`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from runs.catalogue import BUDGETS
from runs.launch import LaunchOptions, Outcome, launch, require_finished
from runs.launch.costs import Costs, machine_factor
from runs.launch.launching import slots
from runs.results.folder import RESULTS
from runs.results.records import PUBLISHED, Result, read_results
from runs.results.tables import Format, Table, draw_table, learns, missing_runs, render, tables
from runs.results.transfer import render_transfer, transfers
from runs.system.errors import RunError


@dataclass(frozen=True)
class PrintTable(LaunchOptions):
    """Print a table: the paper's numbers, ours with intervals, verdicts and the optimum; run what is missing.

    The launch options, from --engine on, are for --run-missing.
    """

    name: Positional[str]
    """1: few-shot on Omniglot, 2: on mini-ImageNet, 3: bandits, 4: MDPs; control: locomotion; models: all memories;
    transfer: agents on longer trials; attention: score functions; ablation: SNAIL with one change, and its
    predecessors; or a table of an extension."""
    agents: tuple[str, ...] = ()
    """Only these agents."""
    cells: tuple[str, ...] = ()
    """Only these cells: settings as in the table, such as "N=10 K=5", or experiments."""
    seeds: tuple[int, ...] | None = None
    """Only runs of these seeds; None: all seeds, and --run-missing runs seed 0."""
    format: Format = "text"
    """text, markdown, pivot (markdown as the papers print it: agents as columns), latex (booktabs), csv or html."""
    plot: Path | None = None
    """Also draw the table into this PNG: points with intervals, the papers' numbers, the optimum."""
    missing: bool = True
    """Also show rows that have not been run."""
    run_missing: bool = False
    """Train the missing rows, then print. Whole tables take days: choose agents and cells."""
    budget: str | None = None
    """Only runs of this budget; None: the largest that was run, and full for --run-missing."""
    dry_run: bool = False
    """With --run-missing: print the missing runs without starting them."""
    results: Path = RESULTS
    """Folder of your own results, preferred to the published records."""

    def run(self) -> None:
        if self.name == "transfer":
            if (self.agents, self.cells, self.plot, self.format, self.run_missing) != ((), (), None, "text", False):
                raise RunError("table transfer takes no options; to measure it again: python -m runs.bench.transfer")
            print(render_transfer(transfers()))
            return
        table = self._table()
        outcomes = self._run_missing(table) if self.run_missing else []
        if self.dry_run:
            return
        results = self._results()
        print(render(table, results, self.format, self.missing, self.agents, self.cells))
        if self.plot is not None:
            draw_table(table, results, self.plot, self.agents, self.cells)
        require_finished(outcomes)

    def _table(self) -> Table:
        """The table, if it has the agents and cells.

        Raises:
            RunError: if the table, an agent or a cell does not exist.
        """
        known = tables()
        if self.name not in known:
            raise RunError(f"there is no table {self.name}; choose {' or '.join(known)}")
        table = known[self.name]
        agents = {agent for cell in table.cells for agent in cell.paper}
        cells = {name for cell in table.cells for name in (cell.label, cell.experiment)}
        for what, names, there in (("agent", self.agents, agents), ("cell", self.cells, cells)):
            if wrong := [name for name in names if name not in there]:
                raise RunError(f"table {self.name} has no {what} {wrong[0]!r}; it has {', '.join(sorted(there))}")
        if self.budget is not None and self.budget not in BUDGETS:
            raise RunError(f"there is no budget {self.budget!r}; choose {', '.join(BUDGETS)}")
        return table if self.budget is None else replace(table, budget=self.budget)

    def _results(self) -> list[Result]:
        results = read_results([self.results, PUBLISHED])
        if self.seeds is None:
            return results
        return [r for r in results if r.seed in self.seeds or not learns(r.experiment, r.agent)]

    def _run_missing(self, table: Table) -> list[Outcome]:
        seeds = self.seeds or (0,)
        found = missing_runs(table, self._results(), agents=self.agents, cells=self.cells, seeds=seeds)
        if self.dry_run:
            for config in found:
                print(f"{config.experiment} {config.agent}, {config.budget} budget, seed {config.seed}")
            hours = f"; {Costs(self.results, machine_factor()).total(found, slots(self))}" if found else ""
            print(f"{len(found)} runs are missing{hours}")
            return []
        return launch(found, self.results, self, name=f"table-{self.name}") if found else []

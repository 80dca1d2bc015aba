"""The missing runs of a table, ready to launch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runs.catalogue import CATALOGUE, RunConfig
from runs.results.records import Result
from runs.results.tables.cells import Table, learns


def missing_runs(
    table: Table,
    results: Iterable[Result],
    *,
    agents: Sequence[str] = (),
    cells: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
) -> list[RunConfig]:
    """The runs that the table's rows lack: one per seed without a record.

    They have the table's budget, else the full one, and include the reference for the optimum. Records with
    outdated settings do not count, and classical methods have no seeds.

    Args:
        agents, cells: only these, cells by setting or experiment; empty: all.
    """
    budget = table.budget or "full"
    done = {(r.experiment, r.agent, r.seed) for r in results if r.as_catalogued and r.current and r.budget == budget}
    found: dict[tuple[str, str, int], RunConfig] = {}

    def add(name: str, agent: str) -> None:
        experiment = CATALOGUE[name]
        if (agents and agent not in agents) or agent not in experiment.agents or budget not in experiment.budgets:
            return
        for seed in seeds if learns(name, agent) else (0,):
            if (name, agent, seed) not in done:
                found[name, agent, seed] = experiment.config(agent, seed, budget)

    for cell in table.cells:
        if cells and cell.label not in cells and cell.experiment not in cells:
            continue
        for agent in cell.paper:
            if agent in agents or agent not in table.optional:
                add(cell.experiment, agent)
        if cell.reference is not None and cell.reference_experiment is not None:
            add(cell.reference_experiment, cell.reference)
    return list(found.values())

"""What a table still lacks, as runs that can be launched."""

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
    """The runs that give the table's rows a number: one a seed that has no record.

    They are of the table's budget, else of the full one. A record of settings that the catalogue has no more is none,
    and methods that do not learn have no seeds.

    Args:
        agents, cells: only these, cells by setting or experiment; none: all.
    """
    budget = table.budget or "full"
    done = {(r.experiment, r.agent, r.seed) for r in results if r.as_catalogued and r.current and r.budget == budget}
    found = {}
    for cell in table.cells:
        if cells and cell.label not in cells and cell.experiment not in cells:
            continue
        experiment = CATALOGUE[cell.experiment]
        for agent in cell.paper:
            if (agents and agent not in agents) or agent not in experiment.agents or budget not in experiment.budgets:
                continue
            for seed in seeds if learns(cell.experiment, agent) else (0,):
                if (cell.experiment, agent, seed) not in done:
                    found[cell.experiment, agent, seed] = experiment.config(agent, seed, budget)
    return list(found.values())

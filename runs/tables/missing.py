"""What a table still lacks, as runs that can be launched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runs.catalogue import BUDGETS, CATALOGUE, RunConfig
from runs.errors import RunError
from runs.records import Result
from runs.tables.cells import Table, learns


def missing_runs(
    table: Table,
    results: Iterable[Result],
    *,
    agents: Sequence[str] = (),
    cells: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    budget: str | None = None,
) -> list[RunConfig]:
    """The runs that give the table's rows a number: one a seed that has no record of this or a larger budget.

    A record of settings that the catalogue has no more is none. Methods that do not learn have no seeds.

    Args:
        agents, cells: only these, cells by setting or experiment; none: all.
        budget: None: the table's own, else the full one.

    Raises:
        RunError: if there is no such budget.
    """
    budget = budget or table.budget or "full"
    if budget not in BUDGETS:
        raise RunError(f"there is no budget {budget!r}; choose {', '.join(BUDGETS)}")
    enough = BUDGETS[: BUDGETS.index(budget) + 1] if table.budget is None else (budget,)
    done = {(r.experiment, r.agent, r.seed) for r in results if r.as_catalogued and r.current and r.budget in enough}
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

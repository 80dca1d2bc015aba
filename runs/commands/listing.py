"""`snail list`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from runs.catalogue.experiment import Experiment

LISTING = Path(__file__).parent / "listing.txt"
"""The output of `listing` when the package was built, under a digest of the sources: shown without importing torch."""

_SOURCES = sorted(p for folder in ("agents", "catalogue") for p in (Path(__file__).parents[1] / folder).glob("*.py"))


@dataclass(frozen=True)
class List:
    """Show the experiments of the catalogue, their budgets and their agents."""

    experiments: Positional[tuple[str, ...]] = ()
    """Only these experiments, or all of a kind: mdp."""
    costs: bool = False
    """Estimate each run's time on this machine, from records and a ten-second probe; ~: from similar runs."""
    budget: str = "full"
    """With --costs: the budget."""
    results: Path = Path("results")
    """With --costs: folder of your own results, preferred to the published ones."""

    def run(self) -> None:
        """Print the experiments, and the agents they share."""
        if self.costs:
            print(costs(self.budget, self.results, self.experiments))
            return
        extended = "runs.catalogue" in sys.modules  # extensions may have added to it
        written, _, text = LISTING.read_text(encoding="utf-8").partition("\n")
        print(listing(self.experiments) if self.experiments or extended or written != digest() else text, end="")


def chosen(names: Iterable[str]) -> list[Experiment]:
    """The experiments of these names or kinds; all if there are none.

    Raises:
        RunError: for an unknown name.
    """
    from runs.catalogue import CATALOGUE, find

    found: dict[str, Experiment] = {}
    for name in names:
        of_kind = {e.id: e for e in CATALOGUE.values() if e.id.startswith(f"{name}/")}
        found |= of_kind or {name: find(name)}
    return list((found or CATALOGUE).values())


def costs(budget: str, results: Path, names: Iterable[str] = ()) -> str:
    """Estimated times as text: experiments by trained agents."""
    from tabulate import tabulate

    from runs.agents import AGENTS, FEWSHOT_AGENTS, FEWSHOT_MEMORIES
    from runs.launch.costs import Costs, machine_factor

    known = Costs(results, machine_factor())
    agents = [a for a in {**AGENTS, **FEWSHOT_AGENTS} if a not in FEWSHOT_MEMORIES]  # these take about as long
    rows = []
    for e in chosen(names):
        if budget in e.budgets:
            found = [known.of(e.config(a, budget=budget)) if a in e.agents else None for a in agents]
            rows.append([e.id, *("" if cost is None else str(cost) for cost in found)])
    return tabulate(rows, ["", *agents], "plain", disable_numparse=True)


def digest() -> str:
    """Digest of the sources of the catalogue."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def listing(names: Iterable[str] = ()) -> str:
    """The catalogue, or a part of it, as text."""
    from baselines.classical_agent import ClassicalAgent
    from runs.catalogue import BUDGETS

    experiments = {e.id: e for e in chosen(names)}
    lines = []
    width = max(map(len, experiments))
    families: dict[tuple[str, ...], list[str]] = {}
    for e in experiments.values():
        other = "" if tuple(e.budgets) == BUDGETS else f"; budgets: {', '.join(e.budgets)}"
        lines.append(f"{e.id:{width}}  {e.about}{other}")
        families.setdefault(tuple(e.agents), []).append(e.id)
    usual: dict[str, set[str]] = {}  # agents shared by all experiments of a kind
    for agents, ids in families.items():
        for name in ids:
            kind = name.partition("/")[0]
            usual[kind] = usual.get(kind, set(agents)) & set(agents)
    for agents, ids in families.items():
        kinds = list(dict.fromkeys(name.partition("/")[0] for name in ids))
        common = set.intersection(*(usual[kind] for kind in kinds))
        if special := [a for a in agents if a not in common]:
            lines.append(f"\nadditional agents for {', '.join(ids)}: {', '.join(special)}")
            continue
        fixed = {a for a, config in experiments[ids[0]].agents.items() if isinstance(config, ClassicalAgent)}
        lines.append(f"\nagents for {', '.join(kinds)}: {', '.join(a for a in agents if a not in fixed)}")
        if methods := [a for a in agents if a in fixed]:
            lines.append(f"  classical methods: {', '.join(methods)}")
    lines.append(
        "\nbudgets: full (the tables'), demo (some minutes), short (a minute or two), smoke (seconds); "
        "`snail list --costs` estimates their time here"
    )
    lines.append(f"\nstart one with:  snail train {next(iter(experiments))} --agent snail --budget demo\n")
    return "\n".join(lines)

"""The verb that shows what there is."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.trial_method import TrialMethod
from runs.catalogue import CATALOGUE


@dataclass(frozen=True)
class List:
    """Show the experiments of the catalogue, their budgets and their agents."""

    def run(self) -> None:
        """Print them, and once for all experiments that share them their agents."""
        width = max(map(len, CATALOGUE))
        families: dict[tuple[str, ...], list[str]] = {}
        for e in CATALOGUE.values():
            print(f"{e.id:{width}}  {e.about}; budgets: {', '.join(e.budgets)}")
            families.setdefault(tuple(e.agents), []).append(e.id)
        usual: dict[str, set[str]] = {}  # the agents that all experiments of a kind have
        for agents, ids in families.items():
            for name in ids:
                kind = name.partition("/")[0]
                usual[kind] = usual.get(kind, set(agents)) & set(agents)
        for agents, ids in families.items():
            kinds = list(dict.fromkeys(name.partition("/")[0] for name in ids))
            common = set.intersection(*(usual[kind] for kind in kinds))
            if special := [a for a in agents if a not in common]:
                print(f"\nagents for {', '.join(ids)} besides: {', '.join(special)}")
                continue
            fixed = {a for a, config in CATALOGUE[ids[0]].agents.items() if isinstance(config, TrialMethod)}
            print(f"\nagents for {', '.join(kinds)}: {', '.join(a for a in agents if a not in fixed)}")
            if methods := [a for a in agents if a in fixed]:
                print(f"  methods that do not learn: {', '.join(methods)}")
        print("\nstart one with:  snail train bandit/n10-k5 --agent snail --budget demo")

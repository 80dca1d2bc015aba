"""`snail list`."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

LISTING = Path(__file__).parent / "listing.txt"
"""What `listing` gave when the package was made, under a digest of the sources: printed without importing torch."""

_SOURCES = sorted(p for folder in ("agents", "catalogue") for p in (Path(__file__).parents[1] / folder).glob("*.py"))


@dataclass(frozen=True)
class List:
    """Show the experiments of the catalogue, their budgets and their agents."""

    def run(self) -> None:
        """Print them, and once for all experiments that share them their agents."""
        extended = "runs.catalogue" in sys.modules  # an extension may have added to it
        written, _, text = LISTING.read_text(encoding="utf-8").partition("\n")
        print(listing() if extended or written != digest() else text, end="")


def digest() -> str:
    """Of the sources that the catalogue comes from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def listing() -> str:
    """The catalogue as text."""
    from baselines.classical_agent import ClassicalAgent
    from runs.catalogue import CATALOGUE

    lines = []
    width = max(map(len, CATALOGUE))
    families: dict[tuple[str, ...], list[str]] = {}
    for e in CATALOGUE.values():
        lines.append(f"{e.id:{width}}  {e.about}; budgets: {', '.join(e.budgets)}")
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
            lines.append(f"\nagents for {', '.join(ids)} besides: {', '.join(special)}")
            continue
        fixed = {a for a, config in CATALOGUE[ids[0]].agents.items() if isinstance(config, ClassicalAgent)}
        lines.append(f"\nagents for {', '.join(kinds)}: {', '.join(a for a in agents if a not in fixed)}")
        if methods := [a for a in agents if a in fixed]:
            lines.append(f"  methods that do not learn: {', '.join(methods)}")
    lines.append("\nstart one with:  snail train bandit/n10-k5 --agent snail --budget demo\n")
    return "\n".join(lines)

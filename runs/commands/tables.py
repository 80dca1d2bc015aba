"""The verb that prints tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from runs.errors import RunError
from runs.folder import RESULTS
from runs.records import PUBLISHED, read_results
from runs.tables import Format, render, tables


@dataclass(frozen=True)
class PrintTable:
    """Print a table: the paper's number, ours with its interval, and the limit."""

    name: Positional[str]
    """1: few-shot on Omniglot, 2: on mini-ImageNet, 3: bandits, 4: MDPs; attention: score functions; ablation: SNAIL
    with one thing changed, and what it descends from."""
    results: Path = RESULTS
    """Folder of your own results; the published records are read too, yours first."""
    format: Format = "text"
    """text, markdown, latex (with booktabs), csv or html."""
    missing: bool = True
    """Show the rows that are not run, too."""

    def run(self) -> None:
        """Print it."""
        known = tables()
        if self.name not in known:
            raise RunError(f"there is no table {self.name}; choose {' or '.join(known)}")
        print(render(known[self.name], read_results([self.results, PUBLISHED]), self.format, self.missing))

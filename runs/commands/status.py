"""`snail status`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from runs.catalogue import find
from runs.launch.status import Status, read_status, render
from runs.results.folder import RESULTS
from runs.system.errors import RunError

REDRAW_SECONDS = 3.0


@dataclass(frozen=True)
class ShowStatus:
    """Show the status of all runs."""

    experiments: Positional[tuple[str, ...]] = ()
    """Only these experiments, or EXPERIMENT/AGENT."""
    results: Path = RESULTS
    """Folder of all results."""
    watch: bool = False
    """Refresh every few seconds until all runs have ended."""

    def run(self) -> None:
        for name in self.experiments:
            find("/".join(name.split("/")[:2]))
        if not self.results.is_dir():
            raise RunError(f"there is no folder {self.results}; start something with `snail sweep` or `snail train`")
        while True:
            found = self._found()
            again = "\x1b[H\x1b[2J" if self.watch and sys.stdout.isatty() else ""
            print(again + (render(found) if found else f"no runs in {self.results}"), flush=True)
            if not self.watch or not any(s.pending for s in found):
                return
            time.sleep(REDRAW_SECONDS)

    def _found(self) -> list[Status]:
        found = read_status(self.results)
        return [s for s in found if not self.experiments or s.run.startswith(tuple(f"{e}/" for e in self.experiments))]

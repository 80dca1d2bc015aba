"""`snail track`."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from runs.results.folder import RESULTS, RunFolder, find_runs
from runs.results.metrics import UPDATE
from runs.system.errors import RunError
from runs.system.progress import progress_bar
from runs.tracking import require_installed, start_follower, wait_for_follower
from runs.tracking.dashboards import Position, Run, trackio_dir, wandb_mode
from runs.tracking.follow import Positions, held, lacks, metrics
from runs.tracking.labels import Labels
from runs.tracking.pictures import draw_pictures

SENT, FAILED = "sent", "failed"


@dataclass(frozen=True)
class Track:
    """Upload runs to a tracker: all that it does not have yet."""

    action: Positional[Literal["push"]]
    """push: upload metrics and results."""
    runs: Positional[tuple[Path, ...]] = (RESULTS,)
    """Folders with runs, or experiments or EXPERIMENT/AGENT of your results."""
    to: Literal["wandb", "trackio", "tensorboard"] = "wandb"
    """wandb: your server if you have logged in, else offline; trackio: the database on this machine;
    tensorboard: event files in the runs' folders."""
    project: str | None = None
    """Project; None: the one that a run was trained with."""
    entity: str | None = None
    """Team or user at wandb; None: the one that a run was trained with."""
    again: bool = False
    """Upload everything again as a new run, for runs deleted from the tracker."""

    def run(self) -> None:
        require_installed(self.to)
        folders = list(dict.fromkeys(run for folder in self.runs for run in _runs(folder)))
        outcomes = {}
        with progress_bar(len(folders), f"push to {self.to}", unit="run") as bar:
            for folder in folders:
                try:
                    outcomes[folder] = self._push(folder)
                except (RunError, OSError, ValueError, KeyError, TypeError) as e:
                    outcomes[folder] = f"{FAILED}, its files are damaged or cannot be read ({e})"
                bar.update()
        for folder, outcome in outcomes.items():
            print(f"{folder}: {outcome}")
        self._tell_where([folder for folder, outcome in outcomes.items() if outcome.startswith(SENT)])
        if failed := [folder for folder, outcome in outcomes.items() if outcome.startswith(FAILED)]:
            raise RunError(
                f"{len(failed)} of {len(folders)} runs could not be sent to {self.to}; the same command tries again"
            )

    def _push(self, folder: Path) -> str:
        """Upload one run; returns the outcome."""
        if held(folder, self.to):
            return f"is mirrored to {self.to} while it trains"
        labels = Labels.of_run(folder)
        if self.project or self.entity:
            labels = replace(labels, project=self.project or labels.project, entity=self.entity or labels.entity)
        run = Run.read(folder, labels)
        if self.again:
            positions = Positions(self.to, run)
            positions.here = Position(id=uuid.uuid4().hex[:8] if self.to == "wandb" else None)
            positions.write()
        if run.record() is not None and not (folder / "curve.png").exists():
            draw_pictures(RunFolder(folder))
        if not lacks(self.to, run):
            return f"{self.to} has all of it already; --again uploads it anew"
        before = Positions(self.to, run).here
        follower = start_follower(self.to, folder, uuid.uuid4().hex[:8], labels, stdin=subprocess.DEVNULL)
        if not wait_for_follower(self.to, follower):
            return FAILED
        now = Positions(self.to, run).here
        lines = sum(before.step < line[UPDATE] <= now.step for line in metrics(run))
        pictures = sum(before.pictures.get(name) != checksum for name, checksum in now.pictures.items())
        sent = [f"{lines} lines of metrics up to update {now.step}"] if lines else []
        sent += ["the final numbers"] if now.finished != before.finished else []
        sent += [f"{pictures} picture{'s' * (pictures > 1)}"] if pictures else []
        return f"{SENT} {', '.join(sent) or 'nothing that it did not have'}"

    def _tell_where(self, sent: Iterable[Path]) -> None:
        """Print how to view the runs."""
        runs = [Run.read(folder) for folder in sent if self.to == "trackio"]
        for where, project in dict.fromkeys((trackio_dir(r.results), self.project or r.labels.project) for r in runs):
            shown = shlex.quote(str(where)), shlex.quote(project)
            print(f"look at it: TRACKIO_DIR={shown[0]} trackio show --project {shown[1]}")
        for where in dict.fromkeys(Run.read(folder).results for folder in sent if self.to == "tensorboard"):
            print(f"look at it: tensorboard --logdir {shlex.quote(str(where))}")
        if self.to == "wandb" and wandb_mode() == "offline":
            kept = [path for folder in sent for path in sorted((folder / "wandb").glob("offline-run-*"))]
            if kept:
                print(f"kept offline; once you have logged in: wandb sync {shlex.join(map(str, kept))}")


def _runs(folder: Path) -> list[Path]:
    """The folders of runs at or below a folder.

    Raises:
        RunError: if no run has logged anything.
    """
    if not folder.exists() and (RESULTS / folder).is_dir():
        folder = RESULTS / folder
    found = [run for run in find_runs(folder) if (run / "config.json").exists() and (run / "metrics.jsonl").exists()]
    if not found:
        raise RunError(f"there is no run with metrics in {folder}; start one with `snail train`")
    return found

"""What was launched, kept in ``results/launches``, so that what still waits can be told."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runs.errors import RunError
from runs.folder import write_json
from runs.launch.jobs import Job
from runs.locks import Held, holder, lock


@dataclass(frozen=True)
class Plan:
    """A launch: when it began, and the runs that it set out to do."""

    name: str
    began: datetime
    engine: str
    runs: dict[Path, dict[str, Any]]
    """The configurations by the runs' folders."""
    alive: bool
    """Whether its runs still can have their turn: somebody is at it, or it is in a queue."""


@contextmanager
def keep_plan(results: Path, name: str, engine: str, jobs: Sequence[Job]) -> Iterator[None]:
    """Keep what is launched; as long as this lasts, the launch counts as alive.

    Raises:
        RunError: if it cannot be written.
    """
    began = datetime.now(UTC)
    plain = re.sub(r"[^\w.-]+", "-", name)
    path = results / "launches" / f"{began:%Y%m%d-%H%M%S-%f}-{os.getpid()}-{plain}.json"
    runs = [{"run": os.path.relpath(job.path, results), "config": job.config} for job in jobs]
    plan = {"name": name, "began": began.isoformat(timespec="seconds"), "engine": engine, "runs": runs}
    write_json(path, plan)
    try:
        with lock(_lock_path(path)):
            yield
    except Held as e:
        raise RunError(f"{path} is another launch's ({e}); start this one again") from e


def read_plans(results: Path) -> list[Plan]:
    """All launches into a folder, the latest last. A damaged one costs a warning."""
    found = []
    for path in sorted((results / "launches").glob("*.json")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            runs = {results / r["run"]: r["config"] for r in plan["runs"]}
            alive = plan["engine"] == "slurm" or holder(_lock_path(path)) is not None
            found.append(Plan(plan["name"], datetime.fromisoformat(plan["began"]), plan["engine"], runs, alive))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            print(f"warning: {path} is no whole plan ({type(e).__name__}: {e}); left out", file=sys.stderr)
    return found


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")

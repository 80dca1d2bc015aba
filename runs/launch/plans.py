"""Plans of launches in ``results/launches``, so that `snail status` can show waiting runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runs.launch.jobs import Job
from runs.launch.queue import still_queued
from runs.results.folder import write_json
from runs.results.stored import read_json
from runs.system.errors import RunError
from runs.system.locks import Held, holder, lock

LONGEST_WAIT = timedelta(days=7)
"""If a queue cannot be queried, jobs are assumed to have ended after this time plus their time limit."""


@dataclass(frozen=True)
class Queue:
    """A queue in which jobs outlive their launch.

    cluster: ``slurm`` or ``local``, as submitit has it.
    limit: time limit of a job in seconds.
    """

    cluster: str
    limit: float


@dataclass(frozen=True)
class Plan:
    """A launch: when it began, and its runs."""

    name: str
    began: datetime
    engine: str
    runs: dict[Path, dict[str, Any]]
    """The configurations by the runs' folders."""
    waiting: frozenset[Path]
    """The runs that may still execute: their launch is alive, or they are in a queue."""


class KeptPlan:
    """The plan file of an active launch."""

    def __init__(self, path: Path, plan: dict[str, Any]):
        self._path, self._plan = path, plan
        self._queued: dict[str, str] = {}
        write_json(path, plan)

    def submitted(self, job: Job, number: str) -> None:
        """Record the id of a queued job. The file is written once all jobs are submitted."""
        self._queued[job.path] = number
        if len(self._queued) == len(self._plan["runs"]):
            results = self._path.parents[1]
            jobs = {os.path.relpath(path, results): number for path, number in self._queued.items()}
            write_json(self._path, {**self._plan, "jobs": jobs})


@contextmanager
def keep_plan(
    results: Path, name: str, engine: str, jobs: Sequence[Job], queue: Queue | None = None
) -> Iterator[KeptPlan]:
    """Write the plan of a launch, which counts as alive meanwhile; queued jobs stay active after it.

    Raises:
        RunError: if it cannot be written.
    """
    began = datetime.now(UTC)
    plain = re.sub(r"[^\w.-]+", "-", name)
    path = results / "launches" / f"{began:%Y%m%d-%H%M%S-%f}-{os.getpid()}-{plain}.json"
    runs = [{"run": os.path.relpath(job.path, results), "config": job.config} for job in jobs]
    plan: dict[str, Any] = {"name": name, "began": began.isoformat(timespec="seconds"), "engine": engine, "runs": runs}
    if queue is not None:
        plan |= {"queue": asdict(queue)}
    kept = KeptPlan(path, plan)
    try:
        with lock(_lock_path(path)):
            yield kept
    except Held as e:
        raise RunError(f"{path} belongs to another launch ({e}); start this one again") from e


def read_plans(results: Path) -> list[Plan]:
    """All launches into a folder, the latest last. A damaged file only costs a warning."""
    found = []
    for path in sorted((results / "launches").glob("*.json")):
        try:
            plan = read_json(path)
            runs = {results / r["run"]: r["config"] for r in plan["runs"]}
            began = datetime.fromisoformat(plan["began"])
            waiting: Collection[Path] = runs if (attended := holder(_lock_path(path)) is not None) else ()
            if plan["engine"] == "slurm":
                waiting = _in_queue(plan, began, results, attended)
            found.append(Plan(str(plan["name"]), began, str(plan["engine"]), runs, frozenset(waiting)))
        except (RunError, OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            print(f"warning: {path} is not a complete plan ({type(e).__name__}: {e}); skipped", file=sys.stderr)
    return found


def _in_queue(plan: dict[str, Any], began: datetime, results: Path, attended: bool) -> Collection[Path]:
    """The runs of a Slurm launch that are queued or running, by query if any of them is not finished."""
    runs = [results / r["run"] for r in plan["runs"]]
    jobs = {results / run: str(number) for run, number in plan.get("jobs", {}).items()}
    if "queue" in plan and not jobs:  # not submitted (yet)
        return runs if attended else ()
    queue = Queue(**plan.get("queue", {"cluster": "slurm", "limit": 0.0}))
    unfinished = {run: number for run, number in jobs.items() if not (run / "result.json").exists()}
    queued = still_queued(queue.cluster, unfinished.values()) if jobs else None
    if queued is None:
        return runs if datetime.now(UTC) < began + timedelta(seconds=queue.limit) + LONGEST_WAIT else ()
    return [run for run, number in unfinished.items() if number in queued]


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")

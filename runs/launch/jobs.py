"""Jobs: a run as it is sent to a worker, and its outcome."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runs.catalogue import RunConfig
from runs.config.serialization import from_dict, to_dict
from runs.extensions import load_extensions
from runs.results.folder import RunFolder, run_path
from runs.system.deadline import Deadline
from runs.system.errors import Interrupted, OutOfTime, Paused, RunError, Taken
from runs.system.machine import Machine
from runs.tracking import TrackerName
from runs.tracking.labels import Labels
from runs.training import train


@dataclass(frozen=True)
class Job:
    """A run to be trained and tested, serialisable so that it can be sent to any process or machine."""

    config: dict[str, Any]
    """The run's configuration, by ``runs.config.serialization.to_dict``."""
    path: str
    """The run's folder, absolute; with several machines it is on a shared file system."""
    device: str = "auto"
    """As on the command line."""
    threads: int | None = None
    """CPU threads; None: torch's default."""
    data_root: str | None = None
    """Folder with the data sets."""
    tracker: TrackerName = "auto"
    """Tracker to mirror the metrics to."""
    labels: str | None = None
    """The run's labels there, as JSON; None: the defaults."""
    deadline: float | None = None
    """When it has to stop, in seconds since 1970; None: no limit."""
    until: int | None = None
    """Updates after which it pauses; None: no pause."""

    @classmethod
    def of(cls, config: RunConfig, results: Path, **settings: Any) -> Job:
        """The job of a run in the folder ``results``; ``settings`` are the other fields."""
        return cls(to_dict(config), str(run_path(results.resolve(), config)), **settings)

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.path))

    def finished(self) -> bool:
        """Whether the run is finished. Errors are left to the worker that executes the job."""
        try:
            config = from_dict(RunConfig, self.config)
            return self.folder.finished(config, resume=True, overwrite=False) is not None
        except RunError:
            return False


State = Literal["finished", "failed", "out of time", "paused", "stopped", "taken", "submitted"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    state: finished; failed; out of time, paused or stopped, with a checkpoint; taken: another process is training the
        run; submitted: to a queue.
    reason: one line; empty for finished jobs.
    seconds: time that the job took on its worker.
    """

    state: State
    reason: str = ""
    seconds: float = 0.0


Outcomes = Generator[tuple[Job, Outcome], None, None]
"""Jobs with their outcomes, in the order in which they end; closing it stops running jobs."""


def run_job(job: Job) -> Outcome:
    """Execute a job, from its checkpoint if there is one. All kinds of workers call this.

    Errors of the run become its outcome, and are recorded in its folder.
    """
    began = time.monotonic()

    def ended(state: State, reason: str = "") -> Outcome:
        return Outcome(state, reason, time.monotonic() - began)

    remaining = None if job.deadline is None else job.deadline - time.time()
    if remaining is not None and remaining <= 0:
        return ended("out of time", "the time budget ended before it started")
    try:
        load_extensions()  # the configuration may need them
        machine = Machine.named(job.device, None if job.data_root is None else Path(job.data_root), job.threads)
        train(
            from_dict(RunConfig, job.config),
            job.folder,
            machine,
            tracker=job.tracker,
            labels=None if job.labels is None else Labels.from_json(job.labels),
            resume=True,
            quiet=True,
            deadline=Deadline(remaining),
            until=job.until,
        )
        return ended("finished")
    except Taken as e:
        return ended("taken", str(e))
    except Paused as e:
        return ended("paused", str(e))
    except OutOfTime as e:
        return ended("out of time", str(e))
    except (Interrupted, KeyboardInterrupt) as e:
        return ended("stopped", str(e))
    except Exception as e:
        return failed(job, _reason(e), traceback.format_exc(), time.monotonic() - began)


def failed(job: Job, reason: str, details: str = "", seconds: float = 0.0) -> Outcome:
    """The outcome of a failed job, recorded in its folder if that is writable."""
    try:
        job.folder.write_failure(reason, details)
    except RunError as e:
        reason = f"{reason} ({e})"
    return Outcome("failed", reason, seconds)


def _reason(error: Exception) -> str:
    """An error in one line: the message of a user error, or the type and first line of any other."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, RunError) else f"{type(error).__name__}: {first}"

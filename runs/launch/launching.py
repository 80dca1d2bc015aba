"""Launches many runs: finds the unfinished ones, executes them in an engine, and reports their outcomes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runs import BEGAN
from runs.catalogue import RunConfig
from runs.launch.engine import Engine
from runs.launch.in_process import InProcess
from runs.launch.jobs import Job, Outcome, Outcomes
from runs.launch.plans import keep_plan
from runs.launch.ray_cluster import RayCluster
from runs.launch.slurm import Slurm, SlurmOptions
from runs.launch.workers import Workers
from runs.system.deadline import parse_duration
from runs.system.errors import Interrupted, OutOfTime, RunError
from runs.system.progress import progress_bar
from runs.tracking import TrackerOptions

EngineName = Literal["workers", "process", "ray", "slurm"]
POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(TrackerOptions):
    """Options of all commands that launch runs."""

    engine: EngineName = "workers"
    """workers: local processes; process: sequentially in this process; ray: a Ray cluster; slurm."""
    workers: int | None = None
    """Runs at a time; None: one per core."""
    threads: int | None = None
    """CPU threads of each run; None: one, or with --engine process all cores."""
    gpus: int = 0
    """GPUs that Ray or Slurm gives each run."""
    retries: int = 2
    """Restarts of a run, from its checkpoint, after its process died."""
    address: str | None = None
    """The Ray cluster, such as ray://head:10001; None: a new one on this machine."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    device: str = "auto"
    """auto (a GPU if there is one; workers take turns at several), cpu, cuda or cuda:N."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache, filled by download."""
    time_budget: str | None = None
    """Stop all runs with checkpoints within this time, such as 90s, 25m or 1h30m; the same command continues."""


def slots(options: LaunchOptions) -> int:
    """Runs at a time on this machine."""
    return options.workers or len(os.sched_getaffinity(0))


ENGINES: Mapping[EngineName, Callable[[LaunchOptions, Path], Engine]] = {
    "workers": lambda o, results: Workers(slots(o), o.retries),
    "process": lambda o, results: InProcess(),
    "ray": lambda o, results: RayCluster(o.address, slots(o), o.threads or 1, o.gpus, o.retries),
    "slurm": lambda o, results: Slurm(results / "launches" / "slurm", o.workers, o.threads or 1, o.gpus, o.slurm),
}


def launch(
    configs: Sequence[RunConfig],
    results: Path,
    options: LaunchOptions | None = None,
    name: str = "launch",
    until: Mapping[RunConfig, int] | None = None,
    quiet: bool = False,
) -> list[Outcome]:
    """Train and test the unfinished runs, from their checkpoints if they have any.

    Runs that another process is training are left to it, and awaited at the end. Messages go to stderr:
    the number of runs, a progress bar, and a line for each failure with its reason.

    Args:
        configs: the runs; duplicates are executed once.
        results: folder of all results.
        options: launch options; None: local processes.
        name: name of the launch, for `snail status`.
        until: updates after which a run pauses; those without go on to the end.
        quiet: print failures only.

    Returns:
        The outcomes in the order of ``configs``; pass them to ``require_finished``.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, once running jobs have saved their checkpoints.
        RunError: if the engine is not available.
    """
    options = options or LaunchOptions()
    _check(options)
    engine = ENGINES[options.engine](options, results.resolve())
    settings = _settings(options, engine)
    pauses = until or {}
    all_jobs = [Job.of(config, results, until=pauses.get(config), **settings) for config in configs]
    jobs = {job.path: job for job in all_jobs}
    outcomes = {path: Outcome("finished") for path, job in jobs.items() if job.finished()}
    left = [job for path, job in jobs.items() if path not in outcomes]
    if not quiet:
        print(summary(len(jobs), len(outcomes)), file=sys.stderr, flush=True)
    if left:
        queue = options.slurm.queue() if options.engine == "slurm" else None
        with keep_plan(results.resolve(), name, options.engine, left, queue) as plan, _stopped_by_signals():
            try:
                ended = contextlib.closing(_until_done(engine, left))
                with _Bar(len(jobs), len(outcomes), engine.slots, hidden=quiet) as bar, ended as pairs:
                    for job, outcome in pairs:
                        outcomes[job.path] = outcome
                        if outcome.state == "submitted":
                            plan.submitted(job, outcome.reason)
                            if options.slurm.wait:  # its final outcome follows
                                continue
                        bar.count(outcome)
            except KeyboardInterrupt as e:
                done = sum(o.state == "finished" for o in outcomes.values())
                stays = "; submitted jobs stay in the queue" if options.engine == "slurm" else ""
                raise Interrupted(
                    f"stopped; {done} of {len(jobs)} runs are finished, the same command continues{stays}"
                ) from e
    for path, outcome in outcomes.items():
        if outcome.state == "failed":
            print(f"failed: {path}: {outcome.reason}", file=sys.stderr)
    return [outcomes[job.path] for job in all_jobs]


def summary(runs: int, finished: int) -> str:
    """A launch in one line."""
    return f"{runs} {'run' if runs == 1 else 'runs'}: {finished} finished already, {runs - finished} to do"


def require_finished(outcomes: Sequence[Outcome]) -> None:
    """Raise the error that corresponds to the outcomes of a launch.

    Raises:
        RunError: if any failed.
        OutOfTime: if the time budget ended before all were finished.
        Interrupted: if some of them were stopped.
    """
    states = Counter(outcome.state for outcome in outcomes)
    done = f"{states['finished']} of {len(outcomes)} runs finished; the same command continues"
    if states["failed"]:
        raise RunError(f"{states['failed']} of {len(outcomes)} runs failed; the same command retries them")
    if states["out of time"]:
        raise OutOfTime(f"the time budget ended with {done}")
    if states["stopped"]:
        raise Interrupted(f"{states['stopped']} stopped by a signal, {done}")


def _check(options: LaunchOptions) -> None:
    for what, number, least in (
        ("workers", options.workers, 1),
        ("threads", options.threads, 1),
        ("retries", options.retries, 0),
        ("gpus", options.gpus, 0),
    ):
        if number is not None and number < least:
            raise RunError(f"{what} must be at least {least}, got {number}")


def _settings(options: LaunchOptions, engine: Engine) -> dict[str, Any]:
    """The fields of every job besides its run."""
    deadline = None
    if options.time_budget is not None:
        deadline = time.time() - (time.monotonic() - BEGAN) + parse_duration(options.time_budget)
    return {
        "device": options.device,
        "threads": options.threads or engine.threads,
        "data_root": None if options.data_root is None else str(options.data_root.resolve()),
        "tracker": options.tracker,
        "labels": options.labels().to_json(),
        "deadline": deadline,
    }


def _until_done(engine: Engine, jobs: Sequence[Job]) -> Outcomes:
    """Each job with its outcome; jobs of other processes are checked again once these release them."""
    while jobs:
        taken = []
        with contextlib.closing(engine.run(jobs)) as outcomes:
            for job, outcome in outcomes:
                if outcome.state == "taken":
                    taken.append(job)
                else:
                    yield job, outcome
        while taken and all(job.folder.holder() for job in taken) and not _late(taken[0]):
            time.sleep(POLL_SECONDS)
        jobs = [job for job in taken if not job.finished()]
        yield from ((job, Outcome("finished")) for job in taken if job not in jobs)


def _late(job: Job) -> bool:
    return job.deadline is not None and time.time() > job.deadline


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Stop in order on SIGTERM and Ctrl-C, even if the process was started with SIGINT ignored."""
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    try:
        old = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    except ValueError:  # not the main thread, which handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Bar:
    """A progress bar over runs. Its clock is updated even while no run ends."""

    def __init__(self, total: int, finished: int, slots: int | None, hidden: bool):
        self._slots = slots
        self._failed = self._stopped = 0
        self._bar = progress_bar(total, "runs", initial=finished, unit="run", disable=hidden)
        self._closed = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> _Bar:
        self._show()
        if sys.stderr.isatty() and not self._bar.disable:
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._clock.is_alive():
            self._clock.join()
        self._bar.close()

    def count(self, outcome: Outcome) -> None:
        """Count a job that has ended, unless it stopped early."""
        self._failed += outcome.state == "failed"
        if outcome.state in ("finished", "failed", "submitted", "paused"):
            self._bar.update()
        else:
            self._stopped += 1
        self._show()

    def _show(self) -> None:
        if self._bar.disable:
            return
        left = int(self._bar.total - self._bar.n) - self._stopped
        running = left if self._slots is None else min(left, self._slots)
        shown = [f"{running} running" if self._slots else "", f"{self._failed} failed" if self._failed else ""]
        shown.append(f"{self._stopped} stopped" if self._stopped else "")
        self._bar.set_postfix_str(", ".join(filter(None, shown)), refresh=False)

    def _tick(self) -> None:
        while not self._closed.wait(1.0):
            self._bar.refresh()

"""Status of all runs in a results folder, from its files."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

from runs.launch.plans import Plan, read_plans
from runs.launch.settings import own_settings
from runs.results.folder import RunFolder, find_runs
from runs.results.metrics import SECONDS, UPDATE
from runs.results.stored import is_count
from runs.system.deadline import show_duration
from runs.system.errors import RunError

RECENT = 10
"""Lines of metrics from which the current rate is computed."""


@dataclass(frozen=True)
class Status:
    """Status of one run.

    run: its folder, relative to the results folder.
    state: starting, running, waiting (in a launch), finished, failed, stopped (no process is training it;
        --resume continues it), not started (its launch has ended), or damaged.
    step, steps: updates done and in total; None if unknown.
    rate: current updates per second; None if it is not running.
    note: results of a finished run, reason of a failure, or the process that is training it.
    settings: settings that differ from the catalogue's.
    """

    run: str
    state: str
    step: int | None = None
    steps: int | None = None
    rate: float | None = None
    note: str = ""
    settings: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last update at the current rate, without testing."""
        if self.step is None or self.steps is None or not self.rate:
            return None
        return (self.steps - self.step) / self.rate

    @property
    def pending(self) -> bool:
        """Whether it will change without user action."""
        return self.state in ("starting", "running", "waiting")


def read_status(results: Path) -> list[Status]:
    """Every run below the folder, including planned ones. A damaged run only affects its own line."""
    plans: dict[Path, Plan] = {}
    for plan in read_plans(results):
        for path in plan.runs:
            if path not in plans or path in plan.waiting or path not in plans[path].waiting:  # the latest active launch
                plans[path] = plan
    paths = {*find_runs(results, early=True), *plans}
    return [_status(path, os.path.relpath(path, results), plans.get(path)) for path in sorted(paths)]


def _status(path: Path, run: str, plan: Plan | None) -> Status:
    folder = RunFolder(path)
    try:
        config = folder.plain_config() if folder.config_path.exists() else plan.runs[path] if plan else None
        settings = "" if config is None else own_settings(config)
        return replace(_progress_of(folder, config, plan), run=run, settings=settings)
    except RunError as e:
        return Status(run, "damaged", note=str(e))
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as e:
        return Status(run, "damaged", note=f"{type(e).__name__}: {e}")


def _progress_of(folder: RunFolder, config: dict[str, Any] | None, plan: Plan | None) -> Status:
    """The status of a run, without its name."""
    holder = folder.holder()
    turn = plan if plan is not None and folder.path in plan.waiting else None
    if holder is None:
        if (record := folder.result()) is not None:
            return Status("", "finished", note=", ".join(_number(r) for r in record["results"]))
        failure = folder.failure()
        if failure and not (turn and turn.began > datetime.fromisoformat(failure["time"])):  # unless it is queued again
            return Status("", "failed", *_progress(folder, config)[:2], note=failure["reason"])
    step, steps, rate = _progress(folder, config)
    if holder is not None:
        return Status("", "starting" if step is None else "running", step, steps, rate, holder)
    if turn is not None:
        where = "submitted to Slurm" if turn.engine == "slurm" else "launched"
        return Status(
            "", "waiting", step, steps, note=f"{where} at {turn.began.astimezone():%d %b %H:%M} ({turn.name})"
        )
    if folder.config_path.exists():
        kept = "continue with --resume" if folder.checkpoint_path.exists() else "there is no checkpoint yet"
        return Status("", "stopped", step, steps, note=kept)
    return Status("", "not started", step, steps, note="the launch has ended")


def _progress(folder: RunFolder, config: dict[str, Any] | None) -> tuple[int | None, int | None, float | None]:
    """Updates done and in total, and updates per second."""
    steps = None if config is None else config["training"].get("steps")  # tuned methods have none
    if not is_count(steps):
        steps = None
    lines = folder.metrics()
    if not lines:
        return None, steps, None
    first, last = lines[-RECENT:][0], lines[-1]
    done, elapsed = last[UPDATE] - first[UPDATE], last[SECONDS] - first[SECONDS]
    if elapsed <= 0:  # a single line: rate since the start
        done, elapsed = last[UPDATE], last[SECONDS]
    return last[UPDATE], steps, done / elapsed if elapsed > 0 else None


def _number(r: dict[str, Any]) -> str:
    shots = f" {r['shots']}-shot" if r.get("shots") else ""
    return f"{r['metric']}{shots} {r['mean']:.4f} ± {r['ci95']:.4f}"


def render(found: list[Status]) -> str:
    """One line per run, and the number of runs in each state."""
    rows = [
        (s.run, s.state, _steps(s), "" if s.rate is None else f"{s.rate:.3g}/s", _left(s), s.note, s.settings)
        for s in found
    ]
    table = tabulate(rows, ("run", "state", "updates", "rate", "left", "", ""), tablefmt="plain", disable_numparse=True)
    counts = {state: sum(s.state == state for s in found) for state in dict.fromkeys(s.state for s in found)}
    return "\n".join([table, "", ", ".join(f"{n} {state}" for state, n in counts.items())])


def _steps(s: Status) -> str:
    if s.steps is None:
        return "" if s.step is None else str(s.step)
    return f"{s.step or 0} of {s.steps}"


def _left(s: Status) -> str:
    return "" if s.seconds_left is None else show_duration(s.seconds_left)

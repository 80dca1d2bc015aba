"""What every run in a results folder is doing, told from its files alone."""

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
"""Lines of metrics that the present rate is told from."""


@dataclass(frozen=True)
class Status:
    """One run.

    run: its folder, below the results folder.
    state: starting, running, waiting (for its turn in a launch), finished, failed, stopped (no process is at it;
        --resume continues it), not started (its launch has ended), or damaged.
    step, steps: updates done and to do; None where they cannot be told.
    rate: updates a second of late; None where nothing is running.
    note: the numbers of a finished run, why another failed, or who is at it.
    settings: in what it differs from the catalogue's.
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
        """Until the last update, at the present rate; testing comes after that."""
        if self.step is None or self.steps is None or not self.rate:
            return None
        return (self.steps - self.step) / self.rate

    @property
    def pending(self) -> bool:
        """Whether it will change without anybody doing anything."""
        return self.state in ("starting", "running", "waiting")


def read_status(results: Path) -> list[Status]:
    """Every run below the folder, those that were only planned, too. What is damaged costs its own line."""
    plans: dict[Path, Plan] = {}
    for plan in read_plans(results):
        for path in plan.runs:
            if (
                path not in plans or path in plan.waiting or path not in plans[path].waiting
            ):  # the latest that still counts
                plans[path] = plan
    paths = {*find_runs(results, early=True), *plans}
    return [_status(path, os.path.relpath(path, results), plans.get(path)) for path in sorted(paths)]


def _status(path: Path, run: str, plan: Plan | None) -> Status:
    folder = RunFolder(path)
    try:
        config = folder.plain_config() if folder.config_path.exists() else plan.runs[path] if plan else None
        settings = "" if config is None else own_settings(config)
        return replace(_told(folder, config, plan), run=run, settings=settings)
    except RunError as e:
        return Status(run, "damaged", note=str(e))
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as e:
        return Status(run, "damaged", note=f"{type(e).__name__}: {e}")


def _told(folder: RunFolder, config: dict[str, Any] | None, plan: Plan | None) -> Status:
    """What a run is doing, without its name."""
    holder = folder.holder()
    turn = plan if plan is not None and folder.path in plan.waiting else None
    if holder is None:
        if (record := folder.result()) is not None:
            return Status("", "finished", note=", ".join(_number(r) for r in record["results"]))
        failure = folder.failure()
        if failure and not (turn and turn.began > datetime.fromisoformat(failure["time"])):  # or it has another turn
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
        kept = "continue with --resume" if folder.checkpoint_path.exists() else "no checkpoint was due yet"
        return Status("", "stopped", step, steps, note=kept)
    return Status("", "not started", step, steps, note="its launch has ended")


def _progress(folder: RunFolder, config: dict[str, Any] | None) -> tuple[int | None, int | None, float | None]:
    """Updates done and to do, and how many a second."""
    steps = None if config is None else config["training"].get("steps")  # methods that are tuned have none
    if not is_count(steps):
        steps = None
    lines = folder.metrics()
    if not lines:
        return None, steps, None
    first, last = lines[-RECENT:][0], lines[-1]
    done, elapsed = last[UPDATE] - first[UPDATE], last[SECONDS] - first[SECONDS]
    if elapsed <= 0:  # a single line: since the beginning
        done, elapsed = last[UPDATE], last[SECONDS]
    return last[UPDATE], steps, done / elapsed if elapsed > 0 else None


def _number(r: dict[str, Any]) -> str:
    shots = f" {r['shots']}-shot" if r.get("shots") else ""
    return f"{r['metric']}{shots} {r['mean']:.4f} ± {r['ci95']:.4f}"


def render(found: list[Status]) -> str:
    """A line a run, and how many there are of each state."""
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

"""External trackers: wandb, trackio and TensorBoard mirror ``metrics.jsonl``.

A tracker must not stop or slow a run. So a separate process (`runs.tracking.follow`) reads the run's folder; the
run only wakes it through a pipe, whose end marks the end of the run. An error there costs one warning line;
the next start of the run, or ``snail track push``, sends the rest. This module imports no tracker.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runs.system.errors import RunError
from runs.tracking.dashboards import wandb_mode
from runs.tracking.labels import LABELS_FILE, Labels

TrackerName = Literal[
    "auto", "none", "wandb", "trackio", "tensorboard", "wandb+trackio", "wandb+tensorboard", "trackio+tensorboard"
]
PATIENCE = 20.0
"""Seconds to wait for trackers at the end of a run."""
FAILED = 3
"""Exit code of a follower that has printed its own warning."""
WAKE_SECONDS = 0.5
"""Minimum seconds between wake-ups of a follower."""


@dataclass(frozen=True, kw_only=True)
class TrackerOptions:
    """Options of all commands that train: where metrics are mirrored, and under which labels."""

    tracker: TrackerName = "auto"
    """Mirror metrics to wandb (offline unless you have logged in), trackio (on this machine), tensorboard (event
    files in the run's folder), two of them, or none; auto: wandb if installed."""
    project: str | None = None
    """Project at the tracker; None: $WANDB_PROJECT, else snail."""
    entity: str | None = None
    """Team or user at wandb; None: $WANDB_ENTITY, else your default."""
    group: str | None = None
    """Group at the tracker; None: $WANDB_RUN_GROUP, else the run without its seed."""
    tags: tuple[str, ...] = ()
    """Tags at wandb; none: $WANDB_TAGS."""
    notes: str | None = None
    """Notes at wandb; None: $WANDB_NOTES."""

    def labels(self, name: str | None = None) -> Labels:
        """The labels of runs; ``name`` is for a single one."""
        return Labels.given(
            project=self.project, entity=self.entity, group=self.group, name=name, tags=self.tags, notes=self.notes
        )


class Tracker:
    """The followers of a run while it trains.

    Args:
        names: names of the trackers.
        folder: the run's folder, with its ``config.json``.
        run_id: id for trackers that do not have the run yet.
        labels: project, group, tags and so on.
    """

    def __init__(self, names: Sequence[str], folder: Path, run_id: str, labels: Labels = Labels()):  # noqa: B008
        self._woken = 0.0
        self._followers: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            try:
                follower = start_follower(name, folder, run_id, labels, stdin=subprocess.PIPE)
            except OSError as e:
                print(f"warning: {name} does not mirror this run ({e}); its metrics.jsonl is complete", file=sys.stderr)
                continue
            assert follower.stdin is not None
            os.set_blocking(follower.stdin.fileno(), False)
            self._followers[name] = follower

    def __bool__(self) -> bool:
        return bool(self._followers)

    def wake(self) -> None:
        """Announce a new line of metrics, without blocking."""
        if time.monotonic() - self._woken < WAKE_SECONDS:
            return  # this line is sent with a later one, or at the end
        self._woken = time.monotonic()
        for follower in self._followers.values():
            try:
                os.write(follower.stdin.fileno(), b"\n")  # type: ignore[union-attr]
            except OSError:  # the follower has ended, or its pipe is full
                continue

    def close(self) -> None:
        """Announce the end of the run, and give the followers a moment to finish."""
        until = time.monotonic() + PATIENCE
        for follower in self._followers.values():
            follower.stdin.close()  # type: ignore[union-attr]
        for name, follower in self._followers.items():
            wait_for_follower(name, follower, max(0.0, until - time.monotonic()))


def start_follower(name: str, folder: Path, run_id: str, labels: Labels, stdin: int) -> subprocess.Popen[bytes]:
    """Start a process that mirrors the run in the folder until its ``stdin`` ends.

    Raises:
        OSError: if the process cannot be started.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "runs.tracking.follow", name, str(folder), run_id, labels.to_json()],
        stdin=stdin,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the run
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # so that it imports the same code as this process
    )


def wait_for_follower(name: str, follower: subprocess.Popen[bytes], patience: float | None = None) -> bool:
    """Wait for a follower, with a timeout; returns whether all was sent, and warns otherwise."""
    try:
        code = follower.wait(patience)
        why = f"stopped mirroring (exit code {code})"
    except subprocess.TimeoutExpired:
        follower.kill()
        code = follower.wait()
        why = f"has not finished mirroring in {PATIENCE:.0f} s"
    if code not in (0, FAILED):
        advice = "metrics.jsonl is complete, and `snail track push` sends the rest"
        print(f"warning: {name} {why}; {advice}", file=sys.stderr)
    return code == 0


def require_installed(name: str) -> None:
    """Raise RunError if a tracker is not installed."""
    if not _installed(name):
        extra = "tensorboard" if name == "tensorboard" else "track"
        raise RunError(f"{name} is not installed; run: pip install 'snail-suite[{extra}]', or use --tracker none")


def _installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a folder of that name, such as wandb's own, is not a package


def tracker_names(tracker: TrackerName) -> list[str]:
    """The trackers of a choice; ``auto`` is wandb if it is installed.

    Raises:
        RunError: if a requested tracker is not installed.
    """
    if tracker == "auto":
        names = ["wandb"] if _installed("wandb") else []
    else:
        names = [] if tracker == "none" else tracker.split("+")
    for name in names:
        require_installed(name)
    return [n for n in names if n != "wandb" or wandb_mode() != "disabled"]


def open_tracker(tracker: TrackerName, folder: Path, run_id: str, labels: Labels | None = None) -> Tracker:
    """The followers of a choice; None: the run's labels, or the defaults.

    Raises:
        RunError: if a requested tracker is not installed.
    """
    names, labels = tracker_names(tracker), labels or Labels.of_run(folder)
    if names and labels != Labels.of_run(folder):
        (folder / LABELS_FILE).write_text(labels.to_json() + "\n", encoding="utf-8")
    return Tracker(names, folder, run_id, labels)

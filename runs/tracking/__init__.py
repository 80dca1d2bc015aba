"""Mirrors of a run's metrics in other people's dashboards. The run's own ``metrics.jsonl`` is the truth.

A mirror must never stop or slow a run. So it is a process of its own (`runs.tracking.follow`), which reads the run's
folder as the run writes it and hears of it only through a pipe: that there is something new, and, when the pipe closes,
that the run is at its end, however it came to it. What goes wrong in it costs one warning line; what it missed, the
next start of the run or ``snail track push`` sends. This module is the run's side of it and imports no dashboard.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from runs.system.errors import RunError
from runs.tracking.wandb import wandb_mode

TrackerName = Literal["auto", "none", "wandb", "trackio", "wandb+trackio"]
PATIENCE = 20.0
"""Seconds that the end of a run waits for its mirrors."""
TOLD = 3
"""Exit code of a mirror that has said itself what went wrong."""
WAKE_SECONDS = 0.5
"""Mirrors are told of new lines at most this often."""


class Tracker:
    """The mirrors of a run while it trains; of no names: none.

    Args:
        names: of the dashboards.
        folder: of the run; its ``config.json`` is there already.
        run_id: under which it is mirrored, unless it was under another before.
    """

    def __init__(self, names: Sequence[str], folder: Path, run_id: str):
        self._woken = 0.0
        self._mirrors: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            try:
                mirror = start_mirror(name, folder, run_id, stdin=subprocess.PIPE)
            except OSError as e:
                print(f"warning: {name} does not mirror this run ({e}); its metrics.jsonl is complete", file=sys.stderr)
                continue
            assert mirror.stdin is not None
            os.set_blocking(mirror.stdin.fileno(), False)
            self._mirrors[name] = mirror

    def __bool__(self) -> bool:
        return bool(self._mirrors)

    def wake(self) -> None:
        """There is a new line of metrics; returns at once."""
        if time.monotonic() - self._woken < WAKE_SECONDS:
            return  # it will see this line with a later one, or at the end
        self._woken = time.monotonic()
        for mirror in self._mirrors.values():
            try:
                os.write(mirror.stdin.fileno(), b"\n")  # type: ignore[union-attr]
            except OSError:  # it has given up, or has more than enough to do
                continue

    def close(self) -> None:
        """No more will come: give the mirrors a moment to finish."""
        until = time.monotonic() + PATIENCE
        for mirror in self._mirrors.values():
            mirror.stdin.close()  # type: ignore[union-attr]
        for name, mirror in self._mirrors.items():
            wait_for_mirror(name, mirror, max(0.0, until - time.monotonic()))


def wait_for_mirror(name: str, mirror: subprocess.Popen[bytes], patience: float | None = None) -> bool:
    """Let a mirror come to its end, for so many seconds at most; whether all is well, of which it warns otherwise."""
    try:
        code = mirror.wait(patience)
        why = f"stopped mirroring (exit code {code})"
    except subprocess.TimeoutExpired:
        mirror.kill()
        code = mirror.wait()
        why = f"has not finished mirroring in {PATIENCE:.0f} s"
    if code not in (0, TOLD):
        print(
            f"warning: {name} {why}; metrics.jsonl is complete, and `snail track push` sends the rest", file=sys.stderr
        )
    return code == 0


def start_mirror(name: str, folder: Path, run_id: str, stdin: int) -> subprocess.Popen[bytes]:
    """A process that mirrors the run in the folder until its ``stdin`` ends.

    Raises:
        OSError: if there can be no process.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "runs.tracking.follow", name, str(folder), run_id],
        stdin=stdin,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is meant for the run
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # so that it imports what this process would
    )


def require_installed(name: str) -> None:
    """Make sure that a dashboard can be mirrored to.

    Raises:
        RunError: if it is not installed.
    """
    if not _installed(name):
        raise RunError(f"{name} is not installed; run: pip install 'snail-suite[track]', or use --tracker none")


def _installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a folder of that name, such as wandb's own, is not a package


def tracker_names(tracker: TrackerName) -> list[str]:
    """The dashboards that a choice means; ``auto`` is wandb where it is installed.

    Raises:
        RunError: if one is asked for and not installed.
    """
    if tracker == "auto":
        names = ["wandb"] if _installed("wandb") else []
    else:
        names = [] if tracker == "none" else tracker.split("+")
    for name in names:
        require_installed(name)
    return [n for n in names if n != "wandb" or wandb_mode() != "disabled"]


def open_tracker(tracker: TrackerName, folder: Path, run_id: str) -> Tracker:
    """The mirrors of a choice.

    Raises:
        RunError: if one is asked for and not installed.
    """
    return Tracker(tracker_names(tracker), folder, run_id)

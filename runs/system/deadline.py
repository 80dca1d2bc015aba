"""Time budgets of runs."""

from __future__ import annotations

import re
import time

from runs.system.errors import RunError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Parse a duration such as ``90s``, ``25m``, ``1h30m`` or ``1.5h`` into seconds.

    Raises:
        RunError: if it is malformed or not positive.
    """
    if re.fullmatch(r"(\d+(\.\d*)?[hms])+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d*)?)([hms])", text))
        if seconds > 0:
            return seconds
    raise RunError(f"{text!r} is not a time budget; give hours, minutes or seconds, such as 25m, 90s or 1h30m")


def show_duration(seconds: float) -> str:
    """Format seconds as 40s, 12m30s, 3h05m or 2.5 days."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Deadline:
    """Decides when a run has to stop.

    At least one piece of work is done in any case, to measure how long one takes.

    Args:
        seconds: the budget; None: no limit.
        began: start time by `time.monotonic`; None: now.
    """

    def __init__(self, seconds: float | None = None, began: float | None = None):
        self._end = None if seconds is None else (time.monotonic() if began is None else began) + seconds
        self._before: float | None = None
        self._longest = 0.0

    def begin(self) -> None:
        """Start a new kind of work: earlier pieces do not tell how long its pieces take."""
        self._before, self._longest = time.monotonic(), 0.0

    def near(self) -> bool:
        """Whether too little time is left for another piece of work and for saving; call it after each piece."""
        now = time.monotonic()
        if self._before is not None:
            self._longest = max(self._longest, now - self._before)
        self._before = now
        return self._end is not None and now + 1.5 * self._longest + RESERVE > self._end


RESERVE = 5.0
"""Seconds reserved for starting up and for writing the checkpoint."""

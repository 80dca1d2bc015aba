"""User errors and interruptions."""

from __future__ import annotations


class RunError(Exception):
    """A user error: what went wrong and what to do, in one line. The command line prints no traceback."""


class Interrupted(RunError):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did, after saving a checkpoint."""


class OutOfTime(Interrupted):
    """The run has stopped inside its time budget, after saving a checkpoint."""


class Paused(OutOfTime):
    """The run has stopped at the requested update, after saving a checkpoint."""


class Taken(RunError):
    """Another process is training this run."""

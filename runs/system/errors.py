"""Errors that a person can do something about."""

from __future__ import annotations


class RunError(Exception):
    """What went wrong and what to do next, in one line: the command line prints it without a traceback."""


class Interrupted(RunError):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did, after saving a checkpoint."""


class OutOfTime(Interrupted):
    """The run has stopped inside its time budget, after saving a checkpoint."""


class Paused(OutOfTime):
    """The run has stopped at the update that it was asked to stop at, after saving a checkpoint."""


class Taken(RunError):
    """Another process is training this very run."""

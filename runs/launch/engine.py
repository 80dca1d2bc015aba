"""The interface of engines, which run jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runs.launch.jobs import Job, Outcomes


class Engine(Protocol):
    """Runs jobs, several at a time where it can."""

    slots: int | None
    """Jobs at a time; None: the cluster decides."""
    threads: int | None
    """CPU threads of a job unless told otherwise; None: all."""

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Each job with how it ended, in the order in which they end; before that as submitted, if it queues.

        A job that dies with its process is tried again, from its checkpoint, before it counts as failed. Closed early,
        or interrupted, the iterator makes the running ones save a checkpoint and stop, and waits for that.
        """

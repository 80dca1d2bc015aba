"""Where jobs are carried out: what every engine is and does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runs.launch.jobs import Job, Outcomes


class Engine(Protocol):
    """Carries out jobs, several at a time where it can."""

    slots: int | None
    """How many jobs run at a time; None: that is for others to decide."""
    threads: int | None
    """CPU threads of a job unless told otherwise; None: all."""

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Each job with how it ended, in the order in which they end; before that as submitted, if it queues.

        A job that dies with its process is tried again, from its checkpoint, before it counts as failed. Closed early,
        or interrupted, the iterator makes the running ones save a checkpoint and stop, and waits for that.
        """

"""The interface of engines, which execute jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runs.launch.jobs import Job, Outcomes


class Engine(Protocol):
    """Executes jobs, several at a time if possible."""

    slots: int | None
    """Jobs at a time; None: the cluster decides."""
    threads: int | None
    """Default CPU threads of a job; None: all."""

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Yield each job with its outcome, in the order in which they end; queued jobs first as submitted.

        A job that dies with its process is retried from its checkpoint before it counts as failed. If closed early
        or interrupted, the iterator makes running jobs save a checkpoint and stop, and waits for them.
        """

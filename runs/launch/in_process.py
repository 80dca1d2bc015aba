"""Executes jobs sequentially in this process."""

from __future__ import annotations

from collections.abc import Sequence

from runs.launch.jobs import Job, Outcomes, run_job


class InProcess:
    """Executes jobs sequentially in this process, with all cores."""

    slots: int | None = 1
    threads: int | None = None

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Yield each job with its outcome."""
        for job in jobs:
            outcome = run_job(job)
            if outcome.state == "stopped":  # Ctrl-C is for all of them
                raise KeyboardInterrupt
            yield job, outcome

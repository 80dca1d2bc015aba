"""Jobs one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from runs.launch.jobs import Job, Outcomes, run_job


class InProcess:
    """Does jobs one after the other, in this process, with all cores."""

    slots: int | None = 1
    threads: int | None = None

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Each job with how it ended."""
        for job in jobs:
            outcome = run_job(job)
            if outcome.state == "stopped":  # Ctrl-C is meant for all of them
                raise KeyboardInterrupt
            yield job, outcome

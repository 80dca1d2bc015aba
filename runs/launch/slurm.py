"""Jobs in the queue of Slurm, by submitit: an extra, imported when it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runs.launch.jobs import Job, Outcome, Outcomes, failed, run_job
from runs.launch.plans import Queue
from runs.system.deadline import parse_duration
from runs.system.errors import RunError

REQUEUES = 100
"""How often a job may reach its time limit and queue again: each time it goes on from its checkpoint."""


@dataclass(frozen=True)
class SlurmOptions:
    """Slurm options of each job, besides threads and GPUs."""

    partition: str | None = None
    """Where to queue; None: Slurm's default."""
    time: str = "12h"
    """Limit of one stay on a node, such as 90m; a longer run queues again and goes on from its checkpoint."""
    wait: bool = False
    """Wait until all jobs have ended, instead of leaving once they are submitted."""
    cluster: Literal["slurm", "local"] = "slurm"
    """slurm, or local: submitit's imitation of it by processes of this machine, to try a launch."""

    def queue(self) -> Queue:
        """Where to ask for jobs that are submitted with these options."""
        return Queue(self.cluster, parse_duration(self.time))


class Slurm:
    """Submits jobs to Slurm as one array. Preempted, or out of time, they queue again and go on where they were.

    Args:
        folder: where submitit keeps its files and the jobs' output.
        slots: how many jobs may run at a time; None: as many as Slurm likes.
        threads: CPU cores that each job asks for.
        gpus: GPUs that each job asks for.
        options: the rest.

    Raises:
        RunError: if submitit is not installed or there is no Slurm.
    """

    threads: int | None = 1

    def __init__(self, folder: Path, slots: int | None, threads: int, gpus: int, options: SlurmOptions):
        try:
            import submitit
        except ImportError as e:
            raise RunError("submitit is not installed; run: pip install 'snail-suite[slurm]'") from e
        self.slots = slots
        self.wait = options.wait
        minutes = math.ceil(parse_duration(options.time) / 60)
        try:
            self._executor = submitit.AutoExecutor(
                folder, options.cluster, slurm_max_num_timeout=REQUEUES, local_max_num_timeout=REQUEUES
            )
        except RuntimeError as e:
            raise RunError("there is no Slurm here (srun is not found); log in where jobs are submitted") from e
        self._executor.update_parameters(
            name="snail",
            timeout_min=minutes,
            cpus_per_task=threads,
            gpus_per_node=gpus or None,
            slurm_partition=options.partition,
            slurm_array_parallelism=slots,
        )

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Each job as submitted, then with how it ended if that is waited for; who stops waiting leaves them queued."""
        from submitit.helpers import as_completed

        with self._executor.batch():
            submitted = [self._executor.submit(Requeued(job)) for job in jobs]
        yield from ((job, Outcome("submitted", s.job_id)) for job, s in zip(jobs, submitted, strict=True))
        if not self.wait:
            return
        known = {s.job_id: job for job, s in zip(jobs, submitted, strict=True)}
        for ended in as_completed(submitted, poll_frequency=1):
            yield known[ended.job_id], _outcome(known[ended.job_id], ended)


class Requeued:
    """A job that submitit queues again when it is preempted: the callable that it asks for."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self) -> Outcome:
        """Do it, from its checkpoint where it has one."""
        return run_job(self.job)

    def checkpoint(self) -> Any:
        """What to do when it is its turn again: the same. The run's folder knows how far it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _outcome(job: Job, ended: Any) -> Outcome:
    from submitit.core.utils import UncompletedJobError

    try:
        return ended.result()
    except UncompletedJobError as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        return failed(job, lines[0] if lines else "it left no result", str(e))

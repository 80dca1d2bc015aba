"""Executes jobs on Slurm through submitit, an extra that is imported on use."""

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
"""How often a job may reach its time limit and be requeued, each time from its checkpoint."""


@dataclass(frozen=True)
class SlurmOptions:
    """Slurm options of each job, besides threads and GPUs."""

    partition: str | None = None
    """Partition; None: Slurm's default."""
    time: str = "12h"
    """Time limit of a job, such as 90m; longer runs are requeued and continue from their checkpoint."""
    wait: bool = False
    """Wait until all jobs have ended, instead of returning once they are submitted."""
    cluster: Literal["slurm", "local"] = "slurm"
    """slurm, or local: submitit's imitation by local processes, to try a launch."""

    def queue(self) -> Queue:
        """The queue of jobs submitted with these options."""
        return Queue(self.cluster, parse_duration(self.time))


class Slurm:
    """Submits jobs to Slurm as one array. Preempted or timed-out jobs are requeued and continue.

    Args:
        folder: folder of submitit's files and the jobs' output.
        slots: maximum number of concurrent jobs; None: no limit.
        threads: CPU cores per job.
        gpus: GPUs per job.
        options: other Slurm options.

    Raises:
        RunError: if submitit or Slurm is missing.
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
            raise RunError("Slurm is not available here (srun not found); run this on a login node") from e
        self._executor.update_parameters(
            name="snail",
            timeout_min=minutes,
            cpus_per_task=threads,
            gpus_per_node=gpus or None,
            slurm_partition=options.partition,
            slurm_array_parallelism=slots,
        )

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Yield each job as submitted and, if waiting, with its outcome; stopping to wait leaves jobs queued."""
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
    """A job as the callable that submitit needs to requeue it after preemption."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self) -> Outcome:
        """Execute it, from its checkpoint if it has one."""
        return run_job(self.job)

    def checkpoint(self) -> Any:
        """After requeueing, do the same: the progress is in the run's folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _outcome(job: Job, ended: Any) -> Outcome:
    from submitit.core.utils import UncompletedJobError

    try:
        return ended.result()
    except UncompletedJobError as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        return failed(job, lines[0] if lines else "it left no result", str(e))

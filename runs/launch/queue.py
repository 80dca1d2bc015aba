"""Queries which jobs are still in a queue: Slurm's, or submitit's local imitation of it."""

from __future__ import annotations

import functools
import shutil
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

ASK_SECONDS = 15
"""Minimum seconds between queries to Slurm, which others use as well."""
PATIENCE = 20.0
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "REVOKED",
    "TIMEOUT",
}


def still_queued(cluster: str, jobs: Collection[str]) -> frozenset[str] | None:
    """The jobs that are queued or running; None if the queue cannot be queried from here.

    Args:
        cluster: ``slurm`` or ``local``, as submitit has it.
        jobs: their ids.
    """
    if not jobs:
        return frozenset()
    if cluster == "local":
        return frozenset(job for job in jobs if _is_local_job(job))
    found = _squeue(",".join(sorted({job.partition("_")[0] for job in jobs})), int(time.monotonic() // ASK_SECONDS))
    return None if found is None else found & frozenset(jobs)


def _is_local_job(job: str) -> bool:
    """submitit's local jobs are identified by their controller processes."""
    try:
        return b"submitit.local" in Path("/proc", job, "cmdline").read_bytes()
    except OSError:
        return False


@functools.lru_cache(maxsize=256)
def _squeue(arrays: str, when: int) -> frozenset[str] | None:
    """The jobs of the arrays that are in Slurm's queue; None if it does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={arrays}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:  # for a single job that is long gone, squeue reports an error
        return frozenset() if "Invalid job id" in done.stderr else None
    lines = [line.split() for line in done.stdout.splitlines()]
    return frozenset(line[0] for line in lines if len(line) == 2 and line[1] not in _ENDED)

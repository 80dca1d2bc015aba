"""Executes jobs on a Ray cluster, or on a new Ray on this machine. Ray is an extra, imported on use."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from runs.extensions import VARIABLE
from runs.launch.jobs import Job, Outcome, Outcomes, failed, run_job
from runs.system.errors import RunError

REACH_SECONDS = 10.0
PATIENCE = 120.0
"""Seconds for interrupted jobs to save their checkpoints."""
TOLD = (VARIABLE, "SNAIL_DATA", "SNAIL_CACHE")
"""Environment variables that are passed from the launcher to jobs: workers inherit only their nodes'."""


class RayCluster:
    """Executes jobs as Ray tasks.

    Each node needs this package, and at the same paths as here the results folder, extensions, and the folders of
    $SNAIL_DATA and $SNAIL_CACHE, if they are set.

    Args:
        address: address of a running cluster, such as ``ray://head:10001`` or ``auto``; None: start a new Ray here, for
            this machine only, and stop it at the end.
        slots: number of concurrent jobs of a new Ray.
        threads: CPU cores per job.
        gpus: GPUs per job.
        retries: retries of a job after its process or node died.

    Raises:
        RunError: if Ray is not installed or the cluster cannot be reached.
    """

    threads: int | None = 1

    def __init__(self, address: str | None, slots: int, threads: int, gpus: float, retries: int):
        if address is not None:
            _require_reachable(address)
        # read when ray is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # only this machine can reach it
        try:
            import ray
        except ImportError as e:
            raise RunError("ray is not installed; run: pip install 'snail-suite[ray]'") from e
        self._ray: Any = ray
        self.address = address
        self.slots = slots if address is None else None
        self._task = ray.remote(run_job).options(num_cpus=threads, num_gpus=gpus, max_retries=retries)
        self._cpus = slots * threads

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Yield each job with its outcome, in the order in which they end."""
        ray = self._ray
        self._connect()
        waiting: dict[Any, Job] = {}
        try:
            waiting = {self._task.remote(job): job for job in jobs}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(done)
                yield job, self._outcome(job, done)
        finally:
            for task in waiting:
                ray.cancel(task)
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=PATIENCE)
            ray.shutdown()

    def _connect(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "error"}
        own = {"num_cpus": self._cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        theirs = {
            "runtime_env": {"env_vars": {name: _absolute(os.environ[name]) for name in TOLD if name in os.environ}}
        }
        try:
            self._ray.init(address=self.address or "local", **quiet, **(theirs if self.address else own))
        except (ConnectionError, RuntimeError, ValueError) as e:
            where = f"the Ray cluster at {self.address}" if self.address else "a new Ray"
            reason = next(iter(str(e).splitlines()), type(e).__name__)
            raise RunError(f"cannot use {where} ({reason}); see `ray status`") from e

    def _outcome(self, job: Job, task: Any) -> Outcome:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as e:  # it died too often, or could not even start
            lines = [line.strip() for line in str(e).splitlines() if line.strip()]
            return failed(job, f"Ray gave it up: {lines[0] if lines else type(e).__name__}", str(e))


def _absolute(paths: str) -> str:
    """Absolute paths, separated as in $PATH."""
    return os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)


def _require_reachable(address: str) -> None:
    """Fail early: Ray itself tries for minutes. Addresses without a port, such as auto, are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise RunError(f"no answer from {address} ({reason}); give the address of a running Ray cluster") from e

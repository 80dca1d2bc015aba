"""Jobs on a Ray cluster, or on a Ray of our own on this machine. Ray is an extra, imported when it is used."""

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
"""Seconds that interrupted jobs have to save their checkpoints."""
TOLD = (VARIABLE, "SNAIL_DATA", "SNAIL_CACHE")
"""Environment variables that jobs take from the launcher: a cluster's workers inherit those of its nodes."""


class RayCluster:
    """Does jobs as Ray tasks.

    Each node needs this package, and at the same places as here the results folder, extensions, and what $SNAIL_DATA
    and $SNAIL_CACHE name, where they are set.

    Args:
        address: of a running cluster, such as ``ray://head:10001`` or ``auto``; None: start a Ray of our own here, for
            this machine alone, and stop it at the end.
        slots: how many jobs a Ray of our own does at a time.
        threads: CPU cores that each job asks for.
        gpus: GPUs that each job asks for.
        retries: how often a job is tried again after its process or its node died.

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
        """Each job with how it ended, in the order in which they end."""
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
            where = f"the Ray cluster at {self.address}" if self.address else "a Ray of our own"
            reason = next(iter(str(e).splitlines()), type(e).__name__)
            raise RunError(f"cannot use {where} ({reason}); `ray status` tells more") from e

    def _outcome(self, job: Job, task: Any) -> Outcome:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as e:  # it died once too often, or could not even begin
            lines = [line.strip() for line in str(e).splitlines() if line.strip()]
            return failed(job, f"Ray gave it up: {lines[0] if lines else type(e).__name__}", str(e))


def _absolute(paths: str) -> str:
    """Paths as in $PATH that hold in any working directory."""
    return os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)


def _require_reachable(address: str) -> None:
    """Ray itself tries for minutes. Addresses without a port, such as auto, it looks up at once."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        raise RunError(f"no answer from {address} ({reason}); give the address of a running Ray cluster") from e

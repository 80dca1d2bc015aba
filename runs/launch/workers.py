"""Executes jobs in persistent local worker processes.

Each worker has its own pipe, and workers share nothing: if one is killed, only its own job is affected. Pools with
a common queue lack this: `concurrent.futures` loses all jobs with a worker, `pebble` with an idle one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from tqdm import tqdm

from runs.launch.jobs import Job, Outcome, Outcomes, failed, run_job


class Workers:
    """Executes jobs in local processes.

    Args:
        slots: number of processes.
        retries: retries of a job after its process died.
    """

    threads: int | None = 1

    def __init__(self, slots: int, retries: int):
        self.slots: int | None = slots
        self._size, self._retries = slots, retries

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Yield each job with its outcome, in the order in which they end."""
        waiting = deque(jobs)
        deaths: Counter[str] = Counter()
        workers = [Worker(i) for i in range(min(self._size, len(jobs)))]
        try:
            for worker in workers:
                worker.begin(waiting.popleft())
            while busy := {worker.pipe: worker for worker in workers if worker.job is not None}:
                for pipe in wait(list(busy)):
                    worker = busy[pipe]  # type: ignore[index]
                    job, outcome = worker.end()
                    if outcome is None:
                        death = worker.death()
                        workers[worker.index] = worker = Worker(worker.index)
                        deaths[job.path] += 1
                        if deaths[job.path] <= self._retries:
                            print(f"retrying {job.path}: its process {death}", file=sys.stderr, flush=True)
                            waiting.appendleft(job)
                        else:
                            outcome = failed(job, f"its process {death}, at attempt {deaths[job.path]}")
                    if waiting:
                        worker.begin(waiting.popleft())
                    if outcome is not None:
                        yield job, outcome
        finally:
            _stop(workers)


class Worker:
    """A process that executes one job after the other."""

    def __init__(self, index: int):
        context = multiprocessing.get_context("spawn")  # forking a process with torch's threads may hang
        self.index = index
        self.job: Job | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, index), name=f"snail-worker-{index}", daemon=True)
        # Ctrl-C in a terminal reaches all processes started there, but the launcher decides. Signals
        # that are blocked when a process starts stay blocked from its first moment on.
        resource_tracker.ensure_running()  # otherwise started with the first process, whose signals it would unblock
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that the pipe closes when the process ends

    def begin(self, job: Job) -> None:
        """Send it a job."""
        self.job = job
        with contextlib.suppress(OSError):  # it died while idle, which its closed pipe will show
            self.pipe.send(job)

    def end(self) -> tuple[Job, Outcome | None]:
        """Its job and the outcome, once its pipe is ready; None if the process died."""
        assert self.job is not None
        job, self.job = self.job, None
        try:
            return job, self.pipe.recv()
        except (EOFError, OSError):
            return job, None

    def death(self) -> str:
        """How a process died, after its resources are released."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL: by a user, or out of memory)"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _stop(workers: Sequence[Worker]) -> None:
    """Stop the workers; those with a job save a checkpoint first, unless Ctrl-C is pressed again."""
    try:
        for worker in workers:
            if worker.job is not None:
                worker.process.terminate()
            worker.pipe.close()
        for worker in workers:
            worker.process.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise


def _work(pipe: Connection, index: int) -> None:
    """Main function of a worker: execute jobs until the pipe closes, or until SIGTERM, which saves a checkpoint."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is a system semaphore, which a killed worker would leave behind
    try:
        _take_gpu(index)
        while True:
            pipe.send(run_job(pipe.recv()))
    except (EOFError, OSError, KeyboardInterrupt):
        pass


def _stop_with_parent() -> None:
    """If the launcher has died, save a checkpoint and stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _take_gpu(index: int) -> None:
    """Distribute the workers over the GPUs, if there are any."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())

"""Locks between processes, by filelock.

A lock is a file beside what it protects. The kernel releases it when its holder ends in any way, so locks are
never stale.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PATIENCE = 0.5
"""Seconds to wait for a lock, since querying a lock's holder takes it for a moment."""
_ATTEMPTS = 100


class Held(Exception):
    """Another process holds the lock; the message names it, if known."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock ``path``; its file exists as long as it is held.

    Raises:
        Held: if another process, or another part of this one, holds it.
        OSError: if the file cannot be written.
    """
    taken = _acquire(path)
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: waiting processes find that the file is gone, and retry
        taken.release()


def holder(path: Path) -> str | None:
    """The holder of the lock ``path``, as "process 123 on node7" or "another process"; None if it is free."""
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0, is_singleton=False):
            return None
    except Timeout:
        return _read(path) or "another process"
    except OSError:  # the file is not readable
        return None


def _acquire(path: Path) -> FileLock:
    for _ in range(_ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = FileLock(path, timeout=_PATIENCE, poll_interval=0.01, is_singleton=False)
        try:
            taken.acquire()
            return taken
        except Timeout as e:
            raise Held(_read(path) or "another process") from e
        except FileNotFoundError:  # its last holder has just removed the empty folder
            continue
    raise Held("one process after another")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""

"""Locks between processes: taken, and asked about without being taken.

A lock is a file beside what it guards. The kernel releases it when its holder ends, however that ends, so that none is
ever stale. It holds between machines, too, where they share a file system that has locks.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# struct flock of Linux on 64 bits: type, whence, start, length and, to be zero here, the process
_FLOCK = "hhqqi0q"
_WHOLE_FILE = (os.SEEK_SET, 0, 0, 0)
_ATTEMPTS = 100


class Held(Exception):
    """Another process has the lock; the message says which, as far as it can be told."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` meanwhile; its file is there as long as it is held. Does not wait.

    Raises:
        Held: if another process, or another place in this one, holds it.
        OSError: if the file cannot be written.
    """
    file = _take(path)
    try:
        yield
    finally:
        with file:
            path.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Who holds the lock ``path``, as "process 123 on node7"; None if nobody. Stands in nobody's way.

    Of a lock whose holder cannot be read, "another process" is said.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            request = struct.pack(_FLOCK, fcntl.F_WRLCK, *_WHOLE_FILE)
            kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, request))
            return None if kind == fcntl.F_UNLCK else file.read(200).strip() or "another process"
    except OSError:  # no such file, or no such folder, or nothing that one may read
        return None


def _take(path: Path) -> IO[str]:
    for _ in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # not "w": what its holder wrote stays
        except FileNotFoundError:  # whoever had the lock has removed the empty folder just now
            continue
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, *_WHOLE_FILE))
            if _is_still_at(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        except (BlockingIOError, PermissionError) as e:
            file.close()
            raise Held(holder(path) or "another process") from e
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has removed it between our opening and locking it: a lock that nobody else sees
    raise Held("one process after another")


def _is_still_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

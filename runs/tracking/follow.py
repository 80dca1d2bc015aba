"""The process that mirrors a run: it reads what the run writes, and sends what its dashboard does not have yet.

Usage: python -m runs.tracking.follow DASHBOARD FOLDER RUN_ID, with a pipe as stdin: see `runs.tracking`. How far it
is, it keeps in the run's folder, in a file that it also holds locked meanwhile: a second one waits for the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO

from runs.tracking import TOLD
from runs.tracking.interface import Mirror, Run, Tail
from runs.tracking.trackio import TrackioMirror
from runs.tracking.wandb import WandbMirror

MIRRORS: dict[str, type[WandbMirror] | type[TrackioMirror]] = {"wandb": WandbMirror, "trackio": TrackioMirror}


@dataclass
class Position:
    """How far a dashboard has a run: its id there, the last step, and what was sent at the end."""

    id: str | None = None
    step: int = 0
    finished: str | None = None
    """When the record was made whose numbers it has."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Checksums of those that it has."""

    @staticmethod
    def path(folder: Path, name: str) -> Path:
        """Its file in a run's folder."""
        return folder / f"mirror-{name}.json"

    @classmethod
    def read(cls, file: IO[str]) -> Position:
        """The position in a file; none if that is empty or damaged: the dashboard knows best what it has."""
        try:
            found = json.load(file)
            return cls(**{f.name: found[f.name] for f in fields(cls)})
        except (ValueError, TypeError, KeyError):
            return cls()

    @classmethod
    def at(cls, path: Path) -> Position:
        """The position in the file at ``path``, if there is one."""
        if not path.exists():
            return cls()
        with open(path, encoding="utf-8") as file:
            return cls.read(file)

    @staticmethod
    def held(path: Path) -> bool:
        """Whether a process that mirrors holds the file."""
        if not path.exists():
            return False
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def write(self, file: IO[str]) -> None:
        """Replace what is in the file."""
        file.seek(0)
        file.write(json.dumps(asdict(self), indent=2) + "\n")
        file.truncate()
        file.flush()

    def lacks(self, run: Run) -> bool:
        """Whether the run has anything that the dashboard does not."""
        lines = Tail(run.folder / "metrics.jsonl").new()
        return bool((lines and lines[-1]["step"] > self.step) or self._end_of(run))

    def new_pictures(self, run: Run) -> dict[str, Path]:
        """Those that it does not have, by name."""
        return {name: path for name, path in run.pictures().items() if self.pictures.get(name) != _checksum(path)}

    def _end_of(self, run: Run) -> bool:
        record = run.record()
        return record is not None and bool(self.finished != record["finished"] or self.new_pictures(run))

    def end(self, mirror: Mirror, run: Run) -> None:
        """Send the final numbers and the pictures, if the run is finished and they are new."""
        if (record := run.record()) is None or not self._end_of(run):
            return
        pictures = self.new_pictures(run)
        mirror.end(self.step, record, pictures)
        self.finished = record["finished"]
        self.pictures |= {name: _checksum(path) for name, path in pictures.items()}


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[IO[str]]:
    """The file of a position, once no other process has it."""
    descriptor = os.open(Position.path(folder, name), os.O_RDWR | os.O_CREAT, 0o644)
    with open(descriptor, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def follow(name: str, folder: Path, run_id: str) -> None:
    """Mirror the run until stdin ends, and then its end."""
    run = Run.read(folder)
    with locked(folder, name) as file:
        position = Position.read(file)
        mirror: Mirror = MIRRORS[name](run, position.id or run_id, resumed=position.id is not None)
        position.id = mirror.id
        position.write(file)
        position.step = max(position.step, mirror.last_step)
        lines = Tail(folder / "metrics.jsonl")
        running = True
        while running:
            running = os.read(sys.stdin.fileno(), 1 << 16) != b""
            for line in lines.new():
                step = line.pop("step")
                if step > position.step:
                    mirror.log(step, line)
                    position.step = step
        position.end(mirror, run)
        mirror.close(position.step)
        position.write(file)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Follow; a dashboard's own chatter is silenced, and what goes wrong is one warning line."""
    name, folder, run_id = sys.argv[1:]
    os.nice(5)  # what the run needs comes first
    with open(os.dup(2), "w") as stderr, open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
        try:
            follow(name, Path(folder), run_id)
        except Exception as e:
            why = " ".join(f"{type(e).__name__}: {e}".split())
            print(
                f"warning: {name} stopped mirroring {folder} ({why}); its metrics.jsonl is complete, and "
                "`snail track push` sends the rest",
                file=stderr,
                flush=True,
            )
            sys.exit(TOLD)


if __name__ == "__main__":
    main()

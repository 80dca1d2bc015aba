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
    """How far a destination has a run: its id there, the last step, and what was sent at the end."""

    id: str | None = None
    step: int = 0
    finished: str | None = None
    """When the record was made whose numbers it has."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Checksums of those that it has."""

    @classmethod
    def of(cls, name: str, run: Run) -> Position:
        """That of where the dashboard ``name`` would send the run now."""
        try:
            with open(mirror_file(run.folder, name), encoding="utf-8") as file:
                return Positions(name, run, file).here or cls()
        except FileNotFoundError:
            return cls()

    def lacks(self, run: Run) -> bool:
        """Whether the run has anything that the destination does not."""
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


class Positions:
    """How far a dashboard has a run at each of its destinations: what is in the file of that.

    A damaged or empty file has none: the dashboard knows best what it has. One of an older version holds a single
    position, and not whose.
    """

    def __init__(self, name: str, run: Run, file: IO[str]):
        self.destination = MIRRORS[name].destination(run)
        self._file = file
        try:
            found = json.load(file)
            if "id" in found:
                found = {MIRRORS[name].of_old or self.destination: found}
            wanted = [f.name for f in fields(Position)]
            self._all = {where: Position(**{key: p[key] for key in wanted}) for where, p in found.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            self._all = {}

    @property
    def here(self) -> Position | None:
        """That of where the run would be sent now; None if nothing was ever sent there."""
        return self._all.get(self.destination)

    @property
    def id(self) -> str | None:
        """Of the run at any destination: what was kept offline may be brought to a server by other ways, too."""
        return next((p.id for p in self._all.values() if p.id), None)

    def write(self, position: Position) -> None:
        """Replace that of where the run is sent now."""
        self._all[self.destination] = position
        self._file.seek(0)
        self._file.write(json.dumps({where: asdict(p) for where, p in self._all.items()}, indent=2) + "\n")
        self._file.truncate()
        self._file.flush()


def mirror_file(folder: Path, name: str) -> Path:
    """The file of a dashboard's positions in a run's folder."""
    return folder / f"mirror-{name}.json"


def held(folder: Path, name: str) -> bool:
    """Whether a process that mirrors holds the file of the positions."""
    path = mirror_file(folder, name)
    if not path.exists():
        return False
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def locked(name: str, run: Run) -> Iterator[Positions]:
    """The positions of a run, once no other process has them."""
    descriptor = os.open(mirror_file(run.folder, name), os.O_RDWR | os.O_CREAT, 0o644)
    with open(descriptor, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Positions(name, run, file)


def forget(name: str, run: Run) -> None:
    """Have the run sent anew, under another id, to where it would go now."""
    with locked(name, run) as positions:
        positions.write(Position())


def follow(name: str, folder: Path, run_id: str) -> None:
    """Mirror the run until stdin ends, and then its end."""
    run = Run.read(folder)
    with locked(name, run) as positions:
        if (position := positions.here) is None:
            position, run_id = Position(), positions.id or run_id
        mirror: Mirror = MIRRORS[name](run, position.id or run_id, resumed=position.id is not None)
        position.id = mirror.id
        positions.write(position)
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
        positions.write(position)


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

"""The process that mirrors a run to a tracker: it replays ``metrics.jsonl`` as the run writes it.

Usage: python -m runs.tracking.follow DASHBOARD FOLDER RUN_ID LABELS, with a pipe as stdin: see `runs.tracking`. What
each destination has is recorded in the run's folder; a second process for the same tracker waits for the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runs.results.metrics import UPDATE
from runs.results.stored import logged_step
from runs.system.locks import Held, holder, lock
from runs.tracking import FAILED
from runs.tracking.dashboards import DASHBOARDS, Position, Run
from runs.tracking.labels import Labels


class Positions:
    """Positions of a tracker by destination; empty if the file is damaged."""

    def __init__(self, name: str, run: Run):
        self._path, self.destination = mirror_file(run.folder, name), DASHBOARDS[name].destination(run)
        try:
            self._all = {where: Position(**found) for where, found in json.loads(self._path.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._all = {}
        self.here = self._all.get(self.destination, Position())
        self.id = next((p.id for p in self._all.values() if p.id), None)

    def write(self) -> None:
        """Replace the file."""
        self._all[self.destination] = self.here
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps({where: asdict(p) for where, p in self._all.items()}, indent=2) + "\n")
        os.replace(temporary, self._path)


def mirror_file(folder: Path, name: str) -> Path:
    """The file with the positions of a tracker."""
    return folder / f"mirror-{name}.json"


def held(folder: Path, name: str) -> bool:
    """Whether a process is sending the run to the tracker."""
    return holder(mirror_file(folder, name).with_suffix(".lock")) is not None


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of the run and tracker, after waiting for other processes."""
    while True:
        with suppress(Held), lock(mirror_file(folder, name).with_suffix(".lock")):
            yield
            return
        time.sleep(0.1)


def metrics(run: Run) -> list[dict[str, Any]]:
    """The complete lines of ``metrics.jsonl``."""
    lines = []
    with suppress(OSError):
        for line in (run.folder / "metrics.jsonl").read_bytes().splitlines():
            with suppress(ValueError):  # still being written, or damaged
                lines.append(logged_step(line))
    return lines


def final_numbers(record: dict[str, Any]) -> dict[str, float]:
    """The measured numbers of a record, each with the half-width of its interval and its sample size."""
    found: dict[str, float] = {}
    for r in record["results"]:
        name = f"test/{r['metric']}" + (f"_{r['shots']}shot" if r.get("shots") else "")
        found |= {name: r["mean"], f"{name}_ci95": r["ci95"], f"{name}_n": r["n"]}
    return found


def missing_end(run: Run, position: Position) -> tuple[dict[str, Any], dict[str, Path]] | None:
    """The record and the new pictures of a finished run, if the destination lacks any of it."""
    if (record := run.record()) is None:
        return None
    pictures = {name: path for name, path in run.pictures().items() if position.pictures.get(name) != _checksum(path)}
    return (record, pictures) if pictures or position.finished != record["finished"] else None


def lacks(name: str, run: Run) -> bool:
    """Whether the run has anything that the tracker lacks."""
    position, lines = Positions(name, run).here, metrics(run)
    return position.open or bool(lines and lines[-1][UPDATE] > position.step) or missing_end(run, position) is not None


def follow(name: str, folder: Path, run_id: str, labels: Labels) -> None:
    """Send the run until stdin ends, then its results."""
    run = Run.read(folder, labels)
    with locked(folder, name):
        positions = Positions(name, run)
        position = positions.here
        dashboard = DASHBOARDS[name](run, position.id or positions.id or run_id, position)
        position.id, position.open = dashboard.id, True
        positions.write()
        step, running = position.step, True
        while running:
            running = os.read(sys.stdin.fileno(), 1 << 16) != b""
            for line in metrics(run):
                if line[UPDATE] > step:
                    step = line[UPDATE]
                    dashboard.log(step, line)
        if (end := missing_end(run, position)) is not None:
            record, pictures = end
            dashboard.end(step, final_numbers(record), pictures)
            position.finished = record["finished"]
            position.pictures |= {name: _checksum(path) for name, path in pictures.items()}
        dashboard.close(position)
        position.step, position.open = step, False
        positions.write()


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Follow the run; the tracker's own output is silenced, and an error is one warning line."""
    name, folder, run_id, labels = sys.argv[1:]
    os.nice(5)  # lower priority than the run
    with open(os.dup(2), "w") as stderr, open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
        try:
            follow(name, Path(folder), run_id, Labels.from_json(labels))
        except Exception as e:
            why = " ".join(f"{type(e).__name__}: {e}".split())
            print(
                f"warning: {name} stopped mirroring {folder} ({why}); its metrics.jsonl is complete, and "
                "`snail track push` sends the rest",
                file=stderr,
                flush=True,
            )
            sys.exit(FAILED)


if __name__ == "__main__":
    main()

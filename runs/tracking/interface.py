"""What a dashboard has to offer to mirror runs, and what it is told of a run: plain files, read without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from runs.results.stored import logged_step, read_json, read_record

PROJECT = "snail"
"""Under which all runs are found in a dashboard."""


@dataclass(frozen=True)
class Run:
    """A run's folder as a mirror sees it."""

    folder: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            FileNotFoundError, RunError: if it has no readable ``config.json``.
        """
        return cls(folder.resolve(), read_json(folder / "config.json"))

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"{self.config['experiment']}/{self.config['agent']}/{self.folder.name}"

    @property
    def results(self) -> Path:
        """The folder of all results, where this run's is in its place there; else the one around it."""
        place = Path(self.name)
        parts = len(place.parts)
        return self.folder.parents[parts - 1] if self.folder.parts[-parts:] == place.parts else self.folder.parent

    def record(self) -> dict[str, Any] | None:
        """The record, if the run is finished."""
        try:
            return read_record(self.folder / "result.json")
        except FileNotFoundError:
            return None

    def pictures(self) -> dict[str, Path]:
        """The pictures that lie in the folder, by name."""
        found = [self.folder / "curve.png", *sorted((self.folder / "attention").glob("*.png"))]
        return {path.relative_to(self.folder).with_suffix("").as_posix(): path for path in found if path.exists()}


def final_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The measured numbers of a record, each with the half-width of its interval and its sample size."""
    found: dict[str, float] = {}
    for r in record["results"]:
        name = f"test/{r['metric']}" + (f"_{r['shots']}shot" if r.get("shots") else "")
        found |= {name: r["mean"], f"{name}_ci95": r["ci95"], f"{name}_n": r["n"]}
    return found


class Mirror(Protocol):
    """One run in a dashboard."""

    of_old: ClassVar[str | None]
    """Where it went before destinations were recorded; None: to where it would go now."""
    id: str
    """Under which the dashboard knows it."""
    last_step: int
    """The last step that it has of the run already; 0: none."""

    @staticmethod
    def destination(run: Run) -> str:
        """Which of the places it goes to that the dashboard can have: what one has of a run, another may lack."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics; steps only grow."""

    def end(self, step: int, record: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """The final numbers of a finished run, and pictures of it by name."""

    def close(self, step: int) -> None:
        """Wait until all up to ``step`` is kept.

        Raises:
            Exception: if it is not.
        """


class Tail:
    """The lines of a file that another process appends to, and now and then replaces."""

    def __init__(self, path: Path):
        self._path = path
        self._inode, self._read = -1, 0

    def new(self) -> list[dict[str, Any]]:
        """The whole lines since last time; all of them if the file was replaced. Damaged ones are left out."""
        try:
            with open(self._path, "rb") as file:
                if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                    self._inode, self._read = inode, 0
                file.seek(self._read)
                data = file.read()
        except OSError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        return [found for line in data.splitlines() if (found := _line(line)) is not None]


def _line(line: bytes) -> dict[str, Any] | None:
    try:
        return logged_step(line)
    except ValueError:
        return None

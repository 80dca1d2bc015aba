"""trackio: a dashboard on this machine alone, with a database in the folder of all results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from runs.tracking.interface import PROJECT, Run, final_numbers

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")


def trackio_dir(results: Path) -> Path:
    """Where the database is: the user's TRACKIO_DIR, or ``trackio`` in the folder of all results."""
    return Path(os.environ.get("TRACKIO_DIR") or results / "trackio")


def keep_at_home(folder: Path) -> None:
    """Let trackio use the database in the folder, and no network; to be called before it is imported."""
    os.environ["TRACKIO_DIR"] = str(folder.resolve())
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # it asks who is logged in
    for name in _REMOTE:
        os.environ.pop(name, None)


class TrackioMirror:
    """A run in the local database: experiments are groups. No server is started and no network used.

    The process that it is made in can have it for one folder of results alone: trackio decides on its database when it
    is imported.
    """

    of_old: ClassVar[str | None] = None

    @staticmethod
    def destination(run: Run) -> str:
        """The folder of the database; below that of all results it is named from there, as both may be moved."""
        where, results = trackio_dir(run.results).resolve(), run.results.resolve()
        return where.relative_to(results).as_posix() if where.is_relative_to(results) else str(where)

    def __init__(self, run: Run, run_id: str, resumed: bool):
        keep_at_home(trackio_dir(run.results))
        import trackio
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import get_storage_mode

        self._trackio, self._storage = trackio, SQLiteStorage
        self._name = run.name
        self._run = trackio.init(
            project=PROJECT,
            name=run.name,
            group=run.config["experiment"],
            config=run.config,
            resume="allow" if resumed else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self.id = self._run.id
        self._checked = get_storage_mode() == "sqlite"  # on a network's file system it is left to be imported later
        self.last_step = self._kept()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        self._run.log(dict(values), step=step)

    def end(self, step: int, record: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """The final numbers and pictures belong to the last step."""
        shown = {name: self._trackio.Image(str(path)) for name, path in pictures.items()}
        self._run.log({**final_numbers(record), **shown}, step=step)

    def close(self, step: int) -> None:
        """Wait until all is kept, and look whether it is: trackio only warns."""
        self._run.finish()
        if self._checked and (kept := self._kept()) < step:
            raise RuntimeError(f"it has kept {kept} of {step} steps")

    def _kept(self) -> int:
        return self._storage.get_max_step_for_run(PROJECT, self._name, run_id=self.id) or 0

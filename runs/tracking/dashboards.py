"""wandb, trackio and TensorBoard through their public interfaces. Runs are read from plain files, without torch."""

from __future__ import annotations

import netrc
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runs.config.serialization import flat
from runs.results.metrics import UPDATE, unit_of
from runs.results.stored import read_json, read_record
from runs.tracking.labels import PROJECT, Labels

OFFLINE = "offline"
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")


@dataclass(frozen=True)
class Run:
    """A run's folder, as read for a tracker."""

    folder: Path
    config: dict[str, Any]
    labels: Labels = field(default_factory=Labels)

    @classmethod
    def read(cls, folder: Path, labels: Labels | None = None) -> Run:
        """The run in a folder, with labels; None: those that it was trained with.

        Raises:
            FileNotFoundError, RunError: if it has no readable ``config.json``.
        """
        return cls(folder.resolve(), read_json(folder / "config.json"), labels or Labels.of_run(folder))

    @property
    def name(self) -> str:
        """EXPERIMENT/AGENT/FOLDER."""
        return f"{self.config['experiment']}/{self.config['agent']}/{self.folder.name}"

    @property
    def group(self) -> str:
        """The group of its seeds: its name without the seed."""
        return self.labels.group or re.sub(r"-seed\d+", "", self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration with flat names such as ``training.learning_rate``."""
        return flat(self.config)

    @property
    def results(self) -> Path:
        """The results folder of the run; for a run elsewhere, the parent folder."""
        parts = Path(self.name).parts
        return self.folder.parents[len(parts) - 1 if self.folder.parts[-len(parts) :] == parts else 0]

    def record(self) -> dict[str, Any] | None:
        """The record, if the run is finished."""
        try:
            return read_record(self.folder / "result.json")
        except FileNotFoundError:
            return None

    def pictures(self) -> dict[str, Path]:
        """The pictures in the folder, by name."""
        found = [self.folder / "curve.png", *sorted((self.folder / "attention").glob("*.png"))]
        return {path.relative_to(self.folder).with_suffix("").as_posix(): path for path in found if path.exists()}


@dataclass
class Position:
    """The part of a run that a tracker has at one destination.

    id: the run's id there.
    step: the last step that is confirmed.
    finished: the date of the record that it has.
    pictures: checksums of its pictures, by name.
    sessions: wandb's confirmed offline folders; None: not recorded.
    open: whether it is being sent, or was when its sender was killed: data after ``step`` may be incomplete.
    """

    id: str | None = None
    step: int = 0
    finished: str | None = None
    pictures: dict[str, str] = field(default_factory=dict)
    sessions: list[str] | None = None
    open: bool = False


class Dashboard(Protocol):
    """A run that is open for logging in a tracker; incomplete data of a killed sender is removed first."""

    id: str

    def __init__(self, run: Run, run_id: str, position: Position):
        """Open the run; ``position`` is updated from the tracker itself."""

    @staticmethod
    def destination(run: Run) -> str:
        """The destination in use; each has its own position."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log one line of metrics; steps are increasing."""

    def end(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Log the results of a finished run, and its pictures."""

    def close(self, position: Position) -> None:
        """Wait until everything is stored.

        Raises:
            Exception: if it is not.
        """


def wandb_mode() -> Any:
    """The user's WANDB_MODE; otherwise online if an API key is set, else offline."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        host = _server().split("://")[-1].split("/")[0]
        return "online" if netrc.netrc().authenticators(host) else OFFLINE
    except (OSError, netrc.NetrcParseError):
        return OFFLINE


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


class Wandb:
    """A run in wandb: the seeds of a configuration are a group, the agent is the job type."""

    def __init__(self, run: Run, run_id: str, position: Position):
        import wandb

        self.id, self._wandb, self._folder = run_id, wandb, run.folder / "wandb"
        self._offline = wandb_mode() in (OFFLINE, "dryrun")
        if self._offline:
            if position.sessions is None:  # from before sessions were recorded
                position.sessions = self._sessions()
            for name in set(self._sessions()) - set(position.sessions):  # left by a killed sender
                shutil.rmtree(self._folder / name)
        self._run = wandb.init(
            project=run.labels.project,
            entity=run.labels.entity or None,
            group=run.group,
            job_type=run.config["agent"],
            name=run.labels.name or run.name,
            tags=list(run.labels.tags) or None,
            notes=run.labels.notes or None,
            id=run_id,
            config=run.settings,
            dir=run.folder,
            mode=wandb_mode(),
            resume="allow",
            settings=wandb.Settings(init_timeout=20, console="off", silent=True),
        )
        self._axis: str | None = None
        if not self._offline:
            position.step = max(position.step, self._run.starting_step - 1)

    @staticmethod
    def destination(run: Run) -> str:
        """The server, or ``offline``, and the project if it is not the default."""
        project = "/".join(filter(None, (run.labels.entity, run.labels.project)))
        where = OFFLINE if wandb_mode() in (OFFLINE, "dryrun") else _server()
        return where if project == PROJECT else f"{where} {project}"

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log a line; the first defines the step axes."""
        if self._axis is None:
            self._axis = unit_of(values) or UPDATE
            for axis in {UPDATE, self._axis}:
                self._run.define_metric(axis, hidden=True)
            for family in ("train", "validation", "time", "diagnostics"):
                self._run.define_metric(f"{family}/*", step_metric=self._axis)
        self._run.log(dict(values), step=step)

    def end(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Log results to the summary, pictures to the last step."""
        self._run.summary.update(dict(numbers))
        if pictures:
            shown = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
            self._run.log(shown, step=max(step, self._run.starting_step))

    def close(self, position: Position) -> None:
        """Finish."""
        self._run.finish()
        self._wandb.teardown()  # offline, the files are complete only after this
        if self._offline:
            position.sessions = self._sessions()

    def _sessions(self) -> list[str]:
        return sorted(path.name for path in self._folder.glob(f"offline-run-*-{self.id}"))


def trackio_dir(results: Path) -> Path:
    """The folder of the database: the user's TRACKIO_DIR, or ``trackio`` in the results folder."""
    return Path(os.environ.get("TRACKIO_DIR") or results / "trackio")


def keep_at_home(folder: Path) -> None:
    """Set trackio's database to the folder, without network; to be called before it is imported."""
    os.environ["TRACKIO_DIR"] = str(folder.resolve())
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # it queries the logged-in user
    for name in _REMOTE:
        os.environ.pop(name, None)


class Trackio:
    """A run in trackio's database on this machine. No server is started."""

    def __init__(self, run: Run, run_id: str, position: Position):
        keep_at_home(trackio_dir(run.results))
        import trackio

        self._trackio, self._project = trackio, run.labels.project
        if position.open and (found := self._find(position.id)):  # left by a killed sender
            found.delete()
            vars(position).update(vars(Position()))
        self._run = trackio.init(
            project=self._project,
            name=run.labels.name or run.name,
            group=run.group,
            config=run.settings,
            resume="allow" if position.id else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self.id = self._run.id

    @staticmethod
    def destination(run: Run) -> str:
        """The folder of the database, relative to the results folder if it is inside, since both may be moved."""
        where, results = trackio_dir(run.results).resolve(), run.results.resolve()
        folder = where.relative_to(results).as_posix() if where.is_relative_to(results) else str(where)
        return folder if run.labels.project == PROJECT else f"{folder} {run.labels.project}"

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log a line."""
        self._run.log(dict(values), step=step)

    def end(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Log results and pictures to the last step."""
        self._run.log({**numbers, **{n: self._trackio.Image(str(p)) for n, p in pictures.items()}}, step=step)

    def close(self, position: Position) -> None:
        """Finish, and check: trackio only warns if nothing could be written."""
        self._run.finish()
        if self._find(self.id) is None:
            raise RuntimeError("the run is not in its database")

    def _find(self, run_id: str | None) -> Any:
        try:
            return next((r for r in self._trackio.Api().runs(self._project) if r.id == run_id), None)
        except ValueError:  # no database yet
            return None


class TensorBoard:
    """A run as event files in its folder's ``tensorboard``: ``tensorboard --logdir results`` shows all."""

    def __init__(self, run: Run, run_id: str, position: Position):
        from torch.utils.tensorboard import SummaryWriter

        self.id = run_id
        # TensorBoard hides what a killed sender left after this step
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=position.step + 1)
        if not position.step:
            rows = "\n".join(f"| {name} | {value} |" for name, value in run.settings.items())
            self._writer.add_text("config", f"| setting | value |\n| --- | --- |\n{rows}", 0)

    @staticmethod
    def destination(run: Run) -> str:
        """The folder of the event files."""
        return "tensorboard"

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log a line."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Log results and pictures to the last step."""
        import numpy as np
        from PIL import Image

        self.log(step, numbers)
        for name, path in pictures.items():
            with Image.open(path, formats=["PNG"]) as image:
                self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, position: Position) -> None:
        """Write everything."""
        self._writer.close()


DASHBOARDS: dict[str, type[Wandb] | type[Trackio] | type[TensorBoard]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": TensorBoard,
}

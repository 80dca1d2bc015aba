"""Weights & Biases: offline, unless the user has logged in or set WANDB_MODE."""

from __future__ import annotations

import importlib
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from runs.tracking.interface import PROJECT, Run, final_numbers

INIT_TIMEOUT = 20.0
OFFLINE = "offline"


def wandb_mode() -> Any:
    """The user's WANDB_MODE; else online where there is a key, and offline where there is none."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    import netrc

    try:
        host = _server().split("://")[-1].split("/")[0]
        return "online" if netrc.netrc().authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def _server() -> str:
    """The address of the user's server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


class WandbMirror:
    """A run in wandb: experiments are groups, agents are job types, and steps are the run's own."""

    of_old: ClassVar[str | None] = OFFLINE

    @staticmethod
    def destination(run: Run) -> str:
        """The server that it goes to, or ``offline``."""
        return OFFLINE if wandb_mode() in ("offline", "dryrun") else _server()

    def __init__(self, run: Run, run_id: str, resumed: bool):
        import wandb

        self.id = run_id
        self._folder = run.folder / "wandb"
        self._wandb = wandb
        self._offline = self.destination(run) == OFFLINE
        self._run = wandb.init(
            project=PROJECT,
            group=run.config["experiment"],
            job_type=run.config["agent"],
            name=run.name,
            id=run_id,
            config=run.config,
            dir=run.folder,
            mode=wandb_mode(),
            resume="allow",
            settings=wandb.Settings(init_timeout=INIT_TIMEOUT, console="off", silent=True),
        )
        # what a server has it tells alone; what was kept offline is in files, also after a kill
        self.last_step = self._kept() if self._offline else max(0, self._run.starting_step - 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        self._run.log(dict(values), step=step)

    def end(self, step: int, record: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """The final numbers go into the summary, pictures to the last step."""
        self._run.summary.update(final_numbers(record))
        if pictures:
            shown = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
            self._run.log(shown, step=max(step, self._run.starting_step))

    def close(self, step: int) -> None:
        """Wait until all is kept, and look whether it is."""
        self._run.finish()
        self._wandb.teardown()  # offline, what is kept is whole only after that
        if self._offline and (kept := self._kept()) < step:
            raise RuntimeError(f"it has kept {kept} of {step} steps")

    def _kept(self) -> int:
        """The last step in the files that wandb keeps of this run offline."""
        files = self._folder.glob(f"offline-run-*-{self.id}/run-{self.id}.wandb")
        steps = (r.history.step.num for path in files for r in records(path) if r.HasField("history"))
        return max(steps, default=0)


def records(path: Path) -> Iterator[Any]:
    """What wandb has written into a ``.wandb`` file, as its own messages; up to where a kill has cut it short.

    The file is a log as LevelDB's: blocks of 32 KiB of chunks, each with checksum, length and kind before it. Kinds
    are 1 for a whole message, and 2, 3 and 4 for its first, middle and last part.
    """
    from google.protobuf.message import DecodeError

    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, message = path.read_bytes(), _FILE_HEADER, b""
    while place + _CHUNK_HEADER <= len(data):
        if (left := _BLOCK - place % _BLOCK) < _CHUNK_HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += _CHUNK_HEADER + length
        if kind not in (1, 2, 3, 4) or place > len(data):
            return
        message += data[place - length : place]
        if kind in (1, 4):
            try:
                yield messages.Record.FromString(message)
            except DecodeError:
                return
            message = b""


_FILE_HEADER, _CHUNK_HEADER, _BLOCK = 7, 7, 1 << 15

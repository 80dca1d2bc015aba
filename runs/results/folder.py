"""A run's folder: its configuration, its metrics, its checkpoint and, once it is finished, its record.

config.json     all settings that determine the run's numbers
metrics.jsonl   one line per logged step, about a thousand; trackers mirror it
checkpoint.pt   weights, optimiser and random states, for an exact continuation; configuration inside
previous.pt     the checkpoint before that, until the run is finished, in case that one is damaged
result.json     the record of a finished run
failed.json     why the last attempt failed, until the next one starts
weights.safetensors  published runs only: the weights that were tested
samples.npz     results of all test tasks, in order: float32 arrays, for paired comparisons
mirror-X.json   how much the tracker X has at each destination, and its id there; wandb/ has wandb's offline files
curve.png       its learning curve, for trackers; attention/ has its attention maps, also by `snail attention`
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from envs.fewshot.datasets.storage import atomic_writer
from runs.algorithms.learner import Measurement
from runs.catalogue import RunConfig, as_catalogued
from runs.config.serialization import from_dict, to_dict, to_json
from runs.results.metrics import UPDATE
from runs.results.records import PUBLISHED, SAMPLES
from runs.results.stored import RESTORE, Damaged, logged_step, read_json, read_record, sealed, unsealed, with_digest
from runs.results.weights import sha256, unpack
from runs.system.errors import RunError, Taken
from runs.system.locks import Held, holder, lock

RESULTS = Path("results")
"""The default results folder."""
FEATURES = "features."
"""What the names of an embedding's weights begin with, in agents that read it but do not train it."""
_RUN_FILES = {"config.json", "result.json"}
_EARLY_FILES = _RUN_FILES | {"failed.json", ".lock"}


def run_path(results: Path, config: RunConfig) -> Path:
    """The folder of a run. If its settings are not the catalogue's, the name has their hash."""
    name = f"{config.budget}-seed{config.seed}"
    if not as_catalogued(config):
        name += "-" + hashlib.sha256(to_json(config).encode()).hexdigest()[:8]
    return results / config.experiment / config.agent / name


def find_runs(top: Path, *, early: bool = False) -> Iterator[Path]:
    """The folders of runs at or below ``top``, sorted; run folders are not searched further.

    A run has a configuration or a record. ``early``: include runs that are just starting, or failed before they
    had either.
    """
    marks = _EARLY_FILES if early else _RUN_FILES
    for place, inside, files in os.walk(top):
        if not marks.isdisjoint(files):
            inside.clear()
            yield Path(place)
        inside.sort()


def find_trained(run: str | Path, below: Iterable[Path]) -> RunFolder:
    """A run with weights: a run's folder, or EXPERIMENT/AGENT in one of these folders, preferably full with seed 0.

    Raises:
        RunError: if there is none.
    """
    if (Path(run) / "config.json").exists():
        return RunFolder(Path(run))
    places = [place for place in (Path(run), *(folder / run for folder in below)) if run and place.is_dir()]
    found = [RunFolder(path) for place in places for path in find_runs(place)]
    if not found:
        RunFolder(Path(run)).config()  # raises an error that says what it is instead
    able = [f for f in found if f.weights_path.exists() or f.checkpoint_path.exists()]
    if not able:
        raise RunError(f"{run} has no weights; train it: snail train EXPERIMENT --agent AGENT")
    return next((f for f in able if f.path.name == "full-seed0"), able[0])


def published_embedding(source: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of an embedding that many agents read, and which is published once.

    Args:
        source: what the record of one of these agents says of its embedding.

    Raises:
        RunError: if it is not published, or another one is.
    """
    folder = RunFolder(PUBLISHED / source["run"])
    if not folder.weights_path.exists():
        raise RunError(f"{folder.path} has no weights, and the embedding of this run is among them")
    weights = folder.tested_weights(folder.config())
    if sha256(weights) != source["weights_sha256"]:
        raise RunError(f"{folder.path} has been trained again, so the embedding of this run is lost")
    prefix = "embedding."
    return {FEATURES + n.removeprefix(prefix): x for n, x in weights.items() if n.startswith(prefix)}


class RunFolder:
    """Reads and writes one run. Files are written atomically; a finished record is never replaced unless requested."""

    def __init__(self, path: Path):
        self.path = path
        self.config_path = path / "config.json"
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoint_path = path / "checkpoint.pt"
        self.previous_path = path / "previous.pt"
        self.result_path = path / "result.json"
        self.weights_path = path / "weights.safetensors"
        self.samples_path = path / SAMPLES
        self.curve_path = path / "curve.png"
        self.attention_path = path / "attention"
        self.failure_path = path / "failed.json"
        self.lock_path = path / ".lock"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock against other processes that train into this folder.

        Raises:
            Taken: if another process holds it.
        """
        try:
            with ExitStack() as held:
                try:
                    held.enter_context(lock(self.lock_path))
                except Held as e:
                    message = f"another process is training into {self.path} ({e}); wait for it, or stop it"
                    raise Taken(message) from e
                except OSError as e:
                    raise _unwritable(self.path, e) from e
                yield
        finally:
            self._remove_if_empty()

    def holder(self) -> str | None:
        """The process that is training into this folder, as "process 123 on node7"; None if there is none."""
        return holder(self.lock_path)

    def finished(self, config: RunConfig, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """The record if the run is finished; None if there is training to do. Changes nothing.

        Raises:
            RunError: if the folder holds another run, or holds this run and neither ``resume`` nor ``overwrite`` is
                set.
        """
        if overwrite:
            return None
        if self.config_path.exists() and self.config() != config:
            raise RunError(
                f"{self.path} holds a run with another configuration ({_difference(self.config(), config)}); "
                "choose another --results, or --overwrite"
            )
        if self.result_path.exists() and not resume:
            raise RunError(
                f"{self.path} holds a finished run; test it again with `snail evaluate {self.path}`, "
                "or start over with --overwrite"
            )
        if self.checkpoint_path.exists() and not resume:
            raise RunError(
                f"{self.path} holds an unfinished run; continue with --resume, or start over with --overwrite"
            )
        return self.result()

    def claim(self, config: RunConfig, *, overwrite: bool) -> None:
        """Prepare the folder for a run with this configuration; with ``overwrite``, delete its contents."""
        try:
            if overwrite:
                self._clear()
            self.failure_path.unlink(missing_ok=True)
            for left in self.path.rglob(".*.part"):  # left by a run that was killed while writing a file
                left.unlink(missing_ok=True)
        except OSError as e:
            raise _unwritable(self.path, e) from e
        write_json(self.config_path, to_dict(config))

    def config(self) -> RunConfig:
        """The configuration of the run.

        Raises:
            RunError: if it is missing or damaged.
        """
        return from_dict(RunConfig, self.plain_config(), str(self.config_path))

    def plain_config(self) -> dict[str, Any]:
        """The configuration as in its file, from any version of this program.

        Raises:
            RunError: if it is missing or damaged.
        """
        if self.path.is_file():
            advice = f", {self.path.parent}" if (self.path.parent / "config.json").exists() else ""
            raise RunError(f"{self.path} is a file; give the folder of a run{advice}")
        if not self.config_path.exists() and self.result_path.exists():  # a published run
            return read_record(self.result_path)["config"]
        try:
            return read_json(self.config_path)
        except FileNotFoundError as e:
            raise RunError(f"there is no config.json in {self.path}; is it the folder of a run?") from e

    def result(self) -> dict[str, Any] | None:
        """The record of the finished run, or None."""
        return read_record(self.result_path) if self.result_path.exists() else None

    def write_result(self, record: dict[str, Any]) -> None:
        """Finish the run."""
        write_json(self.result_path, record)
        with suppress(OSError):
            self.previous_path.unlink(missing_ok=True)

    def write_samples(self, results: Iterable[Measurement]) -> None:
        """Write the samples behind the measured numbers."""
        arrays = {m.name: m.samples.numpy().astype(np.float32) for m in results if m.samples is not None}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        with writing(self.samples_path) as file:
            file.write(sealed(buffer.getvalue()))

    def write_failure(self, reason: str, traceback: str) -> None:
        """Record why an attempt failed; the next one removes it."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.failure_path, {"reason": reason, "traceback": traceback, "time": when})

    def failure(self) -> dict[str, Any] | None:
        """``reason``, ``traceback`` and ``time`` of the last attempt's failure; None if it has not failed."""
        if not self.failure_path.exists():
            return None
        failure = read_json(self.failure_path)
        try:
            datetime.fromisoformat(failure["time"])
            return {key: str(failure[key]) for key in ("reason", "traceback", "time")}
        except (KeyError, TypeError, ValueError) as e:
            raise Damaged(self.failure_path, f"no failure: {e}") from e

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Log one step."""
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as e:
            raise _unwritable(self.metrics_path, e) from e

    def metrics(self) -> list[dict[str, Any]]:
        """All logged steps. A last line that was truncated by a crash is ignored."""
        if not self.metrics_path.exists():
            return []
        try:
            lines = self.metrics_path.read_bytes().removesuffix(b"\n").split(b"\n")
        except OSError as e:
            raise Damaged(self.metrics_path, e.strerror or str(e)) from e
        found = []
        for number, line in enumerate(lines, 1):
            try:
                found.append(logged_step(line))
            except ValueError as e:
                if number < len(lines):
                    raise Damaged(self.metrics_path, f"line {number}: {e}", "remove that line") from e
        return found

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines that were logged after the restored checkpoint."""
        kept = [line for line in self.metrics() if line[UPDATE] <= step]
        with writing(self.metrics_path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def save_checkpoint(self, config: RunConfig, progress: dict[str, Any], state: dict[str, Any]) -> None:
        """Replace the checkpoint by ``progress`` and ``state``.

        The previous one is kept until the run is finished.
        """
        buffer = io.BytesIO()
        torch.save({"config": to_json(config), "progress": progress, **state}, buffer)
        with suppress(OSError):  # no hard links on this file system; there is always a checkpoint
            self.previous_path.unlink(missing_ok=True)
            os.link(self.checkpoint_path, self.previous_path)
        with writing(self.checkpoint_path) as file:
            file.write(sealed(buffer.getvalue()))

    def load_checkpoint(self, config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        """The last checkpoint's progress and state. Tensors and plain values only: nothing is executed.

        If it is damaged, a warning says so, and the previous one is used.

        Raises:
            RunError: if it is missing, damaged, has other contents, or belongs to another configuration.
        """
        path = self.checkpoint_path
        if not path.exists():
            advice = (
                "start over with --overwrite" if self.result_path.exists() else "train the run first, without --resume"
            )
            raise RunError(f"there is no checkpoint at {path}; {advice}")
        try:
            return self._load_checkpoint(path, config)
        except Damaged:
            if not self.previous_path.exists():
                raise
            progress, state = self._load_checkpoint(self.previous_path, config)
            print(f"warning: {path} is damaged; continuing from the previous checkpoint", file=sys.stderr)
            return progress, state

    def _load_checkpoint(self, path: Path, config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            saved = torch.load(io.BytesIO(unsealed(path)), map_location="cpu", weights_only=True)
            found = from_dict(RunConfig, json.loads(saved["config"]), "its configuration")
            progress = saved["progress"]
        except Damaged as e:
            raise Damaged(path, e.why, "start over with --overwrite") from e
        except RunError as e:
            raise RunError(f"{path} is from another version of this program: {e}") from e
        except Exception as e:  # any error of the unpickler for a truncated or foreign file
            raise Damaged(path, "not a checkpoint of this program", "start over with --overwrite") from e
        if found != config:
            raise RunError(
                f"{path} is of another configuration ({_difference(found, config)}); "
                "give the same options as before, or --overwrite"
            )
        return progress, saved

    def tested_weights(self, config: RunConfig) -> dict[str, Tensor]:
        """The weights that are tested, by name: from the checkpoint, or the published ones.

        Raises:
            RunError: as for ``load_checkpoint``, or if they are damaged.
        """
        if self.checkpoint_path.exists() or not self.weights_path.exists():
            state = self.load_checkpoint(config)[1]["learner"]
            return (state.get("selected") or {}).get("weights") or state["model"]
        try:
            weights = unpack(load_file(self.weights_path))
        except (OSError, SafetensorError) as e:
            raise Damaged(self.weights_path, str(e), RESTORE) from e
        source = (self.result() or {}).get("pretrained")
        if source is not None and not any(name.startswith(FEATURES) for name in weights):
            weights |= published_embedding(source)
        return weights

    def _clear(self) -> None:
        checkpoints = self.checkpoint_path, self.previous_path
        kept = (self.result_path, self.samples_path, *checkpoints, self.metrics_path, self.config_path)
        for path in (*kept, self.curve_path, *self.path.glob("mirror-*.json")):
            path.unlink(missing_ok=True)
        for folder in ("wandb", "attention"):
            shutil.rmtree(self.path / folder, ignore_errors=True)

    def _remove_if_empty(self) -> None:
        """Remove the folder of a run that never started, and its parents if they are empty."""
        for path in (self.path, *self.path.parents[:3]):
            try:
                path.rmdir()
            except OSError:  # not empty
                return


class WatchedFolder(RunFolder):
    """A run's folder for the other processes of a group, which only read it: the main process writes."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only the main process does this."""
        yield

    def claim(self, config: RunConfig, *, overwrite: bool) -> None:
        """Only the main process does this."""

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Only the main process does this."""

    def forget_metrics_after(self, step: int) -> None:
        """Only the main process does this."""

    def save_checkpoint(self, config: RunConfig, progress: dict[str, Any], state: dict[str, Any]) -> None:
        """Only the main process does this."""


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written atomically: it gets its name when it is complete.

    Raises:
        RunError: if it cannot be written; ``path`` is then unchanged.
    """
    try:
        with atomic_writer(path) as file:
            yield file
    except OSError as e:
        raise _unwritable(path, e) from e
    except RuntimeError as e:  # torch.save's error for a full disk
        raise RunError(f"cannot write {path}: {e}") from e


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write indented JSON with its digest, atomically."""
    with writing(path) as file:
        file.write((json.dumps(with_digest(data), indent=2) + "\n").encode())


def _unwritable(path: Path, error: OSError) -> RunError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return RunError(f"cannot write {path}: {reason}; make room or choose another --results")


def _difference(a: RunConfig, b: RunConfig) -> str:
    """The first key in which two configurations differ, with both values."""

    def walk(x: Any, y: Any, where: str) -> str | None:
        if isinstance(x, dict) and isinstance(y, dict):
            found = [walk(x.get(k), y.get(k), f"{where}.{k}" if where else k) for k in {**x, **y}]
            return next((f for f in found if f), None)
        return None if x == y else f"{where} was {x}, now {y}"

    return walk(to_dict(a), to_dict(b), "") or "nothing"

"""Records of finished runs, the source of every published number."""

from __future__ import annotations

import io
import json
import platform
import statistics
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runs.algorithms.learner import Learner, Measurement
from runs.catalogue import RunConfig, as_catalogued
from runs.config.serialization import from_dict, to_dict
from runs.results.metrics import UPDATE, training_score
from runs.results.statistics import Estimate
from runs.results.stored import RESTORE, Damaged, read_record, unsealed
from runs.system.errors import RunError
from runs.system.machine import device_name
from runs.tasks import Task
from snail.sequence import parameter_count

PUBLISHED = Path(__file__).parents[1] / "published"


def make_record(
    config: RunConfig,
    results: list[Measurement],
    learner: Learner,
    *,
    steps: int,
    units: int,
    seconds: float,
    device: torch.device,
    processes: int,
    commit: str | None,
) -> dict[str, Any]:
    """The record of a finished run; ``results`` has one entry per measured number."""
    key = {"experiment": config.experiment, "agent": config.agent, "seed": config.seed}
    return {
        "results": [key | m.record() for m in results],
        "budget": config.budget,
        "as_catalogued": as_catalogued(config),
        "steps": steps,
        learner.unit.replace(" ", "_") + "s": units,
        "train_seconds": round(seconds, 1),
        "parameters": parameter_count(learner.model),
        **learner.details(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "versions": {
            "python": platform.python_version(),
            **{p: _version(p) for p in ("torch", "numpy", "gymnasium", "snail-suite")},
        },
        "commit": commit,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": to_dict(config),
    }


def git_commit() -> str | None:
    """Commit of the running code, with ``+changes`` where files differ from it; None outside a checkout."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(record: dict[str, Any]) -> str:
    """A record as text, one line per number."""
    return "\n".join(_line(r) + f", {record['train_seconds']:.0f} s of training" for r in record["results"])


def describe_results(config: RunConfig, results: Sequence[Measurement]) -> str:
    """The measured numbers of a run, one line each."""
    key = {"experiment": config.experiment, "agent": config.agent, "seed": config.seed}
    return "\n".join(_line(key | m.record()) for m in results)


def describe_progress(config: RunConfig, lines: Sequence[Mapping[str, Any]]) -> str:
    """What a run that is not finished has reached, in one line."""
    metric, score = training_score(lines)
    return (
        f"{config.experiment} {config.agent} seed {config.seed}: {metric} {score:.4f} after update {lines[-1][UPDATE]}"
    )


def _line(r: Mapping[str, Any]) -> str:
    shots = f", {r['shots']} shot" if r.get("shots") else ""
    return (
        f"{r['experiment']} {r['agent']} seed {r['seed']}: {r['metric']}{shots} "
        f"{r['mean']:.4f} +- {r['ci95']:.4f} (95%, n={r['n']})"
    )


@dataclass(frozen=True)
class Result:
    """One measured number and its run.

    as_catalogued: the settings were the catalogue's when it ran; current: they still are.
    """

    experiment: str
    agent: str
    seed: int
    budget: str
    metric: str
    shots: int | None
    mean: float
    ci95: float
    n: int
    task_set: str
    as_catalogued: bool
    current: bool
    settings: str
    train_seconds: float
    parameters: int
    path: Path

    @property
    def name(self) -> str:
        """``metric``, with the number of shots if there is one."""
        return Measurement.name_of(self.metric, self.shots)

    def samples(self) -> np.ndarray | None:
        """The samples (n,) behind the mean, in the order of the task set; None if they were not kept."""
        try:
            path = self.path.with_name(SAMPLES)
            samples = read_samples(path, self.name)
            if samples is not None and samples.shape != (self.n,):
                raise Damaged(path, f"it does not have the {self.n} samples of its record", RESTORE)
            return samples
        except RunError as e:
            print(f"warning: {e}; it is not compared", file=sys.stderr)
            return None


def mean_over_tasks(results: Sequence[Result]) -> Estimate:
    """The mean over several seeds, with its interval over test tasks.

    All seeds are tested on the same tasks, so averaging does not narrow the interval.
    """
    mean, half = (statistics.fmean(getattr(r, name) for r in results) for name in ("mean", "ci95"))
    return Estimate(mean, mean - half, mean + half)


LARGEST_SAMPLES = 2**28
"""Maximum bytes of one array of samples."""
SAMPLES = "samples.npz"
"""The file of samples beside a record."""


def read_samples(path: Path, name: str) -> np.ndarray | None:
    """The samples (n,) float32 behind a measured number; None if they were not kept.

    Raises:
        RunError: if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(unsealed(path, RESTORE))) as archive:
            if f"{name}.npy" not in archive.namelist():
                return None
            member = archive.getinfo(f"{name}.npy")
            if member.file_size > LARGEST_SAMPLES:
                raise ValueError("too large")
            file = io.BytesIO(archive.read(member))
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        # checked before an array of that shape is allocated
        if dtype != np.float32 or len(shape) != 1 or 4 * shape[0] != file.getbuffer().nbytes - file.tell():
            raise ValueError(f"{name} is not a vector of numbers")
        samples = np.frombuffer(file.read(), np.float32)
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as e:
        raise Damaged(path, str(e), RESTORE) from e
    if not np.isfinite(samples).all():
        raise Damaged(path, f"{name} has numbers that are not finite", RESTORE)
    return samples


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Every number in the records below the folders. A damaged record only costs a warning."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("result.json")):
            try:
                found += _results(path)
            except RunError as e:
                print(f"warning: {e}; skipped", file=sys.stderr)
    return found


def task_optimum(task: Any) -> float | None:
    """The optimum of a configuration's task; None if unknown."""
    try:
        return from_dict(Task, task).optimum()
    except RunError:  # an extension is missing, or settings no longer exist
        return None


def settings_of(config: RunConfig | dict[str, Any]) -> str:
    """The key that runs must share to be averaged over seeds: the configuration without the seed."""
    plain = config if isinstance(config, dict) else to_dict(config)
    return json.dumps({k: v for k, v in plain.items() if k != "seed"}, sort_keys=True)


def _read_config(config: dict[str, Any]) -> RunConfig | dict[str, Any]:
    """A record's configuration; unparsed if it has settings that no longer exist."""
    try:
        return from_dict(RunConfig, config)
    except RunError:
        return config


def _is_current(config: RunConfig | dict[str, Any]) -> bool:
    """Whether the catalogue has a run with these settings."""
    try:
        return isinstance(config, RunConfig) and as_catalogued(config)
    except RunError:
        return False


def _results(path: Path) -> list[Result]:
    record = read_record(path)
    config = _read_config(record["config"])
    current = _is_current(config)
    return [
        Result(
            experiment=r["experiment"],
            agent=r["agent"],
            seed=r["seed"],
            budget=record["budget"],
            metric=r["metric"],
            shots=r.get("shots"),
            mean=float(r["mean"]),
            ci95=float(r["ci95"]),
            n=r["n"],
            task_set=r["task_set"],
            as_catalogued=record["as_catalogued"],
            current=current,
            settings=settings_of(config),
            train_seconds=record["train_seconds"],
            parameters=record["parameters"],
            path=path,
        )
        for r in record["results"]
    ]

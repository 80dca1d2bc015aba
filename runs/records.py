"""Records of finished runs: what every published number comes from."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from runs.catalogue import RunConfig
from runs.config import from_dict, to_dict
from runs.errors import RunError
from runs.learner import Learner, Measurement
from snail.sequence import parameter_count

PUBLISHED = Path(__file__).parent / "published"


def make_record(
    config: RunConfig,
    results: list[Measurement],
    learner: Learner,
    steps: int,
    seconds: float,
    device: torch.device,
    commit: str | None,
) -> dict[str, Any]:
    """The record of a finished run; ``results`` has one entry a measured number."""
    key = {"experiment": config.experiment, "agent": config.agent, "seed": config.seed}
    return {
        "results": [key | {k: v for k, v in asdict(m).items() if v is not None} for m in results],
        "budget": config.budget,
        "steps": steps,
        learner.unit.replace(" ", "_") + "s": steps * learner.units_per_step,
        "train_seconds": round(seconds, 1),
        "parameters": parameter_count(learner.model),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{p: _version(p) for p in ("torch", "numpy", "gymnasium", "snail-suite")},
        },
        "commit": commit,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": to_dict(config),
    }


def device_name(device: torch.device) -> str:
    """What a reader would call the machine: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the running code, with ``+changes`` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent

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


@dataclass(frozen=True)
class Result:
    """One measured number and the run that it comes from."""

    config: RunConfig
    metric: str
    mean: float
    ci95: float
    n: int
    task_set: str
    shots: int | None
    train_seconds: float
    path: Path


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Every number in the records below the folders, of runs that are in the catalogue's form.

    Raises:
        RunError: if a record is damaged; the message names it.
    """
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("result.json")):
            found += _read_record(path)
    return found


def _read_record(path: Path) -> list[Result]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        config = from_dict(RunConfig, record["config"], "its configuration")
        return [
            Result(
                config,
                r["metric"],
                r["mean"],
                r["ci95"],
                r["n"],
                r["task_set"],
                r.get("shots"),
                record["train_seconds"],
                path,
            )
            for r in record["results"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as e:
        raise RunError(f"{path} is not a whole record ({type(e).__name__}: {e}); move it away") from e
    except RunError as e:
        raise RunError(f"{path} is of another version of this program: {e}; move it away") from e

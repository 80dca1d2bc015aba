"""Mirrors of a run's metrics in other people's dashboards. The run's own ``metrics.jsonl`` is the truth.

A tracker must never stop or slow a run: it works in a thread of its own, and what goes wrong there costs one warning.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, Literal, Protocol

from runs.catalogue import RunConfig
from runs.config import to_dict
from runs.errors import RunError

TrackerName = Literal["auto", "none", "wandb"]
PATIENCE = 20.0  # seconds that the end of a run waits for its mirror


class Tracker(Protocol):
    """Where metrics are mirrored to."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """One logged step."""

    def close(self) -> None:
        """No more will come."""


class NoTracker:
    """Mirrors nothing."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class WandbTracker:
    """Weights & Biases: offline, unless the user has logged in or set WANDB_MODE."""

    def __init__(self, folder: Path, config: RunConfig, run_id: str):
        self._queue: queue.SimpleQueue[tuple[int, dict[str, Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._mirror, args=(folder, config, run_id), daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """One logged step; returns at once."""
        self._queue.put((step, metrics))

    def close(self) -> None:
        """Give the mirror a moment to finish."""
        self._queue.put(None)
        self._thread.join(PATIENCE)

    def _mirror(self, folder: Path, config: RunConfig, run_id: str) -> None:
        try:
            os.environ.setdefault("WANDB_SILENT", "true")
            import wandb

            run = wandb.init(
                project="snail",
                group=config.experiment,
                job_type=config.agent,
                name=f"{config.experiment}/{config.agent}/{config.budget}-{config.seed}",
                id=run_id,
                config=to_dict(config),
                dir=folder,
                mode=_wandb_mode(),
                resume="allow",
                settings=wandb.Settings(init_timeout=PATIENCE, console="off"),
            )
            while (item := self._queue.get()) is not None:
                step, metrics = item
                run.log(metrics, step=step)
            run.finish()
        except Exception as e:
            print(f"warning: wandb stopped mirroring this run ({e}); its metrics.jsonl is complete", file=sys.stderr)


def _wandb_mode() -> Any:
    """The user's WANDB_MODE; else online where there is a key, and offline where there is none."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    import netrc

    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
        return "online" if netrc.netrc().authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def open_tracker(name: TrackerName, folder: Path, config: RunConfig, run_id: str) -> Tracker:
    """The tracker of that name; ``auto`` is wandb where it is installed.

    Raises:
        RunError: if wandb is asked for and not installed.
    """
    installed = importlib.util.find_spec("wandb") is not None
    if name == "wandb" and not installed:
        raise RunError("wandb is not installed; run: pip install 'snail-suite[track]', or use --tracker none")
    if name == "wandb" or (name == "auto" and installed):
        return WandbTracker(folder, config, run_id)
    return NoTracker()

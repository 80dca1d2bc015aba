"""Keys of ``metrics.jsonl`` and of all trackers, by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

UPDATE, SECONDS = "update", "time/seconds"
"""The axes in every line; the third is ``env_steps`` or ``episodes``."""
RATE = "_per_second"
_DIAGNOSTICS = ("step_forward_mismatch", "step_scale")


def metric_name(name: str) -> str:
    """The key of a scalar that a learner logs, such as ``train/loss`` for ``loss``."""
    if name in _DIAGNOSTICS:
        return f"diagnostics/{name}"
    if name.startswith("validation_"):
        return f"validation/{name.removeprefix('validation_')}"
    return f"train/{name.removeprefix('train_')}"


def unit_name(unit: str) -> str:
    """The axis that counts a learner's units: ``env_steps`` for ``env step``."""
    return unit.replace(" ", "_") + "s"


def unit_of(line: Mapping[str, Any]) -> str | None:
    """The axis that counts units, from a line's throughput; None if it has none."""
    rates = (name for name in line if name.startswith("time/") and name.endswith(RATE))
    return next((name.removeprefix("time/").removesuffix(RATE) for name in rates), None)


def current_names(line: dict[str, Any]) -> dict[str, Any]:
    """A line of an old record under the current names; a current one unchanged."""
    if "step" not in line:
        return line
    found: dict[str, Any] = {}
    for name, value in line.items():
        if name in ("step", "seconds"):
            found[{"step": UPDATE, "seconds": SECONDS}[name]] = value
        elif name.endswith(RATE):
            found[f"time/{name}"] = value
        else:
            found[metric_name(name)] = value
    return found


def with_units(lines: Sequence[dict[str, Any]], record: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Lines with counts of units; for old records from throughput and time, scaled to the record's total."""
    unit = next((unit for line in lines if (unit := unit_of(line))), None)
    if unit is None or all(unit in line for line in lines):
        return lines
    times = np.diff([line[SECONDS] for line in lines], prepend=0.0)
    total = np.cumsum([line.get(f"time/{unit}{RATE}", 0.0) for line in lines] * times)
    counted = record.get(unit)
    if isinstance(counted, (int, float)) and total[-1] > 0:
        total *= counted / total[-1]
    return [{**line, unit: float(units)} for line, units in zip(lines, total, strict=True)]


def main_metric(lines: Sequence[Mapping[str, Any]]) -> str:
    """The main learning metric of a run: the first validation metric, else the return."""
    names = (name for line in lines for name in line)
    return next((name for name in names if name.startswith("validation/")), "train/return")


def training_score(lines: Sequence[Mapping[str, Any]], metric: str | None = None) -> tuple[str, float]:
    """The main metric and its mean over the last tenth of what is logged: what settings are chosen by, never the test.

    metric: another one.

    Raises:
        ValueError: if nothing of it is logged.
    """
    metric = metric or main_metric(lines)
    values = [line[metric] for line in lines if metric in line]
    if not values:
        raise ValueError(f"no {metric} is logged")
    last = values[-max(1, len(values) // 10) :]
    return metric, sum(last) / len(last)

"""Learning curves of one run, or over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runs.algorithms.schedules import geometric_growth
from runs.results.metrics import UPDATE
from runs.results.statistics import t_interval

Axis = Literal["env_steps", "episodes", "update", "time/seconds"]
Lines = Sequence[Mapping[str, Any]]
"""A run's metrics: the lines of its ``metrics.jsonl``."""
SHARE = "train/share_of_best_arm"
"""The return of training trials as a fraction of what always pulling the best arm is expected to earn."""
PER_EPISODE = "train/return_per_episode"
"""The return of training trials, divided by their number of episodes."""
POINTS = 100
"""Points of a drawn curve: longer ones are averaged over equal parts, since single batches are noisy."""


@dataclass(frozen=True)
class Band:
    """A metric over updates or seconds: ``x`` and ``mean`` (n,), and the ends of its 95% interval over seeds, or of
    the range of two.

    low, high: None for a single seed.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    seeds: int


def points(lines: Lines, metric: str, axis: Axis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points at which a run has logged the metric, (n,) each, in the order of ``axis``."""
    found = [(line[axis], line[metric]) for line in lines if metric in line and axis in line]
    x, y = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return x, y


def comparable(lines: Lines, settings: Mapping[str, Any]) -> Lines:
    """Metrics that can be compared with those of other runs of the task.

    `SHARE` is added where the regret is known: it varies less with the luck of the tasks and the length of trials.
    `PER_EPISODE` is added for tasks of several episodes. Returns of trials that a curriculum shortened are left out.

    Args:
        lines: a run's metrics.
        settings: the run's settings.
    """
    training, episodes = settings.get("training") or {}, (settings.get("task") or {}).get("episodes")
    steps, until = training.get("steps", 1), training.get("curriculum", 0.0)
    found = []
    for line in lines:
        line = dict(line)
        earned, done = line.get("train/return"), (line.get(UPDATE, 1) - 1) / steps
        if earned is not None and "train/regret" in line:
            line[SHARE] = earned / (earned + line["train/regret"])
        if earned is not None and episodes:
            first = min(episodes, training.get("curriculum_episodes", episodes))
            line[PER_EPISODE] = earned / round(geometric_growth(done, first, episodes, until))
        if done < until:
            line.pop("train/return", None)
            line.pop("train/regret", None)
        found.append(line)
    return found


def averaged(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve (2, n) as the means of `POINTS` equal parts; unchanged if it has no more points than that."""
    if curve.shape[1] <= POINTS:
        return curve
    return np.stack([part.mean(1) for part in np.array_split(curve, POINTS, axis=1)], axis=1)


def band(runs: Sequence[Lines], metric: str, axis: Axis) -> Band | None:
    """The metric's mean over the runs, with Student's interval or the range of two; None if none has logged it.

    Runs are ``averaged``. Several are interpolated to common points, up to the end of the shortest: beyond that the
    mean would be over fewer runs.
    """
    found = (np.stack(points(lines, metric, axis)) for lines in runs)
    curves = [averaged(curve) for curve in found if curve.size]
    if not curves:
        return None
    if len(curves) == 1:
        x, y = curves[0]
        return Band(x, y, None, None, 1)
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    x = np.linspace(first, max(first, last), POINTS)
    y = np.stack([np.interp(x, *curve) for curve in curves])  # (seeds, POINTS)
    mean = y.mean(0)
    if len(curves) == 2:  # with two seeds, Student's interval would be six times as wide
        return Band(x, mean, y.min(0), y.max(0), 2)
    half = np.array([t_interval(column).half for column in y.T])
    return Band(x, mean, mean - half, mean + half, len(curves))

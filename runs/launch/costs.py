"""Estimates the time of runs on this machine, from the seconds in records, scaled by a short probe."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from envs.fewshot.datasets.storage import cache_dir
from runs.agents import SNAILConfig
from runs.algorithms.fewshot import SupervisedTraining
from runs.algorithms.meta_rl import MetaRLTraining
from runs.catalogue import RunConfig, find
from runs.config.serialization import from_dict
from runs.results.folder import write_json
from runs.results.records import PUBLISHED, Result, read_results
from runs.results.stored import read_json
from runs.system.deadline import show_duration
from runs.system.errors import RunError
from runs.system.machine import Machine, device_name
from runs.tasks import FewShotTask, TrialTask
from runs.training import build_learner

PROBE_SECONDS = 10.0
REFERENCE = PUBLISHED / "probe.json"
"""The probe's time on the CPU of most published records."""


@dataclass(frozen=True)
class Cost:
    """Expected seconds of a run, on one core or the GPU of the records.

    similar: estimated from runs with other settings, experiments or agents.
    """

    seconds: float
    similar: bool

    def __str__(self) -> str:
        return ("~" if self.similar else "") + show_duration(self.seconds)


def work(config: RunConfig) -> float | None:
    """The size of a training, roughly proportional to its time; None for classical methods."""
    task, training = config.task, config.training
    if isinstance(task, TrialTask) and isinstance(training, MetaRLTraining):
        passes = 1 + getattr(training, "epochs", getattr(training, "value_epochs", 1))
        horizon = task.horizon
        # SNAIL has a layer for each doubling of the length, and each widens those after it
        depth = math.log2(max(2, horizon)) ** 2 if isinstance(config.model, SNAILConfig) else 1
        return training.steps * training.batch_size * horizon * passes * depth
    if isinstance(task, FewShotTask) and isinstance(training, SupervisedTraining):
        images = task.ways * statistics.fmean(task.shots) + training.queries
        episodes = training.batch_size + training.recombined / 5  # recombined ones need no embedding
        return training.steps * episodes * images
    return None


class Costs:
    """Expected costs of runs, based on records.

    Args:
        results: folder of your own results, preferred to the published ones.
        factor: time on this machine relative to that of the published records.
    """

    def __init__(self, results: Path, factor: float = 1.0):
        self._known: list[tuple[RunConfig, float]] = []
        """Runs with their seconds per unit of work."""
        for folder, scale in ((results, 1.0), (PUBLISHED, factor)):
            for r in read_results([folder]) if folder.is_dir() else []:
                config = _config(r)
                if config is not None and (size := work(config)) and r.train_seconds > 0:
                    self._known.append((config, scale * r.train_seconds / size))

    def of(self, config: RunConfig) -> Cost | None:
        """The expected cost of a run; None if there are no similar runs."""
        size = work(config)
        if size is None:
            return None
        alike = [rate for c, rate in self._known if _learning(c) == _learning(config)]
        if alike:
            return Cost(size * alike[0], similar=False)
        family = config.experiment.partition("/")[0]
        for same in (
            lambda c: (c.experiment, c.agent) == (config.experiment, config.agent),
            lambda c: c.agent == config.agent and c.experiment.startswith(f"{family}/"),
            lambda c: c.experiment == config.experiment,
            lambda c: c.experiment.startswith(f"{family}/"),
            lambda c: type(c.task) is type(config.task),
        ):
            # for another agent: relative to the work of its own run
            found = [rate * (work(replace(config, model=c.model)) or 0) for c, rate in self._known if same(c)]
            if found:
                return Cost(statistics.median(found), similar=True)
        return None

    def total(self, configs: Iterable[RunConfig], workers: int) -> str:
        """The total time of runs, in words."""
        costs = [(c, self.of(c)) for c in configs if work(c) is not None]
        known = [cost for _, cost in costs if cost is not None]
        if not known:
            return "no records to estimate the time"
        seconds = sum(cost.seconds for cost in known)
        longest = max(cost.seconds for cost in known)
        several = min(workers, len(known))
        words = f"about {show_duration(max(seconds / several, longest))} with {several} at a time"
        words = words if several > 1 else f"about {show_duration(seconds)}"
        return words + (f"; {len(costs) - len(known)} of them unknown" if len(known) < len(costs) else "")


def _config(result: Result) -> RunConfig | None:
    try:
        return from_dict(RunConfig, {**json.loads(result.settings), "seed": 0})
    except RunError:  # the settings no longer exist
        return None


def _learning(config: RunConfig) -> tuple[object, ...]:
    """The settings that determine the training time."""
    return (config.task, config.model, config.training)


def machine_factor(measure: bool = True) -> float:
    """Time on this machine relative to that of the published records, by a probe whose result is cached.

    Without ``measure``, 1 if there is no cached result.
    """
    if not REFERENCE.exists():
        return 1.0
    key = f"{device_name(torch.device('cpu'))}, torch {torch.__version__}"
    kept = cache_dir() / "probe.json"
    try:
        found = read_json(kept)[key]
    except (OSError, KeyError, RunError):
        if not measure:
            return 1.0
        print(f"measuring this machine for {PROBE_SECONDS:.0f} s, once", file=sys.stderr)
        found = probe()
        with contextlib.suppress(OSError, RunError):  # unreadable: measure again
            write_json(kept, {**(read_json(kept) if kept.exists() else {}), key: found})
    return found / read_json(REFERENCE)["seconds"]


def probe() -> float:
    """Seconds of one PPO update on bandits on one core: the minimum over those that fit into the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        learner = build_learner(find("bandit/n100-k5").config("snail", budget="smoke"), Machine(torch.device("cpu")))
        times: list[float] = []
        end = time.monotonic() + PROBE_SECONDS
        while time.monotonic() < end or len(times) < 2:
            began = time.perf_counter()
            learner.update(0)
            times.append(time.perf_counter() - began)
        return min(times)
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Measure the reference: ``python -m runs.launch.costs``, on an idle machine like that of the records."""
    write_json(REFERENCE, {"device": device_name(torch.device("cpu")), "seconds": probe()})


if __name__ == "__main__":
    main()

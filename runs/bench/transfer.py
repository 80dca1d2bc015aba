"""Tests agents on longer trials: ``python -m runs.bench.transfer``.

Every published agent with weights and the catalogue's settings is tested on all bandits with as many arms, and compared
with the finite-horizon Gittins index. The results go to ``published/transfer.json``, for `snail table transfer`; those
of records that have not changed are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from runs.algorithms.meta_rl import MetaRLLearner, TrialTest
from runs.algorithms.tuning import Tuning
from runs.catalogue import CATALOGUE, as_catalogued
from runs.results.folder import RunFolder, find_runs, write_json
from runs.results.records import PUBLISHED, git_commit, read_results
from runs.results.transfer import OUTCOME, TRIALS, render_transfer, transfers
from runs.system.machine import Machine
from runs.tasks import BanditTask
from runs.training import build_learner, evaluate, load_model

LONGEST = 500
REFERENCE = "finite-gittins"


def measured() -> Iterator[dict[str, Any]]:
    """Test every agent on every length."""
    best: Mapping[str, float] = {r.experiment: r.mean for r in read_results([PUBLISHED]) if r.agent == REFERENCE}
    known = _by_run(transfers())
    for path in find_runs(PUBLISHED / "bandit"):
        folder = RunFolder(path)
        record = folder.result()
        if record is None or not folder.weights_path.exists() or not as_catalogued(config := folder.config()):
            continue
        assert isinstance(config.task, BanditTask)
        if isinstance(config.training, Tuning):  # a classical method
            continue
        for other in CATALOGUE.values():
            task = other.budgets["full"].task
            if not isinstance(task, BanditTask) or task.arms != config.task.arms or task.pulls > LONGEST:
                continue
            if (record["finished"], task.pulls) in known:
                yield known[record["finished"], task.pulls]
                continue
            learner = build_learner(dataclasses.replace(config, test=TrialTest(TRIALS)), Machine(torch.device("cpu")))
            assert isinstance(learner, MetaRLLearner)
            load_model(learner, folder, config)
            learner.test_on(task)
            (found,) = evaluate(learner)
            yield {
                "finished": record["finished"],
                "trained": config.experiment,
                "agent": config.agent,
                "budget": config.budget,
                "pulls": task.pulls,
                "mean": found.mean,
                "ci95": found.ci95,
                "n": found.n,
                "task_set": found.task_set,
                "reference": best[other.id],
                "commit": git_commit(),
            }


def _by_run(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["finished"], row["pulls"]): row for row in rows}


def main() -> None:
    """Measure and write everything."""
    known, found = _by_run(transfers()), _by_run([])
    for row in measured():
        found |= _by_run([row])
        write_json(OUTCOME, {"transfers": [*(known | found).values()]})  # an interrupted command continues
    write_json(OUTCOME, {"transfers": [*found.values()]})
    print(render_transfer(transfers()))


if __name__ == "__main__":
    main()

"""Results of tuning: ``python -m runs.results.tuning results/tuning`` adds its runs to ``published/tuning.json``.

All agents of a task are tuned alike: the same learning rates, the same fraction of the full budget, one seed. Rates are
compared by the mean over the last tenth of training, of the return on training tasks or of the accuracy on validation
classes; never by the test. Where the expected return or regret is logged, it takes the place of the return. A training
that diverged has no score.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runs.results.folder import RunFolder, find_runs, write_json
from runs.results.metrics import training_score
from runs.results.records import PUBLISHED
from runs.results.stored import read_json

SIGNS = {"train/regret": -1, "train/expected_return": 1}
"""Of the metrics with less noise than the return."""

OUTCOME = PUBLISHED / "tuning.json"


def outcome(folder: RunFolder) -> dict[str, Any] | None:
    """The score of a finished run's learning rate, without one if it diverged; None if it is not finished."""
    record = folder.result()
    diverged = None if record else _divergence(folder)
    if not record and not diverged:
        return None
    config = folder.config()
    training: Any = config.training
    about = {
        "experiment": config.experiment,
        "agent": config.agent,
        "learning_rate": training.learning_rate,
        "updates": training.steps,
    }
    if not record:
        return about | {"score": None, "reason": diverged}
    lines = folder.metrics()
    logged = next((name for name in SIGNS if any(name in line for line in lines)), None)
    metric, score = training_score(lines, logged) if logged else training_score(lines)
    return about | {
        "metric": metric,
        "score": SIGNS.get(metric, 1) * score,
        "seconds": round(record["train_seconds"]),
        "device": record["device"],
        "commit": record["commit"],
    }


def _divergence(folder: RunFolder) -> str | None:
    """Which of the agent's numbers was not finite; None if the run did not fail by that."""
    reason = (folder.failure() or {}).get("reason", "")
    diverged = "is not finite" in reason and "an environment's" not in reason
    return reason.partition(";")[0] if diverged else None


def outcomes() -> list[dict[str, Any]]:
    """The published results of tuning."""
    return read_json(OUTCOME)["runs"] if OUTCOME.exists() else []


def best_rates(outcomes: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The learning rate with the largest score, by experiment and agent, for agents that have tried all rates."""
    tried: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for found in outcomes:
        tried.setdefault(found["experiment"], {}).setdefault(found["agent"], []).append(found)
    return {
        experiment: {
            agent: max(scores, key=_score)["learning_rate"]
            for agent, scores in agents.items()
            if len(scores) == max(map(len, agents.values())) and max(map(_score, scores)) > -math.inf
        }
        for experiment, agents in tried.items()
    }


def _score(found: Mapping[str, Any]) -> float:
    return -math.inf if found["score"] is None else found["score"]


def main() -> None:
    """Add the finished runs below the given folders; print the best rates."""
    by_key = {(o["experiment"], o["agent"], o["learning_rate"]): o for o in outcomes()}
    for top in map(Path, sys.argv[1:]):
        for path in find_runs(top):
            if (found := outcome(RunFolder(path))) is not None:
                by_key[found["experiment"], found["agent"], found["learning_rate"]] = found
    write_json(OUTCOME, {"runs": [by_key[key] for key in sorted(by_key)]})
    print(json.dumps(best_rates(by_key.values()), indent=2))


if __name__ == "__main__":
    main()

"""Results of tuning: ``python -m runs.results.tuning results/tuning`` adds its runs to ``published/tuning.json``.

All agents of a task are tuned alike: the same learning rates, the same fraction of the full budget, one seed. Rates are
compared by the mean over the last tenth of training, of the return on training tasks or of the accuracy on validation
classes; never by the test. Where the expected return or regret is logged, it takes the place of the return. A training
that diverged has no score.

With ``--until N``, full trainings are compared by their first N updates. In short trainings the rate decays sooner.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runs.results.folder import RunFolder, find_runs, write_json
from runs.results.metrics import SECONDS, UPDATE, training_score
from runs.results.records import PUBLISHED
from runs.results.stored import read_json

SIGNS = {"train/regret": -1, "train/expected_return": 1}
"""Of the metrics with less noise than the return."""

OUTCOME = PUBLISHED / "tuning.json"


def outcome(folder: RunFolder, until: int | None = None) -> dict[str, Any] | None:
    """The score of a run's learning rate, without one if it diverged; None if the run did not come so far.

    until: updates after which it is judged, whether it went on or not; None: those of a finished run.
    """
    record = folder.result()
    lines = [line for line in folder.metrics() if until is None or line[UPDATE] <= until]
    diverged = None if record else _divergence(folder)
    # not every update of a long training is logged; the first line tells how many there are in one
    came_so_far = until is not None and bool(lines) and lines[-1][UPDATE] + lines[0][UPDATE] > until
    enough = record is not None if until is None else came_so_far
    if not enough and not diverged:
        return None
    config = folder.config()
    training: Any = config.training
    about = {
        "experiment": config.experiment,
        "agent": config.agent,
        "learning_rate": training.learning_rate,
        "updates": until or training.steps,
        "schedule": training.steps,
    }
    if not enough:
        return about | {"score": None, "reason": diverged}
    logged = next((name for name in SIGNS if any(name in line for line in lines)), None)
    metric, score = training_score(lines, logged) if logged else training_score(lines)
    about |= {"metric": metric, "score": SIGNS.get(metric, 1) * score, "seconds": round(lines[-1][SECONDS])}
    return about | ({"device": record["device"], "commit": record["commit"]} if record else {})


def _divergence(folder: RunFolder) -> str | None:
    """Which of the agent's numbers was not finite; None if the run did not fail by that."""
    reason = (folder.failure() or {}).get("reason", "")
    diverged = "is not finite" in reason and "an environment's" not in reason
    return reason.partition(";")[0] if diverged else None


def outcomes() -> list[dict[str, Any]]:
    """The published results of tuning."""
    return read_json(OUTCOME)["runs"] if OUTCOME.exists() else []


def best_rates(outcomes: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The learning rate with the largest score, by experiment and agent, for agents that have tried all rates.

    Of trainings with schedules of different lengths, only the longest are compared.
    """
    outcomes = list(outcomes)
    longest: dict[str, int] = {}
    for found in outcomes:
        longest[found["experiment"]] = max(_schedule(found), longest.get(found["experiment"], 0))
    tried: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for found in outcomes:
        if _schedule(found) == longest[found["experiment"]]:
            tried.setdefault(found["experiment"], {}).setdefault(found["agent"], []).append(found)
    return {
        experiment: {
            agent: max(scores, key=_score)["learning_rate"]
            for agent, scores in agents.items()
            if len(scores) == max(map(len, agents.values())) and max(map(_score, scores)) > -math.inf
        }
        for experiment, agents in tried.items()
    }


def _schedule(found: Mapping[str, Any]) -> int:
    """Updates over which the learning rate decays."""
    return found.get("schedule", found["updates"])


def _score(found: Mapping[str, Any]) -> float:
    return -math.inf if found["score"] is None else found["score"]


def main() -> None:
    """Add the runs below the given folders; print the best rates."""
    parser = argparse.ArgumentParser(description="Add the outcome of tuning to published/tuning.json.")
    parser.add_argument("folders", type=Path, nargs="+", help="folders with runs")
    parser.add_argument("--until", type=int, help="judge by this many updates; default: by finished runs")
    given = parser.parse_args()
    found = [outcome(RunFolder(path), given.until) for top in given.folders for path in find_runs(top)]
    by_key = {
        (o["experiment"], o["agent"], o["learning_rate"], _schedule(o)): o
        for o in [*outcomes(), *(o for o in found if o is not None)]
    }
    write_json(OUTCOME, {"runs": [by_key[key] for key in sorted(by_key)]})
    print(json.dumps(best_rates(by_key.values()), indent=2))


if __name__ == "__main__":
    main()

"""The catalogue's learning rates are the outcome of tuning that all agents had alike."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import BANDIT, IN_MDPS, LOOKAHEAD, STEPS, go

from runs.catalogue import PRETRAINED, find
from runs.catalogue.experiments import (
    HUNDRED_PULLS,
    MDPS,
    OMNIGLOT_RATES,
    PRETRAINED_RATES,
    RECALL,
    TEN_PULLS,
    TWENTY_WAYS,
)
from runs.results.folder import RunFolder
from runs.results.tuning import best_rates, outcome, outcomes
from runs.system.errors import Paused, RunError

STUDY = Path(__file__).parents[1] / "runs" / "studies" / "tuning.toml"


def test_the_catalogues_rates_are_the_best_that_were_tried():
    rates = best_rates(outcomes())
    assert rates["bandit/n10-k10"] == TEN_PULLS
    for experiment in ("bandit/n10-k5", "bandit/n10-k10", "bandit/n10-k50"):
        for agent, rate in TEN_PULLS.items():
            assert find(experiment).config(agent).training.learning_rate == rate
            assert find(experiment).config(agent, budget="demo").training.learning_rate == 2e-3
    assert rates["bandit/n100-k5"] == HUNDRED_PULLS
    for agent, rate in HUNDRED_PULLS.items():
        assert find("bandit/n100-k50").config(agent).training.learning_rate == rate
    assert rates["mdp/n10"] == MDPS
    for agent, rate in MDPS.items():
        assert find("mdp/n25").config(agent).training.learning_rate == rate
    assert rates["recall/n8"] == RECALL
    for agent, rate in RECALL.items():
        assert find("recall/n32").config(agent, budget="demo").training.learning_rate == rate
    assert rates[PRETRAINED] == PRETRAINED_RATES
    for agent, rate in PRETRAINED_RATES.items():
        assert find(PRETRAINED).config(agent).training.learning_rate == rate
    assert rates["omniglot/5way"] == OMNIGLOT_RATES
    for agent, rate in OMNIGLOT_RATES.items():
        assert find("omniglot/5way-1shot").config(agent, budget="demo").training.learning_rate == rate
    assert OMNIGLOT_RATES | rates["omniglot/20way"] == TWENTY_WAYS
    for agent, rate in TWENTY_WAYS.items():
        assert find("omniglot/20way").config(agent).training.learning_rate == rate
    control = find("control/cheetah-direction")  # until all agents are trained with their own: one rate for all
    assert {control.config(agent).training.learning_rate for agent in MDPS} == {5e-4}
    trpo = find("bandit/n10-k5").config("snail", algorithm="trpo").training
    assert not hasattr(trpo, "learning_rate")


def test_all_agents_were_tuned_alike():
    found = outcomes()
    sweeps = tomllib.loads(STUDY.read_text())["sweeps"]
    grids = {e: s for s in sweeps for e in s["experiments"]}
    schedules = {e: s["set"].get("training.steps", find(e).config("snail").training.steps) for e, s in grids.items()}
    found = [o for o in found if o.get("schedule", o["updates"]) == schedules[o["experiment"]]]
    assert {"bandit/n10-k10", "mdp/n10"} <= best_rates(found).keys()
    for experiment, rates in best_rates(found).items():
        tried: dict[str, set] = {agent: set() for agent in rates}  # an agent whose tuning is not finished is not there
        for o in found:
            if o["experiment"] == experiment and o["agent"] in tried:
                tried[o["agent"]].add((o["learning_rate"], o["updates"]))
        updates = grids[experiment].get("until", schedules[experiment])
        grid = {(rate, updates) for rate in grids[experiment]["set"]["training.learning-rate"]}
        assert all(t == grid for t in tried.values())
        assert len({o["metric"] for o in found if o["experiment"] == experiment and o["score"] is not None}) == 1


def test_the_best_is_the_largest_score_of_the_longest_schedule():
    def tried(agent: str, scores: dict[float, float], schedule: int) -> list[dict]:
        about = {"experiment": "e", "agent": agent, "updates": 80, "schedule": schedule}
        return [about | {"learning_rate": rate, "score": score} for rate, score in scores.items()]

    short = tried("a", {1: 0.1, 2: 0.3, 4: 0.2}, 80)
    unfinished = tried("b", {1: 0.5}, 80)
    assert best_rates([*short, *unfinished]) == {"e": {"a": 2}}
    assert best_rates([*short, *unfinished, *tried("a", {1: 0.3, 2: 0.2}, 400)]) == {"e": {"a": 1}}


def test_a_full_training_is_judged_by_its_first_updates(tmp_path):
    with pytest.raises(Paused):
        go(BANDIT, tmp_path, until=2)
    assert outcome(RunFolder(tmp_path)) is None and outcome(RunFolder(tmp_path), 3) is None
    found = outcome(RunFolder(tmp_path), 2)
    second = RunFolder(tmp_path).metrics()[1]
    assert (found["updates"], found["schedule"], found["score"]) == (2, STEPS, second["train/return"])
    go(BANDIT, tmp_path, resume=True)
    after = outcome(RunFolder(tmp_path), 2)
    assert after.items() >= found.items() and after["commit"]


def test_the_update_to_be_judged_by_need_not_be_a_logged_one(tmp_path, monkeypatch):
    monkeypatch.setattr("runs.training.LOGGED_STEPS", 2)
    with pytest.raises(Paused):
        go(BANDIT, tmp_path, until=STEPS - 1)
    (line,) = RunFolder(tmp_path).metrics()
    assert line["update"] < STEPS - 1
    found = outcome(RunFolder(tmp_path), STEPS - 1)
    assert found["updates"] == STEPS - 1 and found["score"] == line["train/return"]
    assert outcome(RunFolder(tmp_path), 2 * line["update"]) is None


def test_a_rate_that_diverged_is_tried_and_not_the_best(tmp_path):
    diverging = replace(BANDIT, training=replace(BANDIT.training, learning_rate=1e30))
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="is not finite") as caught:
        go(diverging, tmp_path)
    assert outcome(folder) is None  # until the reason is recorded
    folder.write_failure("EnvironmentFailed: an environment's reward is not finite; fix it", "")
    assert outcome(folder) is None  # not the rate's fault
    folder.write_failure(str(caught.value), "")
    found = outcome(folder)
    assert found["learning_rate"] == 1e30 and found["score"] is None and "not finite" in found["reason"]
    other = found | {"learning_rate": 1e-3, "score": -1.0}
    assert best_rates([found, other]) == {found["experiment"]: {found["agent"]: 1e-3}}
    assert best_rates([found]) == {found["experiment"]: {}}  # none is the best


def test_an_outcome_is_of_the_last_tenth_of_training(tmp_path):
    assert outcome(RunFolder(tmp_path / "none")) is None
    go(BANDIT, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = outcome(RunFolder(tmp_path))
    assert (
        found["score"] == lines[-1]["train/return"] and found["metric"] == "train/return" and found["updates"] == STEPS
    )
    assert found["learning_rate"] == BANDIT.training.learning_rate


def test_less_regret_is_a_higher_score(tmp_path):
    go(LOOKAHEAD, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = outcome(RunFolder(tmp_path))
    assert found["metric"] == "train/regret" and found["score"] == -lines[-1]["train/regret"] < 0


def test_the_expected_return_has_less_noise_than_the_return(tmp_path):
    go(IN_MDPS, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = outcome(RunFolder(tmp_path))
    assert found["metric"] == "train/expected_return" and found["score"] == lines[-1]["train/expected_return"]

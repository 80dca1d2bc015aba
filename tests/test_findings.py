"""Where SNAIL is better, where not, and by how much."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tiny_runs import result

from runs.results.compare import Group, Number
from runs.results.findings import Finding, findings, measured_optima, render_findings
from runs.results.records import Result
from runs.results.statistics import Estimate

BASE = result(budget="full")


class Kept(Result):
    """A record whose samples are here."""

    kept: np.ndarray

    def samples(self):
        return self.kept


def group(agent: str, *seeds: np.ndarray, metric="return", task_set="tasks") -> Group:
    results = []
    for seed, samples in enumerate(seeds):
        changes = {"agent": agent, "seed": seed, "metric": metric, "task_set": task_set, "mean": float(samples.mean())}
        kept = Kept(**{**BASE.__dict__, **changes})
        object.__setattr__(kept, "kept", samples)
        results.append(kept)
    return Group(BASE.experiment, agent, "full", {"task": None}, (), (Number(results[0].name, tuple(results)),), 1.0)


def found(*groups: Group, optima=None):
    return list(findings({BASE.experiment: list(groups)}, optima or {}))


NOISE = np.random.default_rng(0).normal(size=400)


def test_one_training_each_is_compared_over_the_tasks_that_they_share():
    (finding,) = found(group("snail", NOISE + 0.05), group("gru", NOISE))
    assert finding.over == "tasks" and finding.word == "better"  # unpaired, the noise would hide it
    assert finding.difference.value == pytest.approx(0.05)
    (finding,) = found(group("snail", NOISE - 0.05), group("gru", NOISE))
    assert finding.word == "worse"
    (finding,) = found(group("snail", NOISE), group("gru", NOISE[::-1]))
    assert finding.word == "not significant"


def test_several_trainings_are_compared_over_seeds():
    ours, theirs = ([NOISE + shift for shift in shifts] for shifts in ((0.3, 0.1, 0.2), (0.0, 0.25, -0.1)))
    (finding,) = found(group("snail", *ours), group("gru", *theirs))
    low, high = stats.ttest_ind(
        [x.mean() for x in ours], [x.mean() for x in theirs], equal_var=False
    ).confidence_interval()
    assert finding.over == "3 and 3 seeds" and finding.word == "not significant"
    assert (finding.difference.low, finding.difference.high) == pytest.approx((low, high))


def test_other_tasks_and_other_numbers_are_not_compared():
    assert found(group("snail", NOISE), group("gru", NOISE, task_set="others")) == []
    assert found(group("snail", NOISE, metric="error"), group("gru", NOISE, metric="error")) == []
    first = "return_episode1"  # a finding is of the whole trial
    assert found(group("snail", NOISE, metric=first), group("gru", NOISE, metric=first)) == []
    assert found(group("lstm", NOISE), group("gru", NOISE)) == []


def test_an_unknown_optimum_is_the_measured_one_of_the_best_method():
    known = [result(agent="finite-gittins", budget="full", mean=4.0), result(agent="gittins", budget="full", mean=9.0)]
    optima = measured_optima([*known, result(agent="oracle", budget="demo", mean=9.0)])
    (finding,) = found(group("snail", NOISE[::-1] + 0.1), group("gru", NOISE), optima=optima)
    assert finding.optimum == 4.0 and "| +2.50 " in render_findings([finding])
    (finding,) = found(group("snail", NOISE[::-1] + 0.1), group("gru", NOISE))
    assert finding.optimum is None


def test_the_text_counts_and_lists():
    text = render_findings(found(group("snail", 1.1 * NOISE + 1), group("gru", NOISE), group("lstm", NOISE[::-1] + 1)))
    assert "In 2 comparisons, SNAIL is better in 1 and worse in 0; in 1 the difference is not significant." in text
    assert ("| gru " in text and "+0.99" in text) or "+1" in text


def test_the_overview_counts_by_kind_of_experiment():
    shifts = {
        "bandit/n10-k5": {"gru": 0.2, "lstm": 0.2, "s5": 0.2},
        "bandit/n10-k10": {"gru": -0.1, "lstm": 0.5},
        "mdp/n10": {"gru": 0.0, "lstm": 0.5},
    }
    compared = {}
    for experiment, others in shifts.items():
        groups = [group(agent, NOISE - shift) for agent, shift in others.items()]
        snail = group("snail", NOISE + 0.01 * NOISE[::-1])
        compared[experiment] = [replace(g, experiment=experiment) for g in (snail, *groups)]
    text = render_findings(list(findings(compared, {"bandit/n10-k5": 2.0, "bandit/n10-k10": 2.0})))
    head, _, bandit, mdp, *_ = [
        [entry.strip() for entry in line.split("|")] for line in text.splitlines() if "|" in line
    ]
    assert head[1:-1] == ["SNAIL against", "gru", "lstm"]  # s5 is compared in bandits alone
    assert bandit[1:4] == [
        "bandit",
        "1 of 2 better, 1 worse; -5.0 to +10.0%",
        "2 of 2 better, 0 worse; +10.0 to +25.0%",
    ]
    assert mdp[1:4] == ["mdp", "0 of 1 better, 0 worse", "1 of 1 better, 0 worse"]


@pytest.mark.parametrize(
    ("value", "half", "written"),
    [
        (-0.00788, 0.0112, "-0.008 ± 0.011"),
        (45.361, 0.6549, "+45.36 ± 0.65"),
        (193.94, 21.3, "+194 ± 21"),
        (5, 0, "+5.0 ± 0.0"),
        (5, math.nan, "+5.0 ± nan"),
    ],
)
def test_a_difference_has_the_decimals_of_its_interval(value, half, written):
    finding = Finding(BASE.experiment, "return", "gru", Estimate(value, value - half, value + half), "tasks", None)
    assert f"| {written} " in render_findings([finding])

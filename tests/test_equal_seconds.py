"""Agents after equal seconds: what their curves say of the time of the quickest."""

from __future__ import annotations

import math
import statistics

import pytest

from runs.generate import _of_all_trials
from runs.results.curves import PER_EPISODE, SHARE, comparable, points
from runs.results.equal_seconds import equal_seconds, learned_in_full, render_equal_seconds, score_after
from runs.results.metrics import SECONDS, UPDATE, training_score
from runs.results.records import PUBLISHED, read_results


def curve(*points):
    return [{SECONDS: float(seconds), "train/return": float(value)} for seconds, value in points]


def test_the_score_is_of_the_last_tenth_before_the_time_is_over():
    slow, fast = curve(*((t, t) for t in range(1, 41))), curve((5, 100), (10, 200), (99, 300))
    assert score_after([slow], "train/return", 20) == (19 + 20) / 2
    assert score_after([slow], "train/return", 1000) == (37 + 38 + 39 + 40) / 4
    assert score_after([slow, fast], "train/return", 20) == (19.5 + 200) / 2
    assert math.isnan(score_after([slow], "train/return", 0.5))
    assert math.isnan(score_after([slow], "validation/accuracy", 20))


def test_returns_of_growing_trials_are_left_out():
    lines = [{UPDATE: n, SECONDS: float(n), "train/return": 5.0 * n, "train/loss": 1.0} for n in range(1, 11)]
    training = {"training": {"curriculum": 0.6, "steps": 10}}
    assert [line[UPDATE] for line in comparable(lines, training) if "train/return" in line] == [7, 8, 9, 10]
    assert len(points(comparable(lines, training), "train/loss", UPDATE)[0]) == 10
    assert comparable(lines, {"training": {"steps": 10}}) == lines
    regrets = [line | {"train/regret": 5.0} for line in lines]
    assert [line[SHARE] for line in comparable(regrets, training)] == [n / (n + 1) for n in range(1, 11)]
    compared = learned_in_full(read_results([PUBLISHED]), PUBLISHED)["bandit/n500-k5"]
    _, _, scores = equal_seconds(compared)  # of MAML's seconds, after which the others are at short trials
    assert scores["maml"] > 350 and math.isnan(scores["gru"])
    (line,) = [x for x in render_equal_seconds({"bandit/n500-k5": compared}).splitlines() if "n500-k5" in x]
    assert " - " in line and "nan" not in line


def test_returns_per_episode_are_of_the_length_that_the_training_gave():
    """10 episodes at first, twice as many after each fifth of the updates, 80 from three fifths on."""
    lines = [{UPDATE: n, "train/return": 80.0} for n in range(1, 11)]
    growing = {"steps": 10, "curriculum": 0.6, "curriculum_episodes": 10}
    found = comparable(lines, {"task": {"episodes": 80}, "training": growing})
    assert [found[i][PER_EPISODE] for i in (0, 2, 4, 6, 9)] == [8, 4, 2, 1, 1]
    assert {line[PER_EPISODE] for line in comparable(lines, {"task": {"episodes": 20}, "training": {"steps": 10}})} == {
        4
    }


def test_figures_show_what_trials_of_any_length_have():
    whole, growing = {"train/return": 1.0, PER_EPISODE: 1.0}, {PER_EPISODE: 1.0}
    assert _of_all_trials([whole, whole]) is None and _of_all_trials([growing, whole]) == PER_EPISODE
    assert _of_all_trials([{**whole, SHARE: 0.9}]) == SHARE
    assert _of_all_trials([{"train/return": 1.0, SHARE: 0.9}, {"train/return": 1.0}]) is None  # not all agents have it
    assert _of_all_trials([{"train/loss": 1.0, "validation/accuracy_1shot": 0.5}]) is None


def test_every_agent_has_the_seconds_of_the_first_that_is_done():
    compared = learned_in_full(read_results([PUBLISHED]), PUBLISHED)
    groups = compared["bandit/n10-k5"]
    assert {"snail", "gru", "lstm", "transformer", "maml"} <= {group.agent for group in groups}
    assert all(group.budget == "full" for group in groups)
    for experiment, found in compared.items():  # none of its earlier settings
        assert len({group.agent for group in found}) == len(found), experiment
    metric, seconds, scores = equal_seconds(groups)
    first = min(groups, key=lambda group: statistics.fmean(f.metrics()[-1][SECONDS] for f in group.folders))
    assert seconds == pytest.approx(first.seconds, rel=0.01)
    wholes = [training_score(folder.metrics()) for folder in first.folders]
    assert scores[first.agent] == pytest.approx(statistics.fmean(score for _, score in wholes))
    assert {name for name, _ in wholes} == {metric}
    assert "bandit/n10-k5" in render_equal_seconds(compared)

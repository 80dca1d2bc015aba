"""Comparisons: runs are grouped by settings, tested pairwise on shared tasks, and drawn with bands over seeds."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from runs.cli import run
from runs.results.compare import describe_groups, find_groups
from runs.results.curves import band
from runs.results.folder import write_json
from runs.results.metrics import main_metric
from runs.results.records import PUBLISHED
from runs.results.statistics import bootstrap_interval
from runs.system.errors import RunError

SNAIL = PUBLISHED / "bandit/n10-k5/snail/full-seed0"
RATE = json.loads((SNAIL / "result.json").read_text())["config"]["training"]["learning_rate"]


@pytest.fixture
def made(tmp_path):
    """A function that makes a record of its own, with samples and metrics, below a folder of results."""

    def make(agent: str, seed: int, samples, experiment="bandit/n10-k5", tasks="x", arms=0, name="full", **training):
        folder = tmp_path / experiment / agent / f"{name}-seed{seed}"
        shutil.copytree(SNAIL, folder)
        record = json.loads((folder / "result.json").read_text())
        record["config"] |= {"seed": seed, "agent": agent, "experiment": experiment}
        record["config"]["task"]["arms"] = arms or int(experiment.rpartition("-k")[2])
        record["config"]["training"] |= training
        samples = np.asarray(samples, dtype=np.float32)
        half = 1.96 * samples.std(ddof=1) / len(samples) ** 0.5
        record["results"] = [
            {
                **record["results"][0],
                **{"experiment": experiment, "agent": agent, "seed": seed, "task_set": tasks},
                **{"mean": float(samples.mean()), "ci95": float(half), "n": len(samples)},
            }
        ]
        write_json(folder / "result.json", record)
        np.savez(folder / "samples.npz", **{"return": samples})
        lines = [{"step": s, "seconds": 2.0 * s, "return": s + seed} for s in range(1, 11)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    make.results = tmp_path  # type: ignore[attr-defined]
    return make


def test_agents_are_tested_pairwise_on_shared_tasks(made):
    rng = np.random.default_rng(0)
    tasks = rng.normal(6, 2, 300)
    a, b = tasks + rng.normal(0.2, 0.3, 300), tasks + rng.normal(0, 0.3, 300)
    groups = find_groups([str(made("snail", 0, a)), str(made("gru", 0, b))], [])
    text = describe_groups(groups)
    exact = stats.ttest_rel(np.float32(a).astype(float), np.float32(b).astype(float))
    line = next(line for line in text.splitlines() if "paired, 300 tasks" in line)
    assert line.startswith("gru full") and "< 0.0001" in line and exact.pvalue < 1e-4
    assert f"{a.mean() - b.mean():+.4g}" in line
    # the same numbers on other tasks: nothing pairs, and the tasks' spread hides the difference
    other = find_groups([str(made("lstm", 0, a)), str(made("transformer", 0, b, tasks="y"))], [])
    line = next(line for line in describe_groups(other).splitlines() if "other tasks" in line)
    difference, half = re.search(r"([+-][\d.]+) \+- ([\d.]+)", line).groups()
    assert abs(float(difference)) < float(half) and "0.0001" not in line


def test_seeds_are_put_together_and_their_interval_kept_apart(made):
    for seed, mean in enumerate((6.0, 6.1, 6.5)):
        made("snail", seed, mean + np.array([-1.0, 1.0] * 50))
        made("gru", seed, mean - 0.2 + np.array([-1.0, 1.0] * 50))
    snail, gru = find_groups(["bandit/n10-k5/snail", "bandit/n10-k5/gru"], [made.results])
    (number,) = snail.numbers
    assert len(number.results) == 3 and number.over_tasks.value == pytest.approx(6.2)
    assert number.over_tasks.half == pytest.approx(1.96 * np.std([-1, 1] * 50, ddof=1) / 10, rel=1e-3)
    text = describe_groups([snail, gru])
    half = 4.3027 * np.std([6.0, 6.1, 6.5], ddof=1) / 3**0.5
    assert re.search(rf"snail full +6\.2 \+- 0\.2 +\+- {half:.2g} ", text)
    narrower = describe_groups([snail, gru], bootstrap_interval)  # which knows nothing beyond the three
    assert float(re.search(r"snail full +6\.2 \+- 0\.2 +\+- ([\d.]+)", narrower)[1]) < half
    # 6.0 and 6.1 beat 5.8 and 5.9, 6.5 beats 6.3 too: 7 of 9 pairs; and every task differs by 0.2
    assert "0.778 [" in text and "+0.2 +-" in text
    assert "only the seed" in text


def test_runs_of_other_settings_are_other_groups(made):
    made("snail", 0, [5.0, 6, 7])
    made("gru", 0, [5.0, 6, 7], learning_rate=0.5)
    text = describe_groups(find_groups(["bandit/n10-k5"], [made.results]))
    assert re.search(rf"training\.learning_rate +0\.5 +{re.escape(str(RATE))}", text)
    assert "training.epochs" not in text


def test_groups_of_the_same_name_are_told_apart_and_have_limits_of_their_own(made):
    """A run with two arms cannot reach what is possible with five."""
    made("gru", 0, [5.0, 6, 7])
    made("gru", 0, [5.0, 5.1, 5.2], name="two-arms", arms=2)
    made("gru", 0, [4.0, 5, 6], name="slower", learning_rate=0.01)
    groups = find_groups(["bandit/n10-k5"], [made.results])
    assert [g.label for g in groups] == [
        f"gru full (task.arms=5, training.learning_rate={RATE})",
        "gru full (task.arms=5, training.learning_rate=0.01)",
        f"gru full (task.arms=2, training.learning_rate={RATE})",
    ]
    assert groups[0].optimum == pytest.approx(6.66, abs=0.001) and groups[2].optimum < 6.3
    text = describe_groups(groups)
    assert f"{100 * 5.1 / groups[2].optimum:.2f}%" in text
    assert re.search(r"gru full \(task.arms=2, .*\) +another task$", text, re.MULTILINE)
    assert re.search(r"gru full \(.*learning_rate=0.01\) +\+1 ", text)


def test_many_settings_are_numbered_and_listed_below(made):
    """Labels stay short however many settings differ, and lists of five groups stand below each other."""
    for i in range(5):
        made(
            "gru", 0, [5.0, 6, 7], name=f"n{i}", learning_rate=0.1 + i, steps=i + 1, clip_eps=0.3 + i, batch_size=8 + i
        )
    groups = find_groups(["bandit/n10-k5"], [made.results])
    assert [g.label for g in groups] == [f"gru full ({i})" for i in range(1, 6)]
    text = describe_groups(groups)
    assert max(map(len, text.splitlines())) < 170
    assert re.search(r"gru full \(3\) +training.batch_size=10, .*training.learning_rate=2.1", text)


def test_over_experiments(made):
    """Shares of the optimum of both experiments: an interquartile mean, and how often a run beats another's."""
    for experiment in ("bandit/n10-k5", "bandit/n10-k10"):
        for seed in (0, 1):
            made("snail", seed, [6.0 + seed, 6.2 + seed], experiment)
            made("gru", seed, [3.0 + seed, 3.2 + seed], experiment)
    text = describe_groups(find_groups(["bandit/n10-k5", "bandit/n10-k10"], [made.results]))
    over = text[text.index("over 2 measured numbers") :]
    optima = (6.6596, 6.7136)
    shares = sorted(x / optimum for optimum in optima for x in (3.1, 4.1))
    assert f"{np.mean(shares[1:3]):.3g} [" in over and "1 [1, 1]" not in next(
        line for line in over.splitlines() if line.startswith("gru full")
    )
    assert "P(gru full better)" in over


def test_a_band_over_seeds():
    """Two seeds that log at different steps: interpolated, within what both have."""
    first = [{"update": s, "time/seconds": s, "train/return": 2.0 * s} for s in range(0, 101, 10)]
    second = [{"update": s, "time/seconds": s, "train/return": 2.0 * s + 2} for s in range(5, 80, 5)]
    found = band([first, second], "train/return", "update")
    assert found is not None and found.seeds == 2
    assert (found.x[0], found.x[-1]) == (5, 75)
    assert np.allclose(found.mean, 2 * found.x + 1)
    assert np.allclose(found.low, 2 * found.x) and np.allclose(found.high, 2 * found.x + 2)  # of two, their range
    third = [{**line, "train/return": line["train/return"] + 4} for line in first]
    found = band([first, second, third], "train/return", "update")
    half = 4.30265 * 2 / math.sqrt(3)  # t(2) s / sqrt(3), of values 0, 2 and 4 apart
    assert np.allclose(found.high - found.mean, half, rtol=1e-4) and np.allclose(found.mean - found.low, half)
    single = band([first, []], "train/return", "time/seconds")
    assert single is not None and single.low is None and list(single.x) == list(range(0, 101, 10))
    assert band([first], "nothing", "update") is None
    noisy = [{"update": s, "train/return": s + 100.0 * (-1) ** s} for s in range(1, 601)]
    averaged = band([noisy], "train/return", "update")  # over six updates each
    assert len(averaged.x) == 100 and np.allclose(averaged.mean, averaged.x) and averaged.x[0] == 3.5
    assert (
        main_metric([{"update": 1, "train/loss": 1}, {"validation/accuracy_1shot": 0.5}]) == "validation/accuracy_1shot"
    )


def test_the_command(made, capsys):
    folders = [str(made("snail", s, [5.0, 6, 7])) for s in (0, 1)] + [str(made("gru", 0, [4.0, 5, 6]))]
    assert run(["compare", *folders, "--results", str(made.results)]) == 0
    out = capsys.readouterr().out
    picture = made.results / "compare-bandit-n10-k5.png"
    assert f"curves: {picture}" in out and picture.read_bytes().startswith(b"\x89PNG")
    assert run(["compare", *folders, "--results", str(made.results), "--metric", "nonsense"]) == 2
    assert "none of the runs has logged nonsense to draw; they have train/return" in capsys.readouterr().err
    assert run(["compare"]) == 2 and "which runs? give folders or experiments" in capsys.readouterr().err
    # samples that are fewer than the record says are told of, and the means are shown without comparison
    np.savez(made.results / "bandit/n10-k5/snail/full-seed0/samples.npz", **{"return": np.zeros(2, np.float32)})
    assert run(["compare", *folders, "--results", str(made.results), "--no-plot"]) == 0
    out, err = capsys.readouterr()
    assert "no samples kept" in out and "is damaged: it does not have the 3 samples of its record" in err


@pytest.mark.parametrize(
    ("target", "message"),
    [("nonsense/x", "neither the folder of a run nor an experiment"), ("mdp/n100/snail", "no finished run in")],
)
def test_what_cannot_be_compared(target, message, tmp_path, capsys):
    assert run(["compare", target, "--results", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(RunError, match="no finished run"):
        find_groups([str(tmp_path)], [])

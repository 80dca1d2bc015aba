"""Tables show what the records say, choose without looking at the numbers, and print the optima."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tiny_runs import result

from runs.catalogue import CATALOGUE, PRETRAINED
from runs.cli import run
from runs.generate import DOCS, README, pages, updated
from runs.results.records import PUBLISHED, read_results
from runs.results.tables import (
    FORMATS,
    choose,
    costs,
    draw_headline,
    draw_table,
    missing_runs,
    pictures,
    render,
    table_rows,
    tables,
)
from runs.results.tables.costs import LENGTH
from runs.results.tables.pictures import _position, pareto_front
from runs.system.errors import RunError


def row(text: str, setting: str, agent: str) -> str:
    """The line of an agent; the setting stands on the first line of its group."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(setting))
    return next(line for line in lines[start:] if re.search(rf"(^|  ){agent} ", line))


def test_the_largest_budget_wins_and_not_the_best_number():
    demo, full = result(mean=6.65), result(budget="full", mean=6.1)
    assert choose([demo, full]) == [full]
    assert choose([demo, result(seed=1), result(mean=7.0, path=Path("b"))]) == [demo, result(seed=1)]
    assert choose([result(as_catalogued=False)]) == []
    assert choose([demo, result(seed=1, settings="other"), result(seed=2, task_set="other")]) == [demo]


def test_a_row_holds_paper_ours_and_limit():
    text = render(tables()["3"], [result(), result(seed=1, mean=6.6, ci95=0.04)])
    line = row(text, "N=10 K=5", "snail")
    assert "6.6 +- 0.1" in line and "6.660" in line
    assert "6.550 +- 0.035" in line  # the same tasks: averaging narrows nothing
    # half the difference of two seeds, times t(1) = 12.706 by the printed tables
    assert "+- 0.635 (2 seeds)" in line
    assert "not run" in row(text, "N=10 K=5", "gru") and "6.7" in row(text, "N=10 K=5", "gru")
    assert re.search(
        r"79\.1 \+- 1\.0 +not run +-$", row(text, "N=100 K=5", "snail")
    )  # no exact optimum there, and no reference yet


def test_a_row_of_earlier_settings_says_so(tmp_path):
    """A record keeps its place in the table when the catalogue moves on, but not unmarked."""
    record = json.loads((PUBLISHED / "bandit/n10-k5/ucb1/full-seed0/result.json").read_text())
    found = {}
    for name, trials in (("now", record["config"]["test"]["trials"]), ("then", 1234)):
        record["config"]["test"]["trials"] = trials
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(record))
        (found[name],) = read_results([tmp_path / name])
    assert found["now"].current and not found["then"].current
    assert "full, " in row(render(tables()["3"], [found["now"]]), "N=10 K=5", "ucb1")
    assert "full (outdated config), " in row(render(tables()["3"], [found["then"]]), "N=10 K=5", "ucb1")


def test_without_the_missing_rows():
    text = render(tables()["3"], [result()], missing=False)
    assert "not run" not in text and "6.500" in text


def test_fewshot_in_per_cent():
    found = result(experiment="omniglot/5way", metric="accuracy", shots=5, mean=0.98765, ci95=0.001)
    text = render(tables()["1"], [found])
    assert "98.77 +- 0.10" in row(text, "5-way 5-shot", "snail")
    assert "not run" in row(text, "5-way 1-shot", "snail")
    assert "glyphs" not in text  # not in the paper, so shown only where it was run
    glyphs = replace(found, experiment="glyphs/5way")
    assert "98.77" in row(render(tables()["1"], [glyphs]), "glyphs 5-way 5-shot", "snail")


def test_every_cell_of_the_paper_is_there():
    assert len(tables()["3"].cells) == 10
    assert [c.label for c in tables()["1"].cells if c.in_paper] == [
        f"{ways}-way {shots}-shot" for ways in (5, 20) for shots in (1, 5)
    ]
    for name in ("1", "3"):
        for cell in tables()[name].cells:
            assert not cell.in_paper or cell.paper["snail"] is not None


def test_markdown():
    lines = render(tables()["3"], [result()], "markdown", missing=False).splitlines()
    assert lines[2].startswith("| setting | agent") and set(lines[3]) <= set("| -")
    assert "| 6.500 ± 0.030 | matches | 6.660 |" in lines[4]


def test_the_readme_and_the_pages_show_the_published_records():
    """Run ``python -m runs.generate`` to bring it up to date."""
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text
    for path, body in pages(read_results([PUBLISHED])).items():
        assert (DOCS / path).read_text(encoding="utf-8") == body, path


def test_the_readme_is_one_page():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_unequal_training_is_marked_and_does_not_compete():
    """The best number is of more training than the others had, or of an outdated configuration."""
    full = [result(budget="full", mean=6.6), result(budget="full", agent="gru", mean=6.5)]
    small = result(agent="lstm", mean=6.9)
    old = result(budget="full", agent="transformer", mean=6.9, current=False)
    text = render(tables()["3"], [*full, small, old], missing=False)
    lines = {agent: row(text, "N=10 K=5", agent) for agent in ("snail", "gru", "lstm", "transformer")}
    assert [agent for agent, line in lines.items() if " *" in line] == ["snail"]
    assert "(smaller budget)" in lines["lstm"] and "(outdated config)" in lines["transformer"]
    assert "(" not in lines["snail"] and "(" not in lines["gru"]
    pivot = render(tables()["3"], [*full, small, old], "pivot", missing=False)
    assert "**6.600** ± 0.030<br>*6.6 ± 0.1*" in pivot
    assert "6.900 ± 0.030 †" in pivot and "6.900 ± 0.030 ‡" in pivot and "| 6.660 |" in pivot
    # a small budget for all is equal training
    assert " *" in row(render(tables()["3"], [result(), result(agent="gru", mean=6.3)]), "N=10 K=5", "snail")


def test_a_note_names_classifiers_at_chance():
    def shown(mean: float, experiment: str = "omniglot/5way", form: str = "text") -> str:
        record = result(experiment=experiment, agent="lstm", shots=1, mean=mean, ci95=0.01, budget="full")
        return render(tables()["1"], [record], form)

    for form in ("text", "pivot", "markdown"):
        assert "No better than chance in some settings: lstm." in shown(0.209, form=form)
        assert "chance" not in shown(0.211, form=form)
    assert "chance" not in shown(0.209, "omniglot/20way") and "chance" in shown(0.059, "omniglot/20way")


def test_minutes_of_training_are_not_shown_beside_hours():
    short = result(agent="lstm", budget="short", mean=5.0)
    for larger in ("full", "demo"):
        text = render(tables()["3"], [result(budget=larger), short])
        assert "not run" in row(text, "N=10 K=5", "lstm") and "5.000" not in text
    method = result(agent="thompson", budget="full")  # which learns nothing: its budget says nothing of training
    assert "5.000" in row(render(tables()["3"], [method, short]), "N=10 K=5", "lstm")


def test_tables_are_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "table.png"
    assert run(["table", "3", "--agents", "snail", "gru", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="nothing to draw"):
        draw_table(tables()["3"], [], path)


def test_settings_of_our_own_are_drawn_if_named_or_alone(tmp_path, monkeypatch):
    drawn: list[list[str]] = []
    monkeypatch.setattr(
        pictures, "_draw", lambda panels, *_: drawn.append(sorted({row.cell.label for row in panels[0][1]}))
    )
    few_shot = {"metric": "accuracy", "shots": 1, "mean": 0.9}
    ours, paper = result(experiment="omniglot/5way-1shot", **few_shot), result(experiment="omniglot/5way", **few_shot)
    own = next(c.label for c in tables()["1"].cells if not c.in_paper and c.experiment == "omniglot/5way-1shot")
    for runs, cells in (([ours, paper], ()), ([ours], ()), ([ours, paper], [own])):
        draw_table(tables()["1"], runs, tmp_path / "table.png", cells=cells)
    assert drawn == [["5-way 1-shot"], [own], [own]]


def test_pictures_are_in_per_cent_where_the_optimum_is_of_other_tasks():
    """As of short runs of MDPs, whose oracle was tested on more tasks: no paired share, but a known optimum."""
    oracle = result(experiment="mdp/n10", agent="oracle", budget="full", mean=200.0, task_set="more")
    runs = [oracle, result(experiment="mdp/n10", budget="short", mean=100.0, ci95=2.0)]
    (row,) = [r for r in table_rows(tables()["4"], runs, False) if r.agent == "snail"]
    assert row.ours.share is None and row.optimum == 200
    y, half, paper = _position(row, tables()["4"])
    assert (y, half) == pytest.approx((50, 1)) and paper == pytest.approx(row.paper.value / 2)


def test_pictures_show_the_numbers_of_the_table_where_it_has_no_shares():
    (returns,) = _drawn("control", experiment="control/cheetah-velocity", metric="return_episode1", mean=-66.0, ci95=3)
    (accuracy,) = _drawn("1", experiment="omniglot/5way", metric="accuracy", shots=1, mean=0.98, ci95=0.01)
    assert returns[:2] == (-66, 3) and accuracy == pytest.approx((98, 1, 99.07))


def _drawn(table, **measured):
    rows = table_rows(tables()[table], [result(budget="full", **measured)], False)
    return [_position(row, tables()[table]) for row in rows if row.ours]


def test_a_panel_shows_results_with_their_intervals_and_the_papers_numbers():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    runs = [result(budget="full", mean=6.5, ci95=0.03), result(agent="ucb1", budget="full", mean=6.6, ci95=0.01)]
    rows = [row for row in table_rows(tables()["3"], runs, False) if row.ours]
    panel, optimum = figure.add_subplot(), rows[0].optimum
    pictures._draw_panel(
        panel, tables()["3"], rows, dict.fromkeys(("snail", "ucb1"), "C0"), {"snail": "o", "ucb1": "o"}
    )
    drawn = [bars.get_segments()[0][:, 1] for bars in panel.collections]
    assert np.allclose(
        drawn, [[100 * (m - h) / optimum, 100 * (m + h) / optimum] for m, h in ((6.5, 0.03), (6.6, 0.01))]
    )
    marks = [line.get_ydata()[0] for line in panel.lines if line.get_marker() == "_" and line.get_markersize() == 9]
    assert marks == pytest.approx([100 * 6.6 / optimum, 100 * 6.7 / optimum])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["N=10 K=5"]


def test_the_legend_fits_into_a_narrow_picture():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(6, 4.9), layout="constrained")
    agents = ("snail", "lstm", "gru", "transformer", "maml", "psrl", "ucrl2")
    budgets = dict.fromkeys(agents, "full") | {"gru": "demo"}
    runs = [result(experiment="mdp/n10", agent=agent, budget=budget) for agent, budget in budgets.items()]
    rows = [row for row in table_rows(tables()["4"], runs, False) if row.ours]
    pictures._legend(figure, rows, dict.fromkeys(agents, "C0"), dict.fromkeys(agents, "o"))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(agents) + 2  # the paper's, and the marks'
    left, _, right, _ = legend.get_window_extent().extents
    assert left >= 0 and right <= figure.bbox.width


def test_the_headline_has_a_panel_per_family(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    shown = []
    monkeypatch.setattr(pictures, "_draw_panel", lambda panel, table, rows, *_: shown.append((panel, table.name, rows)))
    runs = [result(experiment=f"bandit/n10-k{k}", budget="full") for k in (5, 10, 50)]
    runs += [result(experiment="mdp/n10", budget="full"), result(experiment="mdp/n25", budget="demo")]
    runs += [result(experiment="omniglot/5way", budget="full", metric="accuracy", shots=1, mean=0.9)]
    draw_headline([tables()[name] for name in "1234"], runs, tmp_path / "headline.png")
    assert [(name, len(rows)) for _, name, rows in shown] == [("1", 1), ("4", 1), ("3", 3)]  # the widest comes last
    (first, second, last) = (panel.get_position() for panel, *_ in shown)
    assert first.y0 == second.y0 > last.y0 and first.x1 < second.x0
    with pytest.raises(RunError, match="nothing to draw"):
        draw_headline([tables()["1"]], runs[:3], tmp_path / "headline.png")


def test_nobody_on_the_front_is_passed_in_cost_and_quality():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (1.0, 0.6), (3.0, 0.8), (9.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.6), (3.0, 0.9)]


def test_what_a_memory_costs_stands_beside_what_it_collects(tmp_path, monkeypatch):
    measured = tmp_path / "scaling.json"
    times, sizes = {"snail": [5.0, 70.0]}, {"snail": [1.0, 4000.0]}
    measured.write_text(
        json.dumps({"scaling": {"lengths": [10, LENGTH], "values": {"step time": times, "step memory": sizes}}})
    )
    monkeypatch.setattr(costs, "MEASURED", measured)
    costs.memory_costs.cache_clear()
    models = tables()["models"]
    runs = [
        result(experiment="bandit/n100-k5", budget="short"),
        result(experiment="omniglot/5way", budget="short", metric="accuracy", shots=1),
    ]
    try:
        bandit, *_, classifier = [line for line in render(models, runs, missing=False).splitlines() if "snail" in line]
        assert "70 µs" in bandit and "4,000 kB" in bandit
        assert "µs" not in classifier  # which takes no steps of a trial
        draw_table(models, runs, tmp_path / "models.png")
        assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")
    finally:
        costs.memory_costs.cache_clear()


def test_where_no_limit_is_known_a_reference_stands_for_it(tmp_path):
    """In per cent of what it collects on the same tasks, with the interval of the paired ratio."""
    ours, theirs = np.array([70.0, 80.0, 60.0, 90.0]), np.array([75.0, 82.0, 65.0, 98.0])

    def measured(agent: str, samples, **changes):
        folder = tmp_path / agent
        folder.mkdir(exist_ok=True)
        np.savez(folder / "samples.npz", **{"return": samples.astype(np.float32)})
        return result(
            experiment="bandit/n100-k5", agent=agent, mean=samples.mean(), n=4, path=folder / "result.json", **changes
        )

    reference = measured("finite-gittins", theirs)
    text = render(tables()["3"], [measured("snail", ours), reference])
    ratio = 300 / 320
    residual = ours - ratio * theirs
    half = stats.t.ppf(0.975, 3) * residual.std(ddof=1) / 2 / 80
    assert f"80.000     {100 * ratio:.2f} +- {100 * half:.2f}%" in row(text, "N=100 K=5", "snail")
    assert "100.00 +- 0.00%" in row(text, "N=100 K=5", "finite-gittins")
    # on other tasks there is nothing to compare
    text = render(tables()["3"], [measured("snail", ours, task_set="y"), reference])
    assert "%" not in row(text, "N=100 K=5", "snail")
    (tmp_path / "snail" / "samples.npz").unlink()
    text = render(tables()["3"], [measured("gru", ours), reference])
    (tmp_path / "gru" / "samples.npz").unlink()
    assert "93.75%" in render(
        tables()["3"], [replace(reference, agent="gru", mean=75.0, path=tmp_path / "x"), reference]
    )


def test_mdps_are_in_rewards_on_the_papers_scale_and_against_the_oracle():
    text = render(
        tables()["4"],
        [result(experiment="mdp/n10", mean=155.7), result(experiment="mdp/n10", agent="oracle", mean=218.0)],
    )
    line = row(text, "N=10 ", "snail")
    # 0.766 of the unit in which 0.752 is RL^2's 156.2; 155.7 / 207.6; 155.7 / 218
    assert "159.1 +- 0.2" in line and "0.750" in line and "71.42%" in line and "218.0" in line
    assert "138.1" in row(text, "N=10 ", "psrl-mean0") and "138.1" not in row(text, "N=10 ", "psrl")
    assert "1953.1 +- 6.2" in row(text, "N=100", "snail")


def test_every_row_is_of_an_agent_that_can_be_run_or_of_the_paper():
    shown: dict[str, set] = {}
    for table in tables().values():
        for cell in table.cells:
            agents = set(CATALOGUE[cell.experiment].agents) if cell.experiment in CATALOGUE else set()
            shown.setdefault(cell.experiment, set()).update(cell.paper)
            assert all(
                printed is not None
                for agent, printed in cell.paper.items()
                if agents and agent not in agents and agent != "maml"
            )
    for experiment, agents in shown.items():  # nothing that can be run is without a row
        assert set(CATALOGUE[experiment].agents) <= agents


def test_comparisons_show_one_budget_and_sizes_instead_of_the_paper():
    short = result(experiment="bandit/n100-k5", budget="short", mean=60.0)
    text = render(tables()["attention"], [short, result(experiment="bandit/n100-k5", mean=77.0)])
    assert text.startswith("Attention: ")
    assert "1,234,567" in row(text, "bandit: score", "snail") and "60.000" in row(text, "bandit: score", "snail")
    assert "not run" in row(text, "", "snail-cosine") and "77.000" not in text


def test_the_verdict_is_where_the_papers_value_lies():
    """The paper prints 6.6 +- 0.1 for SNAIL on (10, 5), so the true mean of its runs is within 0.05 + 0.1 of that."""
    for mean, verdict in ((6.648, "matches"), (6.46, "matches"), (6.4, "below"), (6.8, "above")):
        assert f" {verdict} " in row(render(tables()["3"], [result(mean=mean, ci95=0.03)]), "N=10 K=5", "snail")
    # a number without an interval is known to its rounding: 6.7 of the GRU is 6.65 to 6.75
    for mean, verdict in ((6.63, "matches"), (6.61, "below"), (6.77, "matches"), (6.79, "above")):
        assert f" {verdict} " in row(render(tables()["3"], [result(agent="gru", mean=mean)]), "N=10 K=5", "gru")
    assert not re.search("matches|above|below", render(tables()["3"], []))  # nothing to judge
    fewshot = result(experiment="omniglot/5way", metric="accuracy", shots=1, mean=0.9905, ci95=0.001)  # paper: 99.07
    assert "matches" in row(render(tables()["1"], [fewshot]), "5-way 1-shot", "snail")


def test_the_best_and_what_is_not_told_from_it_are_marked():
    """Standard errors of 0.01 each: a difference of 0.03 is 2.1 of its standard errors, one of 0.02 is 1.4."""
    best = result(mean=6.60, ci95=0.0196, n=10_000)
    near, far = replace(best, agent="gru", mean=6.58), replace(best, agent="lstm", mean=6.57)
    text = render(tables()["3"], [far, best, near])
    marked = {agent: " *" in row(text, "N=10 K=5", agent) for agent in ("snail", "gru", "lstm")}
    assert marked == {"snail": True, "gru": True, "lstm": False}
    assert "one-sided t-test at 0.05" in text
    # what stands for the optimum does not compete, and a single agent is no comparison
    oracle = replace(best, experiment="mdp/n10", agent="oracle", mean=218.0)
    beside = [replace(best, experiment="mdp/n10", mean=x, agent=a) for x, a in ((150.0, "snail"), (140.0, "psrl"))]
    text = render(tables()["4"], [oracle, *beside])
    assert [a for a in ("oracle", "snail", "psrl") if " *" in row(text, "N=10 ", a)] == ["snail"]
    assert " *" not in render(tables()["3"], [best])


def test_comparisons_of_ours_mark_only_what_differs_over_seeds():
    """However narrow the intervals over tasks: another training might turn the order."""
    cell = tables()["attention"].cells[0]
    one = replace(result(mean=0.9, ci95=1e-4), experiment=cell.experiment, shots=cell.shots, metric="accuracy")
    one = replace(one, budget="short", settings=one.settings, current=True, as_catalogued=True)
    others = [replace(one, agent="snail-dot", mean=0.5)]
    assert " *" not in render(tables()["attention"], [one, *others])
    seeds = [replace(r, seed=s, mean=r.mean + 0.01 * s) for r in (one, *others) for s in range(3)]
    text = render(tables()["attention"], seeds)
    assert "0.910 +- 0.000 *" in text and text.count(" *") == 1


def test_control_compares_episodes_of_the_same_trials(tmp_path):
    """Gain: paired by test task. Ceiling: of the agent that is shown the task. Of errors, less is better."""
    first, second = np.array([1.0, 4.0, 2.0, 7.0], np.float32), np.array([2.0, 4.0, 5.0, 8.0], np.float32)
    path = tmp_path / "result.json"
    np.savez(tmp_path / "samples.npz", return_episode1=first, return_episode2=second)
    run = result(experiment="control/cheetah-direction", budget="full", n=4, path=path)
    told = result(experiment="control/cheetah-direction-told", budget="full", mean=9.0, metric="return")
    found = [replace(run, metric=f"return_episode{e}", mean=float(x.mean())) for e, x in ((1, first), (2, second))]
    found += [replace(run, metric="return", mean=8.25), told]
    rows = {r.cell.label: r for r in table_rows(tables()["control"], found, missing=False)}
    assert [(k.rpartition(", ")[2], r.ours.mean.value, r.optimum) for k, r in rows.items()] == [
        ("episode 1", 3.5, 9.0),
        ("episode 2", 4.75, 9.0),
        ("gain", 1.25, None),
    ]
    # differences 1, 0, 3, 1: their standard deviation is sqrt(19 / 12)
    assert rows["cheetah direction, gain"].ours.mean.half == pytest.approx(1.96 * (19 / 12) ** 0.5 / 2)
    errors = [
        result(
            experiment="control/cheetah-velocity", agent=a, seed=s, metric="velocity_error_episode2", mean=m + s / 99
        )
        for a, m in (("snail", 0.3), ("gru", 0.9))
        for s in (0, 1, 2)
    ]
    best = {r.agent: r.ours.best for r in table_rows(tables()["control"], errors, missing=False)}
    assert best == {"snail": True, "gru": False}
    needed = missing_runs(tables()["control"], [], agents=("snail",), cells=("control/ant-velocity",))
    assert [c.experiment for c in needed] == ["control/ant-velocity", "control/ant-velocity-told"]


def test_every_format_holds_the_same_numbers():
    found = [result(mean=6.6), result(agent="gru", mean=6.4), result(seed=1, mean=6.62)]
    shown = {form: render(tables()["3"], found, form, missing=False) for form in FORMATS}
    assert "6.610 +- 0.030 *" in shown["text"] and "6.400 +- 0.030" in shown["text"]
    assert "| **6.610 ± 0.030** |" in shown["markdown"]
    assert r"\textbf{6.610 $\pm$ 0.030}" in shown["latex"] and r"6.400 $\pm$ 0.030" in shown["latex"]
    assert "<strong>6.610 ± 0.030</strong>" in shown["html"]
    lines = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert [line["agent"] for line in lines] == ["snail", "gru"]
    assert float(lines[0]["mean"]) == pytest.approx(6.61) and lines[0]["best"] == "True" and lines[0]["seeds"] == "2"
    assert lines[0]["verdict"] == "matches" and float(lines[1]["paper"]) == 6.7


def test_latex_is_whole():
    """Every special character of it is escaped, and every row has as many cells as there are columns."""
    text = render(tables()["1"], [result(experiment="omniglot/5way-1shot", metric="accuracy", shots=1)], "latex")
    columns = len(re.search(r"\\begin\{tabular\}\{(l+)\}", text)[1])
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) > 20 and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in rows)
    assert not re.search(r"(?<!\\)[%#_]", text.replace("% needs", "", 1))
    assert text.count("{") == text.count("}") and "±" not in text


def test_html_cannot_be_broken_out_of():
    odd = result(budget="demo", agent="snail")
    cell = replace(tables()["3"].cells[0], label="<script>alert(1)</script>")
    text = render(replace(tables()["3"], cells=(cell,)), [odd], "html")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_only_some_agents_and_cells():
    text = render(tables()["3"], [], agents=("snail", "gru"), cells=("N=10 K=5", "bandit/n100-k5"))
    lines = [line for line in text.splitlines() if "not run" in line]
    assert len(lines) == 4 and lines[2].startswith("N=100 K=5  snail")


def test_what_is_missing():
    table = tables()["3"]
    everything = missing_runs(table, [])
    assert {c.budget for c in everything} == {"full"} and {c.seed for c in everything} == {0}
    chosen = {"agents": ["snail", "gru"], "cells": ["N=10 K=5"], "seeds": (0, 1)}
    found = missing_runs(table, [result(budget="full"), result(seed=1)], **chosen)
    # the demo of seed 1 is not enough; of seed 0 there is all
    assert [(c.agent, c.seed) for c in found] == [("snail", 1), ("gru", 0), ("gru", 1)]
    # another budget is another table: of it the full run is none
    found = missing_runs(replace(table, budget="demo"), [result(budget="full"), result(seed=1)], **chosen)
    assert [(c.agent, c.seed, c.budget) for c in found] == [
        ("snail", 0, "demo"),
        ("gru", 0, "demo"),
        ("gru", 1, "demo"),
    ]
    # one run gives both numbers of shots
    assert [c.experiment for c in missing_runs(tables()["2"], [], agents=["snail"])] == [
        "mini-imagenet/5way",
        PRETRAINED,
    ]
    # a comparison has a budget of its own, and a larger one is no substitute
    short = missing_runs(tables()["attention"], [result(experiment="bandit/n100-k5", budget="full")], agents=["snail"])
    assert {(c.experiment, c.budget) for c in short} == {("bandit/n100-k5", "short"), ("omniglot/5way-1shot", "short")}


def test_what_is_missing_is_run_and_printed(tmp_path, capsys, monkeypatch):
    """Once: the second time nothing is missing."""
    monkeypatch.setattr("runs.commands.tables.PUBLISHED", tmp_path / "none")
    chosen = ["table", "3", "--agents", "random", "gru", "--cells", "N=10 K=5", "--results", str(tmp_path)]
    missing = [*chosen, "--run-missing", "--budget", "smoke", "--engine", "process", "--tracker", "none"]
    assert run([*missing, "--seeds", "3", "4", "--dry-run"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [  # what does not learn has no seeds
        "bandit/n10-k5 gru, smoke budget, seed 3",
        "bandit/n10-k5 gru, smoke budget, seed 4",
        "bandit/n10-k5 random, smoke budget, seed 0",
    ]
    assert last.startswith("3 runs are missing; about ")
    missing.remove("gru")
    assert run(missing) == 0
    assert re.search(r"random +5\.0 +\d\.\d{3} \+- ", capsys.readouterr().out)
    (record,) = tmp_path.rglob("result.json")
    before = record.stat().st_mtime_ns
    assert run(missing) == 0 and record.stat().st_mtime_ns == before
    assert run([*missing, "--dry-run"]) == 0 and "0 runs are missing" in capsys.readouterr().out
    assert run([*chosen, "--seeds", "7"]) == 0
    text = capsys.readouterr().out
    assert "not run" in row(text, "", "gru") and "not run" not in row(text, "", "random")
    # what is asked for is what is shown, whatever larger budgets there are
    shutil.copytree(PUBLISHED / "bandit/n10-k5/random", tmp_path / "more" / "random")
    monkeypatch.setattr("runs.commands.tables.PUBLISHED", tmp_path / "more")
    for budget in ("full", "smoke"):
        assert run([*chosen, "--budget", budget]) == 0 and f"{budget}, " in row(capsys.readouterr().out, "", "random")


def test_present_settings_go_before_earlier_ones():
    """A run of settings that the catalogue has no more is shown while there is no other, and is missing."""
    old = result(budget="full", current=False, settings="old", path=Path("a"))
    new = result(budget="full", seed=1, path=Path("b"))
    assert choose([old, new]) == [new] and choose([old]) == [old]
    chosen = {"agents": ["snail"], "cells": ["N=10 K=5"], "seeds": (0, 1)}
    assert [c.seed for c in missing_runs(tables()["3"], [old, new], **chosen)] == [0]


def test_no_damage_to_a_file_of_samples_costs_more_than_its_row(tmp_path, capsys):
    """Any byte of it may be another: what is read is as it was, or it is told in one line."""
    path = tmp_path / "samples.npz"
    np.savez_compressed(path, **{"return": np.linspace(0, 1, 50, dtype=np.float32)})
    whole = path.read_bytes()
    found = result(path=tmp_path / "result.json")
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found.samples()
    err = capsys.readouterr().err
    assert "is damaged: " in err and "; remove it, or restore it" in err
    (tmp_path / "odd" / "result.json").mkdir(parents=True)
    assert read_results([tmp_path]) == [] and "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--agents", "foo"], "table 3 has no agent 'foo'; it has "),
        (["--cells", "N=11 K=5"], "table 3 has no cell 'N=11 K=5'; it has "),
        (["--run-missing", "--budget", "huge"], "there is no budget 'huge'; choose full, demo"),
    ],
)
def test_what_a_table_does_not_have(words, message, capsys, tmp_path):
    assert run(["table", "3", "--results", str(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1

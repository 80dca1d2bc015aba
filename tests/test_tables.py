"""Tables show what the records say, choose without looking at the numbers, and print the limits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from runs.readme import README, updated
from runs.records import Result
from runs.tables import choose, render, tables


def result(**changes) -> Result:
    base = Result(
        experiment="bandit/n10-k5",
        agent="snail",
        seed=0,
        budget="demo",
        metric="return",
        shots=None,
        mean=6.5,
        ci95=0.03,
        n=100,
        task_set="x",
        as_catalogued=True,
        settings="s",
        train_seconds=60.0,
        path=Path("a"),
    )
    return replace(base, **changes)


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
    text = render(tables()[3], [result(), result(seed=1, mean=6.6, ci95=0.04)])
    line = row(text, "N=10 K=5", "snail")
    assert "6.6 +- 0.1" in line and "6.660" in line and "2 seeds" in line
    assert "6.550 +- 0.035" in line and "sd 0.071" in line  # the same tasks: averaging narrows nothing
    assert "not run" in row(text, "N=10 K=5", "gru") and "6.7" in row(text, "N=10 K=5", "gru")
    assert re.search(r"79\.1 \+- 1 +not run +-$", row(text, "N=100 K=5", "snail"))  # no exact limit there


def test_without_the_missing_rows():
    text = render(tables()[3], [result()], missing=False)
    assert "not run" not in text and "6.500" in text


def test_fewshot_in_per_cent():
    found = result(experiment="omniglot/5way", metric="accuracy", shots=5, mean=0.98765, ci95=0.001)
    text = render(tables()[1], [found])
    assert "98.77 +- 0.10" in row(text, "5-way 5-shot", "snail")
    assert "not run" in row(text, "5-way 1-shot", "snail")
    assert "glyphs" not in text  # not in the paper, so shown only where it was run
    glyphs = replace(found, experiment="glyphs/5way")
    assert "98.77" in row(render(tables()[1], [glyphs]), "glyphs 5-way 5-shot", "snail")


def test_every_cell_of_the_paper_is_there():
    assert len(tables()[3].cells) == 10
    assert [c.label for c in tables()[1].cells if c.in_paper] == [
        f"{ways}-way {shots}-shot" for ways in (5, 20) for shots in (1, 5)
    ]
    for number in (1, 3):
        for cell in tables()[number].cells:
            assert not cell.in_paper or cell.paper["snail"] is not None


def test_markdown():
    lines = render(tables()[3], [result()], "markdown", missing=False).splitlines()
    assert lines[2].startswith("| setting | agent") and set(lines[3]) <= set("| -")
    assert "| 6.500 ± 0.030 | 6.660 |" in lines[4]


def test_the_readme_shows_the_published_records():
    """Run ``python -m runs.readme`` to bring it up to date."""
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text

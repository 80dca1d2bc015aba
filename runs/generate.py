"""Generates documents from the published records: ``python -m runs.generate``.

Writes the numbers in the README, the pages and pictures in docs/results, docs/benchmarks.md and docs/cli.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

from runs.bench.scaling import Scaling, draw_scaling
from runs.commands import COMMANDS, about, run_command
from runs.commands.demo import AGENTS
from runs.commands.listing import LISTING, digest, listing
from runs.results.compare import Group
from runs.results.curves import PER_EPISODE, SHARE, Lines
from runs.results.equal_seconds import learned_in_full, render_equal_seconds
from runs.results.findings import findings, measured_optima, render_findings
from runs.results.folder import writing
from runs.results.plots import learning_curves
from runs.results.records import PUBLISHED, Result, read_results
from runs.results.stored import read_record
from runs.results.tables import Table, draw_headline, draw_table, render, table_rows, tables
from runs.results.transfer import render_transfer, transfers

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
OF_PAPER = ("1", "2", "3", "4")
PIVOTED = (*OF_PAPER, "control")
TITLES = {
    "1": "Omniglot",
    "2": "mini-ImageNet",
    "3": "Bandits",
    "4": "MDPs",
    "control": "Control",
    "models": "Sequence models",
    "attention": "Attention",
    "ablation": "Ablation",
}
PICTURED = (
    "snail",
    "lstm",
    "gru",
    "transformer",
    "maml",
    "protonet",
    "transfer",
    "ucb1",
    "gittins",
    "psrl",
    "ucrl2",
    "opsrl",
)


def headline(results: Sequence[Result]) -> str:
    """SNAIL and the paper in every setting that was trained with the full budget, as Markdown."""
    lines = ["| setting | paper | ours | verdict | % of optimum | config |", "| --- | --- | --- | --- | --- | --- |"]
    for name in OF_PAPER:
        table = tables()[name]
        for row in table_rows(table, results, False, agents=("snail",)):
            if row.ours is None or row.paper is None or row.ours.budget != "full":
                continue
            mean, digits = row.ours.mean.scaled(table.scale), table.digits
            ours = f"{mean.value:.{digits}f} ± {mean.half:.{digits}f}"
            share = f"{100 * row.ours.share.value:.1f}" if row.ours.share and table.shares else ""
            config = "current" if row.ours.current else "outdated"
            cells = (f"{TITLES[name]} {row.cell.label}", row.paper, ours, row.verdict(table.scale), share, config)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def pages(results: Sequence[Result]) -> dict[Path, str]:
    """The generated pages by their paths below docs/."""
    found = {
        Path("results/index.md"): _index(results),
        Path("benchmarks.md"): _benchmarks(),
        Path("cli.md"): command_line(),
    }
    learned = learned_in_full(results, PUBLISHED)
    found[Path("results/curves.md")] = _curves(learned)
    compared = list(findings(learned, measured_optima(results)))
    found[Path("results/findings.md")] = FINDINGS.format(found=render_findings(compared))
    if transfers():
        found[Path("results/table-transfer.md")] = f"# Transfer\n\n{render_transfer(transfers())}\n"
    for name, table in _measured(results).items():
        parts = [f"# {TITLES[name]}", ""]
        parts += [f"![{table.title}](table-{name}.png)", ""] if table.of_paper or table.costs else []
        if name in PIVOTED:
            parts += [render(table, results, "pivot"), "", "## All rows", ""]
        parts.append(render(table, results, "markdown", missing=False))
        several = [cell.experiment for cell in table.cells if cell.experiment in learned]
        if name == "models" and several:
            full = render(replace(table, budget="full"), results, "markdown", missing=False, cells=several)
            parts += ["", "## Full budget", "", full]
        found[Path(f"results/table-{name}.md")] = "\n".join([*parts, ""])
    return found


def command_line() -> str:
    """The help of every command, as Markdown."""
    parts = ["# Command line", "", "The output of `snail COMMAND --help`; `snail` lists the commands."]
    with mock.patch.dict(os.environ, COLUMNS="110", NO_COLOR="1"):
        for command in COMMANDS:
            words = [command, "bandit/n10-k5", "--help"] if command == "train" else [command, "--help"]
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
                run_command(words[0], words[1:])
            plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
            text = "\n".join(line.rstrip() for line in plain.strip().splitlines())
            parts += ["", f"## snail {command}", "", about(command), "", f"```\n{text}\n```"]
    return "\n".join([*parts, ""])


def _measured(results: Sequence[Result]) -> dict[str, Table]:
    measured = {r.experiment for r in results}
    return {n: t for n, t in tables().items() if measured & {cell.experiment for cell in t.cells}}


INDEX = """\
# Results

![Accuracy, or share of the optimum, of each agent in all settings](headline.png)

{headline}

{links}

## How they were measured

- Every number is measured on frozen test tasks that all agents of a setting share. In few-shot classification the
  checkpoint is selected on validation classes; elsewhere it is the last one. No seeds are selected.
- All agents of a setting have the same number of updates, the same batches and the same test tasks. Rows with less
  training, or with earlier hyperparameters, are marked and never compete for bold.
- A verdict compares our number with the paper's: *matches* if they differ by no more than both 95% intervals and the
  paper's rounding allow; otherwise ours is *above* or *below*.
- Intervals are over test tasks, for a single training unless seeds are given. How much trainings differ is a separate
  question, which only more seeds answer.
- The [reproduction notes](../reproduction.md) explain what the papers leave open, and where we differ.

{machines}

## Output of `make demo`

{demo}
"""

FINDINGS = """\
# SNAIL against the other agents

All settings in which SNAIL and another agent were trained and tested alike, with the catalogue's current
configuration. {found}

If both have several seeds, the interval is over seeds (Welch) and concerns the training. Otherwise it is over paired
test tasks, for one training each: it compares these two trained agents, and another training of either may give another
result. For the speed of learning, see the [learning curves](curves.md).

In control, unlike elsewhere, the learning rate is one for all agents, chosen with SNAIL. After a fifth of the updates
the GRU leads with twice that rate ([note 48](../reproduction.md#studies)), so SNAIL's lead there may be the rate's.
"""

CURVES = """\
# Learning curves

In the [tables](index.md), all agents of a setting have the same number of updates. Here they have the same training
time: that of the agent which finished first. The numbers are returns on training tasks, which are always new, or
accuracies on validation classes, averaged over the last tenth of the curve so far. The other agents' learning rates had
not decayed to the end by then, which is a disadvantage. The machine was shared, so differences of about ten per cent in
time are not significant. In the figures, single batches are averaged over each hundredth of a curve.

Trials of 500 pulls, and of 25 episodes and more, grow during the first 60% of the updates, so that returns can be
compared only after that. -: an agent whose trials still grow, or that has not been validated yet. The figures of
bandits of 100 pulls and more show the return as a share of what always pulling the best arm is expected to earn, which
no agent that does not know it can reach; those of 25 and more episodes show the return per episode.

{table}

{pictures}
"""

BENCHMARKS = """\
# Benchmarks

Measured by `snail bench --save FILE`. Since the machine may be busy, all candidates take turns in one process, and
ratios are medians over the turns.

![Time and memory against the length of a sequence](results/scaling.png)

{texts}
"""


def _index(results: Sequence[Result]) -> str:
    demo = [r for r in results if r.budget == "demo" and r.agent in AGENTS.get(r.experiment, ())]
    of_demo = {r.experiment for r in demo}
    links = [f"- [{TITLES[n]}](table-{n}.md): {t.title}" for n, t in _measured(results).items()]
    links.append("- [SNAIL against the other agents](findings.md): paired differences, with intervals")
    links.append("- [Learning curves](curves.md): all agents at equal updates and at equal training time")
    if transfers():
        links.append("- [Transfer](table-transfer.md): agents on longer trials than in training")
    shown = [t for t in tables().values() if t.of_paper and of_demo & {cell.experiment for cell in t.cells}]
    return INDEX.format(
        headline=headline(results),
        links="\n".join(links),
        machines=_machines(),
        demo="\n\n".join(render(t, demo, "markdown", missing=False) for t in shown),
    )


def _curves(compared: dict[str, list[Group]]) -> str:
    pictures = [f"## {name}\n\n![Learning curves of {name}]({_picture(name)})" for name in compared]
    return CURVES.format(table=render_equal_seconds(compared), pictures="\n\n".join(pictures))


def _picture(experiment: str) -> str:
    return f"curves-{experiment.replace('/', '-')}.png"


def _benchmarks() -> str:
    benches = [json.loads(path.read_text()) for path in sorted(PUBLISHED.glob("bench/*.json"))]
    return BENCHMARKS.format(texts="\n".join(f"```\n{b['text']}\n```\n" for b in benches))


def _machines() -> str:
    """Where and when the records were made."""
    records = [read_record(path) for path in sorted(PUBLISHED.rglob("result.json"))]
    devices = "; ".join(sorted({r["device"] for r in records}))
    threads = " or ".join(map(str, sorted({r["threads"] for r in records})))
    days = sorted(r["finished"][:10] for r in records)
    return (
        f"Measured on these processors: {devices}; with {threads} threads, "
        f"{' to '.join(sorted({days[0], days[-1]}))}. Times are of training only. Each "
        "number's record, with its settings, versions and commit, is in `runs/published/`."
    )


def updated(text: str) -> str:
    """The README with updated numbers."""
    body = headline(read_results([PUBLISHED]))
    return re.sub(r"(<!-- headline -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.S)


def draw(results: Sequence[Result]) -> None:
    """Draw the figures of the pages."""
    draw_headline([tables()[name] for name in OF_PAPER], results, DOCS / "results" / "headline.png")
    for name, table in _measured(results).items():
        if table.of_paper or table.costs:
            agents = PICTURED if table.of_paper else ()
            draw_table(table, results, DOCS / "results" / f"table-{name}.png", agents)
    for experiment, groups in learned_in_full(results, PUBLISHED).items():
        curves = [group.curve() for group in groups]
        metric = _of_all_trials([line for curve in curves for lines in curve.runs for line in lines])
        learning_curves(
            curves,
            DOCS / "results" / _picture(experiment),
            experiment,
            optimum=None if metric else groups[0].optimum,
            axes=("update", "time/seconds"),
            metric=metric,
        )
    for path in PUBLISHED.glob("bench/scaling-*.json"):
        found = json.loads(path.read_text())["scaling"]
        draw_scaling(Scaling(tuple(found["lengths"]), found["values"]), DOCS / "results" / "scaling.png")


def _of_all_trials(lines: Lines) -> str | None:
    """What to draw instead of the return: a metric that shorter trials have, too, and that all lines have."""
    if any("train/return" not in line for line in lines) or any(SHARE in line for line in lines):
        return next((name for name in (SHARE, PER_EPISODE) if all(name in line for line in lines)), None)
    return None


def main() -> None:
    """Write everything."""
    results = read_results([PUBLISHED])
    written = {LISTING: f"{digest()}\n{listing()}", README: updated(README.read_text(encoding="utf-8"))}
    written |= {DOCS / path: text for path, text in pages(results).items()}
    for path, text in written.items():
        with writing(path) as file:
            file.write(text.encode())
    draw(results)


if __name__ == "__main__":
    main()

"""Pictures of runs. matplotlib is an extra, imported when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs.errors import RunError
from runs.folder import RunFolder, writing

# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = {"snail": "#0072B2", "lstm": "#D55E00", "gru": "#E69F00", "transformer": "#009E73"}


def learning_curves(runs: Sequence[RunFolder], path: Path) -> None:
    """Draw the runs of one experiment over training time into a PNG, with the limit and the tested numbers.

    A few-shot run shows accuracy on the validation classes, a meta-RL run the return of its training batches,
    which are of tasks never seen before. Crosses are the numbers measured on the test tasks.

    Raises:
        RunError: if matplotlib is not installed or no run has logged anything.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise RunError("matplotlib is not installed; run: pip install 'snail-suite[plot]'") from e
    drawn = [(run, run.config(), run.metrics()) for run in runs]
    drawn = [(run, config, lines) for run, config, lines in drawn if lines]
    if not drawn:
        raise RunError("none of the runs has logged anything to draw")
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    name = _curve(drawn[0][2])
    for run, config, lines in drawn:
        points = [(line["seconds"], line[name]) for line in lines if name in line]
        colour = COLOURS.get(config.agent)
        axes.plot(*zip(*points, strict=True), color=colour, label=config.agent, linewidth=1.6)
        for r in _tested(run, name):
            axes.errorbar(points[-1][0], r["mean"], r["ci95"], color=colour, marker="x", capsize=3)
    config = drawn[0][1]
    limit = config.task.limit()
    if limit is not None:
        axes.axhline(limit, color="0.4", linestyle="--", linewidth=1)
        axes.annotate(
            f"limit {limit:.3f}" if limit != 1 else "limit 1",
            (0.005, limit),
            xycoords=("axes fraction", "data"),
            va="bottom",
            color="0.4",
            fontsize=9,
        )
    axes.set_title(f"{config.experiment}, {config.budget} budget")
    axes.set_xlabel("training time in seconds")
    axes.set_ylabel(name.replace("_", " ").replace("1shot", "1 shot") + "  (x: test)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _curve(lines: Sequence[dict[str, Any]]) -> str:
    """The metric to draw: the first on validation tasks, else the return."""
    names = [name for line in lines for name in line]
    return next((name for name in names if name.startswith("validation")), "return")


def _tested(run: RunFolder, curve: str) -> list[dict[str, Any]]:
    """The record's numbers of the same kind as the curve."""
    record = run.result() or {"results": []}
    return [r for r in record["results"] if "shots" not in r or curve.endswith(f"_{r['shots']}shot")]

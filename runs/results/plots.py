"""Learning curves as figures. matplotlib is an extra, imported on use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs.results.curves import Axis, Lines, band
from runs.results.folder import writing
from runs.results.metrics import main_metric
from runs.system.errors import RunError

# Okabe and Ito's palette, distinguishable for colour-blind readers
COLOURS = {
    "snail": "#0072B2",
    "lstm": "#D55E00",
    "gru": "#E69F00",
    "transformer": "#009E73",
    "maml": "#CC79A7",
    "protonet": "#56B4E9",
}
OTHERS = ("#000000", "#999933", "#882255", "#44AA99", "#AA4499", "#8C6D31")
AXES: dict[Axis, str] = {
    "env_steps": "environment steps",
    "episodes": "training episodes",
    "update": "updates",
    "time/seconds": "training time in seconds",
}


@dataclass(frozen=True)
class Curve:
    """The runs of one agent, which differ only in their seed.

    runs: each one's metrics.
    tested: (mean, half-width of its interval) on the test tasks, by metric.
    """

    label: str
    agent: str
    runs: Sequence[Lines]
    tested: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def learning_curves(
    curves: Iterable[Curve],
    path: Path,
    title: str,
    *,
    optimum: float | None = None,
    axes: Sequence[Axis] = ("time/seconds",),
    metric: str | None = None,
) -> None:
    """Draw curves into a PNG, one panel per axis, with the optimum and the test results.

    Few-shot runs show the accuracy on validation classes, meta-RL runs the return of the training batches, which
    always have new tasks. Bands are 95% intervals over seeds, or the range of two; crosses are the results
    on the test tasks, with intervals over these.

    Args:
        optimum: the upper bound for every agent.
        metric: the metric to draw; None: the main learning metric.

    Raises:
        RunError: if matplotlib is not installed or no run has logged the metric.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise RunError("matplotlib is not installed; run: pip install 'snail-suite[plot]'") from e
    curves = [c for c in curves if any(c.runs)]
    name = metric or (main_metric([line for c in curves for lines in c.runs for line in lines]) if curves else "")
    drawn = [c for c in curves if band(c.runs, name, axes[0])]
    if not drawn:
        known = {key for c in curves for lines in c.runs for line in lines for key in line} - set(AXES)
        advice = f"; they have {', '.join(sorted(known))}" if known else ""
        raise RunError(f"none of the runs has logged {metric or 'anything'} to draw{advice}")
    figure = Figure(figsize=(2.5 + 5 * len(axes), 4.5), layout="constrained")
    panels = figure.subplots(1, len(axes), squeeze=False, sharey=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for curve, colour in zip(drawn, _colours(drawn), strict=True):
            _draw(panel, curve, name, axis, colour)
        if optimum is not None:
            _draw_optimum(panel, optimum)
        panel.set_xlabel(AXES[axis])
        panel.set_xlim(left=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    _set_range(panels[0], drawn, name, axes[0], optimum)
    crosses = "  (x: test)" if any(_tested(curve, name) for curve in drawn) else ""
    panels[0].set_ylabel(name.replace("_", " ").replace("/", " ").replace("1shot", "1 shot") + crosses)
    handles, labels = panels[-1].get_legend_handles_labels()
    columns = max(1, int(13 * figure.get_figwidth() / (6 + max(map(len, labels)))))  # characters that fit the width
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(columns, len(labels)))
    figure.suptitle(title)
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _colours(curves: Sequence[Curve]) -> list[str]:
    """A fixed colour per agent; further curves with the same colour get others."""
    others, found = iter(OTHERS * len(curves)), []
    for curve in curves:
        own = COLOURS.get(curve.agent)
        found.append(own if own and own not in found else next(others))
    return found


def _draw(panel: Any, curve: Curve, name: str, axis: Axis, colour: str) -> None:
    found = band(curve.runs, name, axis)
    if found is None:
        return
    seeds = f" ({found.seeds} seeds)" if found.seeds > 1 else ""
    panel.plot(found.x, found.mean, color=colour, label=curve.label + seeds, linewidth=1.6)
    if found.low is not None and found.high is not None:
        panel.fill_between(found.x, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
    for mean, ci95 in _tested(curve, name):
        panel.errorbar(found.x[-1], mean, ci95, color=colour, marker="x", capsize=3)


def _tested(curve: Curve, name: str) -> list[tuple[float, float]]:
    """The results on the test tasks that belong to a metric of the training."""
    return [result for metric, result in curve.tested.items() if name.endswith(metric)]


def _set_range(panel: Any, curves: Sequence[Curve], name: str, axis: Axis, optimum: float | None) -> None:
    """The range of the means and the optimum: wide intervals over few seeds would flatten all curves."""
    means = [y for curve in curves if (found := band(curve.runs, name, axis)) for y in found.mean]
    low, high = min(means), max([*means, *([] if optimum is None else [optimum])])
    margin = 0.08 * (high - low) or 0.1
    panel.set_ylim(low - margin, high + margin)


def _draw_optimum(panel: Any, optimum: float) -> None:
    panel.axhline(optimum, color="0.4", linestyle="--", linewidth=1)
    panel.annotate(
        f"optimum {optimum:.3f}" if optimum != 1 else "optimum 1",
        (0.005, optimum),
        xycoords=("axes fraction", "data"),
        va="bottom",
        color="0.4",
        fontsize=9,
    )

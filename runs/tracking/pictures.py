"""The pictures of a run that its mirrors show: its learning curve and, where it attends, what it attends to."""

from __future__ import annotations

import importlib.util
import sys

from runs.algorithms.learner import Learner, Measurement
from runs.results.attention_plots import attends, draw, title
from runs.results.folder import RunFolder
from runs.results.plots import Curve, learning_curves

PICTURES_AFTER = 120.0
"""Seconds of training after which pictures are drawn at the end: they take some two, which is to be little beside."""


def draw_pictures(folder: RunFolder, learner: Learner | None = None) -> None:
    """Draw a run's learning curve into its folder and, with a trained learner, what that attends to.

    The run is finished before: without matplotlib there are no pictures, and what else goes wrong costs a warning.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return
    try:
        config, record = folder.config(), folder.result() or {"results": []}
        measured = {Measurement.name_of(r["metric"], r.get("shots")): (r["mean"], r["ci95"]) for r in record["results"]}
        curve = Curve(config.agent, config.agent, [folder.metrics()], measured)
        learning_curves([curve], folder.curve_path, title(config), optimum=config.task.optimum())
        if learner is not None and attends(maps := learner.attention_maps(0)):
            draw(maps, title(config), folder.attention_path)
    except Exception as e:
        print(f"warning: {folder.path} has not all of its pictures ({e}); nothing else is missing", file=sys.stderr)

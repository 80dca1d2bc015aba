"""The pictures of a run for trackers: its learning curve and its attention maps."""

from __future__ import annotations

import importlib.util
import sys

from runs.algorithms.learner import Learner, Measurement
from runs.results.attention_plots import attends, draw, title
from runs.results.folder import RunFolder
from runs.results.plots import Curve, learning_curves

PICTURES_AFTER = 120.0
"""Pictures are drawn after trainings longer than this, in seconds: drawing takes about two."""


def draw_pictures(folder: RunFolder, learner: Learner | None = None) -> None:
    """Draw a run's learning curve into its folder and, given a trained learner, its attention maps.

    The run is finished already: without matplotlib there are no pictures, and other errors only cost a warning.
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
        print(
            f"warning: some pictures of {folder.path} could not be drawn ({e})",
            file=sys.stderr,
        )

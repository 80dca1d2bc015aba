"""`snail play`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from runs.algorithms.meta_rl import MetaRLLearner
from runs.results.attention_plots import title
from runs.results.folder import RESULTS, find_trained
from runs.results.records import PUBLISHED
from runs.results.trial_film import film
from runs.results.trial_plots import draw_trial
from runs.results.trial_text import describe_trial
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.tasks import GymnasiumTask
from runs.training import build_learner, load_model


@dataclass(frozen=True)
class Play:
    """Play one trial with a trained agent, and show it as text and figure, or as an animation."""

    folder: Positional[str]
    """The run's folder, or EXPERIMENT/AGENT."""
    seed: int = 0
    """Seed of the task and of the sampled actions; never a test task."""
    output: Path | None = None
    """Folder for the figure and the animation; None: the run's subfolder play."""

    def run(self) -> None:
        folder = find_trained(self.folder, [RESULTS, PUBLISHED])
        config = folder.config()
        learner = build_learner(config, Machine.named("cpu"))
        if not isinstance(learner, MetaRLLearner):
            raise RunError(f"{folder.path} plays no trials; try: snail attention {self.folder}")
        load_model(learner, folder, config)
        trial = learner.attention_maps(self.seed)
        learner.env.close()
        print(describe_trial(learner.task, trial))
        output = self.output or folder.path / "play"
        head, name = learner.model.actions, f"trial-{self.seed}"
        print(draw_trial(learner.task, trial, head, title(config), output / f"{name}.png"))
        if isinstance(learner.task, GymnasiumTask):
            print(film(learner.task, trial, head, output / f"{name}.gif"))

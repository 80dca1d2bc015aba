"""`snail attention`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from runs.results.attention_plots import draw, title
from runs.results.folder import RESULTS, find_trained
from runs.results.records import PUBLISHED
from runs.system.machine import Machine
from runs.training import build_learner, load_model


@dataclass(frozen=True)
class Attention:
    """Draw the attention maps of a run's model: support images, past steps, alignments, glimpses."""

    folder: Positional[str]
    """The run's folder, or EXPERIMENT/AGENT; PNGs and a page are written to its subfolder attention."""
    seed: int = 0
    """Seed of the task to draw; never a test task."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache, filled by download."""

    def run(self) -> None:
        folder = find_trained(self.folder, [RESULTS, PUBLISHED])
        config = folder.config()
        learner = build_learner(config, Machine.named(self.device, self.data_root, self.threads))
        load_model(learner, folder, config)
        for path in draw(learner.attention_maps(self.seed), title(config), folder.attention_path):
            print(path)

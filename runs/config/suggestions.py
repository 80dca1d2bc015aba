"""Messages for unknown words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

OTHER_NAMES = {
    "gamma": "training.discount",
    "lr": "training.learning-rate",
    "ent-coef": "training.entropy-coef",
    "clip-range": "training.clip-eps",
    "clip-coef": "training.clip-eps",
    "n-epochs": "training.epochs",
    "update-epochs": "training.epochs",
    "num-minibatches": "training.minibatches",
    "total-timesteps": "training.steps",
    "total-steps": "training.steps",
    "num-envs": "training.batch-size",
    "n-envs": "training.batch-size",
    "target-kl": "training.max-kl",
    "n-way": "task.ways",
    "way": "task.ways",
    "k-shot": "task.shots",
    "shot": "task.shots",
    "num-layers": "model.layers",
    "n-heads": "model.heads",
    "num-heads": "model.heads",
    "hidden-dim": "model.hidden-size",
    "d-model": "model.width",
    "exp-name": "name",
    "wandb-project": "project",
    "wandb-project-name": "project",
    "wandb-entity": "entity",
    "wandb-group": "group",
    "track": "tracker",
    "env-id": "experiment",
    "output-dir": "results",
    "num-workers": "workers",
    "n-trials": "trials",
}
"""Options of other suites (cleanrl, Stable-Baselines3, LibFewShot), mapped to their names here."""


def suggestion(word: str, known: Sequence[str], prefix: str, help_command: str) -> str:
    """Advice for an unknown word: its name here, an option that ends in it, or the nearest word."""
    names = [OTHER_NAMES.get(word, ""), *(name for name in known if name.endswith(f".{word}"))]
    near = [name for name in names if name in known] or difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"`{help_command}` shows all"

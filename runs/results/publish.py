"""Publishes runs: ``python -m runs.results.publish results`` copies finished runs to the published records.

For runs of the full, demo or short budget with the catalogue's settings: record, samples and metrics, and, for seed 0
of the full budget, the weights that were tested, as safetensors in half precision, so that anyone can test or use them:
not those of value networks, which only training needs, nor those of more than 6 MB. MAML's are in full precision.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from runs.agents import MAMLConfig, MAMLPolicyConfig
from runs.algorithms.meta_rl import VALUE
from runs.results.folder import RunFolder, find_runs, writing
from runs.results.records import PUBLISHED
from runs.tasks import TrialTask

LARGEST = 6_000_000
"""Bytes of the largest weights: sequence models for images have more, and the repository should stay small."""

HALF_MAX = torch.finfo(torch.half).max


def publish(folder: RunFolder, target: RunFolder) -> bool:
    """Copy a finished run unless it is published already; returns whether it was copied.

    Raises:
        RunError: if anything of it is damaged.
    """
    record = folder.result()
    if record is None or not record["as_catalogued"] or record["budget"] not in ("full", "demo", "short"):
        return False
    # short runs serve fair comparisons: a run with other settings does not replace one
    if target.result_path.exists() and (record["budget"] == "short" or target.result() == record):
        return False
    config = folder.config()
    weights, in_trials = None, isinstance(config.task, TrialTask)
    if config.seed == 0 and config.budget == "full" and folder.checkpoint_path.exists():
        tested = folder.tested_weights(config).items()
        exact = isinstance(config.model, MAMLConfig | MAMLPolicyConfig)  # whose gradient steps multiply any rounding
        of_agent = {name: x for name, x in tested if not (in_trials and name.startswith(VALUE))}
        kept = {name: (x if exact else _half(x)).contiguous() for name, x in of_agent.items()}
        weights = save(kept, {"finished": record["finished"]})
        if len(weights) > LARGEST:
            print(f"{folder.path}: its weights are too large to publish, {len(weights) / 1e6:.0f} MB")
            weights = None
    target.path.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        with writing(target.weights_path) as file:
            file.write(weights)
    for name in ("metrics_path", "samples_path", "result_path"):  # the record last: a run with a record is complete
        with writing(getattr(target, name)) as file:
            file.write(getattr(folder, name).read_bytes())
    return True


def _half(x: Tensor) -> Tensor:
    """Half the bytes, for numbers that rounding hardly changes."""
    return x.half() if x.dtype == torch.float32 and (x.abs() < HALF_MAX).all() else x


def main() -> None:
    """Publish all finished runs below the folders named."""
    for top in map(Path, sys.argv[1:]):
        for path in find_runs(top):
            target = RunFolder(PUBLISHED / path.relative_to(top))
            if publish(RunFolder(path), target):
                print(f"published {target.path}")


if __name__ == "__main__":
    main()

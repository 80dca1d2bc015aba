"""Publishes runs: ``python -m runs.results.publish results`` copies finished runs to the published records.

For runs of the full, demo or short budget with the catalogue's settings: record, samples and metrics, and, for seed 0
of the full budget, the weights that were tested (safetensors), so that anyone can test or use them. Left out are large
ones and those of value networks, which only training needs. They are in 8 bits a number (`runs.results.weights`); those
of MAML and of embeddings are exact.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save

from runs.agents import MAMLConfig, MAMLPolicyConfig, TransferConfig
from runs.algorithms.meta_rl import VALUE
from runs.results.folder import RunFolder, find_runs, writing
from runs.results.records import PUBLISHED
from runs.results.weights import pack
from runs.tasks import TrialTask

LARGEST = {"snail": 7_000_000}
LARGEST_OF_OTHERS = 6_000_000
"""Bytes of the largest weights, by agent. Sequence models for images have more, and the repository should stay small:
of these there are SNAIL's, for one data set."""


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
        of_agent = {name: x.contiguous() for name, x in tested if not (in_trials and name.startswith(VALUE))}
        # MAML's gradient steps multiply any rounding; records of agents that start from an embedding name its hash
        exact = isinstance(config.model, MAMLConfig | MAMLPolicyConfig | TransferConfig)
        weights = save(of_agent if exact else pack(of_agent), {"finished": record["finished"]})
        if len(weights) > LARGEST.get(config.agent, LARGEST_OF_OTHERS):
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


def main() -> None:
    """Publish all finished runs below the folders named."""
    for top in map(Path, sys.argv[1:]):
        for path in find_runs(top):
            target = RunFolder(PUBLISHED / path.relative_to(top))
            if publish(RunFolder(path), target):
                print(f"published {target.path}")


if __name__ == "__main__":
    main()

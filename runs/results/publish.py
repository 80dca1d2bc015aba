"""Publishes runs: ``python -m runs.results.publish results`` copies finished runs to the published records.

For runs of the full, demo or short budget with the catalogue's settings: record, samples and metrics, and, for seed 0
of the full budget, the weights that were tested (safetensors), so that anyone can test or use them. Left out are large
ones, value networks, which only training needs, and an embedding that is published as a run of its own. The weights are
in 8 bits a number (`runs.results.weights`); those of MAML, of embeddings and of the ant are exact.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save

from runs.agents import MAMLConfig, MAMLPolicyConfig, TransferConfig
from runs.algorithms.learner import RunConfig
from runs.algorithms.meta_rl import VALUE
from runs.results.folder import FEATURES, RunFolder, find_runs, published_embedding, writing
from runs.results.records import PUBLISHED
from runs.results.weights import pack
from runs.system.errors import RunError
from runs.tasks import GymnasiumTask, TrialTask

LARGEST = {"snail": 7_000_000}
LARGEST_OF_OTHERS = 6_000_000
"""Bytes of the largest weights. The repository should stay small: of sequence models for images, only SNAIL's fit."""


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
    weights = _weights(folder, record)
    target.path.mkdir(parents=True, exist_ok=True)
    target.weights_path.unlink(missing_ok=True)  # those of an earlier record
    if weights is not None:
        with writing(target.weights_path) as file:
            file.write(weights)
    for name in ("metrics_path", "samples_path", "result_path"):  # the record last: a run with a record is complete
        with writing(getattr(target, name)) as file:
            file.write(getattr(folder, name).read_bytes())
    return True


def _weights(folder: RunFolder, record: dict[str, Any]) -> bytes | None:
    """The file of the weights that were tested; None if they are not published."""
    config = folder.config()
    if config.seed != 0 or config.budget != "full" or not folder.checkpoint_path.exists():
        return None
    left_out = (*([VALUE] * isinstance(config.task, TrialTask)), *([FEATURES] * _embedding_is_published(record)))
    tested = folder.tested_weights(config).items()
    weights = {name: x.contiguous() for name, x in tested if not name.startswith(left_out)}
    data = save(weights if _rounding_matters(config) else pack(weights), {"finished": record["finished"]})
    if len(data) > LARGEST.get(config.agent, LARGEST_OF_OTHERS):
        print(f"{folder.path}: its weights are too large to publish, {len(data) / 1e6:.0f} MB")
        return None
    return data


def _rounding_matters(config: RunConfig) -> bool:
    """MAML's gradient steps and the ant's contacts amplify any rounding; other runs name the hash of an embedding."""
    chaotic = isinstance(config.task, GymnasiumTask) and config.task.env.startswith("Ant-")
    return chaotic or isinstance(config.model, MAMLConfig | MAMLPolicyConfig | TransferConfig)


def _embedding_is_published(record: dict[str, Any]) -> bool:
    try:
        return "pretrained" in record and bool(published_embedding(record["pretrained"]))
    except RunError:
        return False


def main() -> None:
    """Publish all finished runs below the folders named."""
    for top in map(Path, sys.argv[1:]):
        for path in find_runs(top):
            target = RunFolder(PUBLISHED / path.relative_to(top))
            if publish(RunFolder(path), target):
                print(f"published {target.path}")


if __name__ == "__main__":
    main()

"""`snail verify`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tyro.conf import Positional

from runs.algorithms.learner import Measurement
from runs.results.folder import RunFolder, find_runs
from runs.results.records import PUBLISHED, read_samples
from runs.results.tables import tables
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.system.progress import progress_bar
from runs.training import build_learner, evaluate, load_model


@dataclass(frozen=True)
class Verify:
    """Test published weights again on the frozen tasks, and compare the results with the records.

    Your own runs give identical results on the same CPU.

    Elsewhere CPUs round differently, so the mean difference over tasks must be within 3 standard errors.

    Published weights are also rounded, to 8 bits.
    """

    runs: Positional[tuple[str, ...]] = ()
    """Run folders, or a table, EXPERIMENT or EXPERIMENT/AGENT of the published runs. Default: all published runs."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache, filled by download."""

    def run(self) -> None:
        machine = Machine.named(self.device, self.data_root, self.threads)
        folders = self._folders()
        rows, differing = [], 0
        with progress_bar(len(folders), "verify", unit="run") as bar:
            for folder in folders:
                for name, recorded, now, verdict in verify(folder, machine):
                    differing += not verdict.startswith("agrees")
                    rows.append((_title(folder.path), name, f"{recorded:.4f}", f"{now:.4f}", verdict))
                bar.update()
        print(tabulate(rows, ("run", "", "record", "now", ""), tablefmt="plain", disable_numparse=True))
        if differing:
            raise RunError(f"{differing} of {len(rows)} numbers differ from their records")

    def _folders(self) -> list[RunFolder]:
        tops = [top for word in self.runs for top in self._places(word)] or [PUBLISHED]
        found = [RunFolder(path) for top in dict.fromkeys(tops) for path in find_runs(top)]
        with_weights = [f for f in found if f.weights_path.exists() or f.checkpoint_path.exists()]
        if not with_weights:
            raise RunError("none of these runs has weights; they are published for seed 0 of newer records")
        if left := len(found) - len(with_weights):
            print(f"{left} of {len(found)} runs have no weights and are skipped", file=sys.stderr)
        return with_weights

    @staticmethod
    def _places(word: str) -> list[Path]:
        """The run folders that an argument names."""
        if (table := tables().get(word)) is not None:
            return [top for cell in table.cells if (top := PUBLISHED / cell.experiment).is_dir()]
        place = Path(word) if Path(word).is_dir() else PUBLISHED / word
        if not place.is_dir():
            raise RunError(f"there is no run {word!r}: neither a folder nor a published run")
        return [place]


def verify(folder: RunFolder, machine: Machine) -> list[tuple[str, float, float, str]]:
    """For each number of a finished run: its name, the record, the new result, and whether they agree.

    Raises:
        RunError: if the run has no record, or anything of it is damaged.
    """
    record, config = folder.result(), folder.config()
    if record is None:
        raise RunError(f"{folder.path} has no record to compare with")
    learner = build_learner(config, machine)
    load_model(learner, folder, config)
    measured = {m.name: m for m in evaluate(learner, quiet=True)}
    found = []
    for r in record["results"]:
        name = Measurement.name_of(r["metric"], r.get("shots"))
        now = measured[name]
        found.append((name, r["mean"], now.mean, _verdict(r, now, read_samples(folder.samples_path, name))))
    return found


def _verdict(r: dict, now: Measurement, samples: np.ndarray | None) -> str:
    if now.task_set != r["task_set"]:
        return "differs: the test tasks are not the same"
    difference = now.mean - r["mean"]
    if abs(difference) < 1e-9:
        return "agrees exactly"
    if samples is None or now.samples is None or len(samples) != now.n:
        return f"differs by {difference:+.4g}"
    error = float(np.std(now.samples.numpy() - samples, ddof=1)) / now.n**0.5
    return f"{'agrees' if abs(difference) <= 3 * error else 'differs'}, by {difference:+.4g} ± {1.96 * error:.2g}"


def _title(path: Path) -> str:
    return path.relative_to(PUBLISHED).as_posix() if path.is_relative_to(PUBLISHED) else str(path)

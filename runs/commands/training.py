"""`snail train` and `snail evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from runs import BEGAN
from runs.algorithms.learner import Test
from runs.catalogue import CATALOGUE, RunConfig, find
from runs.config.serialization import options_of
from runs.results.folder import RESULTS, RunFolder, run_path
from runs.results.records import describe, describe_results
from runs.system.deadline import Deadline, parse_duration
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.tracking import TrackerName
from runs.training import build_learner, evaluate, load_model, train


@dataclass(frozen=True)
class Train(RunConfig):
    """Train one agent on one experiment, measure it on frozen test tasks, and leave a record.

    The defaults shown are those of the chosen experiment, agent and budget: all of them can be changed.
    `torchrun --nproc-per-node 2 -m runs.cli train ...` lets two processes train the run together, with equal results.
    """

    experiment: Positional[str]
    """Name in the catalogue; `snail list` shows all."""
    algorithm: str | None = None
    """Training algorithm for trials: ppo or trpo; None: the default."""
    time_budget: str | None = None
    """Stop in time, with a checkpoint to --resume from: 90s, 25m or 1h30m from the start; None: train to the end."""
    results: Path = RESULTS
    """Folder of all results; the run gets one of its own in it."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; else $SNAIL_DATA, else a cache, filled by download."""
    tracker: TrackerName = "auto"
    """Where metrics go, too: wandb (offline unless you have logged in), trackio (on this machine), both or none;
    auto: wandb if installed."""
    resume: bool = False
    """Continue an unfinished run from its checkpoint."""
    overwrite: bool = False
    """Delete what the run's folder holds, and start over."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Train:
        """What all options are before ``args`` are read: they depend on the first few of them."""
        named = [a for a in args if a in CATALOGUE] or [a for a in args[:1] if not a.startswith("-")]
        if not named and not {"-h", "--help"} & set(args):
            raise RunError("which experiment? `snail list` shows all; try: snail train bandit/n10-k5")
        chooser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
        chooser.add_argument("--agent", default="snail")
        chooser.add_argument("--budget", default="full")
        chooser.add_argument("--seed", type=int, default=0)
        chooser.add_argument("--algorithm", default=None)
        try:
            chosen, _ = chooser.parse_known_args(args)
        except argparse.ArgumentError as e:
            raise RunError(str(e).removeprefix("argument ")) from e
        config = find((named or ["bandit/n10-k5"])[0]).config(
            chosen.agent, chosen.seed, chosen.budget, chosen.algorithm
        )
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(RunConfig)})

    def run(self) -> None:
        if self.resume and self.overwrite:
            raise RunError("--resume and --overwrite exclude each other")
        seconds = None if self.time_budget is None else parse_duration(self.time_budget)
        config = RunConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(RunConfig)})
        machine = Machine.named(self.device, self.data_root, self.threads)
        folder = RunFolder(run_path(self.results, config))
        with machine.in_process_group() as machine:
            record = train(
                config,
                folder,
                machine,
                tracker=self.tracker,
                resume=self.resume,
                overwrite=self.overwrite,
                deadline=Deadline(seconds, BEGAN),
            )
        if machine.group.is_main:
            print(describe(record))
            print(f"record: {folder.result_path}")


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's last checkpoint again on its frozen test tasks, or on as many as you like."""

    folder: Positional[Path]
    """The run's folder."""
    test: Annotated[Test, options_of(Test)]
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; else $SNAIL_DATA, else a cache, filled by download."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Evaluate:
        """What all options are before ``args`` are read: those of the test are the run's."""
        folders = [a for a in args if (Path(a) / "config.json").exists()] or [a for a in args[:1] if a and a[0] != "-"]
        if folders:
            return cls(Path(folders[0]), RunFolder(Path(folders[0])).config().test)
        if "-h" in args or "--help" in args:
            return cls(Path("results/bandit/n10-k5/snail/full-seed0"), find("bandit/n10-k5").config("snail").test)
        raise RunError("which run? give its folder: snail evaluate results/bandit/n10-k5/snail/demo-seed0")

    def run(self) -> None:
        folder = RunFolder(self.folder)
        trained = folder.config()
        machine = Machine.named(self.device, self.data_root, self.threads)
        learner = build_learner(dataclasses.replace(trained, test=self.test), machine)
        progress = load_model(learner, folder, trained)
        if progress.step < learner.steps:
            print(f"this run is unfinished: {progress.step} of {learner.steps} updates")
        print(describe_results(trained, evaluate(learner)))
        if (record := folder.result()) is not None and self.test == trained.test:
            print("its record says:\n" + describe(record))

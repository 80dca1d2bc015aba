"""`snail train` and `snail evaluate`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from runs import BEGAN
from runs.algorithms.learner import Test
from runs.catalogue import CATALOGUE, RunConfig, find
from runs.config.serialization import from_dict, options_of
from runs.extensions import load_extensions, take_extensions
from runs.launch.costs import Costs, machine_factor
from runs.launch.settings import train_command
from runs.results.folder import RESULTS, RunFolder, find_trained, run_path
from runs.results.records import PUBLISHED, describe, describe_results
from runs.results.stored import read_json
from runs.system.deadline import Deadline, parse_duration, show_duration
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.tracking import TrackerOptions
from runs.training import build_learner, evaluate, load_model, require_updates, train

SOON = 300.0
"""For trainings longer than this, in seconds, the expected time is printed."""


@dataclass(frozen=True)
class Train(TrackerOptions, RunConfig):
    """Train one agent on one experiment, test it on frozen tasks, and write a record.

    The defaults shown are those of the chosen experiment, agent and budget; all can be changed.
    `torchrun --nproc-per-node 2 -m runs.cli train ...` trains the run with two processes, with equal results.
    """

    experiment: Positional[str]
    """Name in the catalogue, or EXPERIMENT/AGENT; `snail list` shows all."""
    config: Path | None = None
    """Start from this config.json instead of the catalogue's settings: any run's, or one with the same keys. Its key
    "extend" may name Python files as --extend does."""
    algorithm: str | None = None
    """Training algorithm for trials: ppo, trpo, or lookahead for bandits and MDPs; None: the default."""
    time_budget: str | None = None
    """Stop with a checkpoint within this time, such as 90s, 25m or 1h30m, to --resume later; None: train to the end."""
    until: int | None = None
    """Pause with a checkpoint after this many updates, to --resume later; None: train to the end."""
    results: Path = RESULTS
    """Folder of all results; the run gets a subfolder."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache, filled by download."""
    name: str | None = None
    """Name at the tracker; None: $WANDB_NAME, else EXPERIMENT/AGENT/FOLDER."""
    resume: bool = False
    """Continue an unfinished run from its checkpoint."""
    overwrite: bool = False
    """Delete the run's folder, and start over."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Train:
        """The default of every option, which depends on the first few of ``args``."""
        chooser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
        chooser.add_argument("--config", type=Path)
        chooser.add_argument("--agent")
        chooser.add_argument("--budget")
        chooser.add_argument("--seed", type=int)
        chooser.add_argument("--algorithm")
        try:
            chosen, _ = chooser.parse_known_args(args)
        except argparse.ArgumentError as e:
            raise RunError(str(e).removeprefix("argument ")) from e
        named = next((a for a in args if _experiment(a) in CATALOGUE), None)
        if named is None and args and not args[0].startswith("-"):
            named = args[0]
        if chosen.config is not None:
            given = {"agent": chosen.agent, "budget": chosen.budget, "algorithm": chosen.algorithm}
            also = ([named] if named else []) + [f"--{name}" for name, value in given.items() if value]
            if also:
                raise RunError(f"--config determines the run; leave out {' '.join(also)}")
            config = _read_config(chosen.config)
        else:
            if named is None and not {"-h", "--help"} & set(args):
                raise RunError("which experiment? `snail list` shows all; try: snail train bandit/n10-k5")
            named = named or "bandit/n10-k5"
            experiment = _experiment(named)
            agent = named.removeprefix(experiment).strip("/")
            if agent and chosen.agent not in (None, agent):
                raise RunError(f"{named} names the agent {agent}, and --agent {chosen.agent}")
            config = find(experiment).config(
                agent or chosen.agent or "snail", chosen.seed or 0, chosen.budget or "full", chosen.algorithm
            )
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(RunConfig)})

    def run(self) -> None:
        if self.resume and self.overwrite:
            raise RunError("--resume and --overwrite exclude each other")
        require_updates(self.until)
        seconds = None if self.time_budget is None else parse_duration(self.time_budget)
        config = RunConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(RunConfig)})
        config = dataclasses.replace(config, experiment=_experiment(config.experiment))
        machine = Machine.named(self.device, self.data_root, self.threads)
        folder = RunFolder(run_path(self.results, config))
        with machine.in_process_group() as machine:
            record = train(
                config,
                folder,
                machine,
                tracker=self.tracker,
                labels=self.labels(self.name),
                resume=self.resume,
                overwrite=self.overwrite,
                deadline=Deadline(seconds, BEGAN),
                until=self.until,
                notice=self._notice(config),
            )
        if machine.group.is_main:
            print(describe(record))
            print(f"record: {folder.result_path}")
            print(f"again: {train_command(config, folder.config_path)}")

    def _notice(self, config: RunConfig) -> str | None:
        """The expected time, if it is long; None if it is short or unknown."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # other commands report damaged records
                expected = Costs(self.results, machine_factor(measure=False)).of(config)
        except ValueError:  # the configuration cannot be trained
            return None
        if expected is None or expected.seconds < SOON:
            return None
        return (
            f"this takes about {show_duration(expected.seconds)} on one core; Ctrl-C saves a checkpoint, "
            "and --budget demo takes minutes"
        )


def _experiment(name: str) -> str:
    """The experiment of EXPERIMENT or EXPERIMENT/AGENT."""
    return "/".join(name.split("/")[:2])


def _read_config(path: Path) -> RunConfig:
    """The configuration in a file; extensions that it names are loaded first.

    Raises:
        RunError: if it cannot be read, or is not a run's configuration.
    """
    data = read_json(path, edited=True)
    extensions = data.pop("extend", [])
    extensions = [extensions] if isinstance(extensions, str) else extensions
    if not isinstance(extensions, list) or not all(isinstance(e, str) for e in extensions):
        raise RunError(f"{path}: extend must name Python files, got {extensions!r}")
    take_extensions([word for e in extensions for word in ("--extend", str(path.parent / e))])
    load_extensions()
    return from_dict(RunConfig, data, str(path))


@dataclass(frozen=True)
class Evaluate:
    """Test a run's weights again on its frozen test tasks, on more of them, or on another experiment."""

    folder: Positional[str]
    """The run's folder, or EXPERIMENT/AGENT of your results or the published runs."""
    test: Annotated[Test, options_of(Test)]
    on: str | None = None
    """Test on another experiment with the same shapes: more pulls, episodes or shots."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache, filled by download."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Evaluate:
        """The default of every option: those of the test are the run's."""
        args = [a for before, a in zip(["", *args], args, strict=False) if before != "--on"]  # its value is not a run
        runs = [a for a in args if (Path(a) / "config.json").exists() or _experiment(a) in CATALOGUE]
        if named := [*runs, *(a for a in args[:1] if a and a[0] != "-")]:
            folder = find_trained(named[0], [RESULTS, PUBLISHED])
            return cls(str(folder.path), folder.config().test)
        if "-h" in args or "--help" in args:
            return cls("results/bandit/n10-k5/snail/full-seed0", find("bandit/n10-k5").config("snail").test)
        raise RunError("which run? give its folder: snail evaluate results/bandit/n10-k5/snail/demo-seed0")

    def run(self) -> None:
        folder = find_trained(self.folder, [RESULTS, PUBLISHED])
        trained = folder.config()
        machine = Machine.named(self.device, self.data_root, self.threads)
        learner = build_learner(dataclasses.replace(trained, test=self.test), machine)
        progress = load_model(learner, folder, trained)
        if progress.step < learner.steps:
            print(f"this run is unfinished: {progress.step} of {learner.steps} updates")
        if self.on is not None:
            other = find(self.on).budgets["full"]
            try:
                learner.test_on(other.task)
            except ValueError as e:
                raise RunError(f"{self.folder} cannot be tested on {self.on}: {e}") from e
            results = evaluate(learner)
            print(f"on {self.on}: " + describe_results(trained, results))
            if (optimum := other.task.optimum()) is not None and len(results) == 1:
                print(f"{results[0].mean / optimum:.1%} of the optimum there, {optimum:.3f}")
            return
        print(describe_results(trained, evaluate(learner)))
        if (record := folder.result()) is not None and self.test == trained.test:
            print("its record says:\n" + describe(record))

"""`snail sweep`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from runs.launch import LaunchOptions, launch, require_finished
from runs.launch.jobs import Job
from runs.launch.launching import summary
from runs.launch.settings import own_settings
from runs.launch.sweeps import SweepSpec, parse_setting, read_sweeps
from runs.results.folder import RESULTS
from runs.results.records import describe
from runs.system.errors import RunError


@dataclass(frozen=True)
class Sweep(LaunchOptions):
    """Train all combinations of experiments, agents, seeds and settings, given here or in a file.

    Finished runs are skipped: repeat the command to continue after an interruption.
    """

    what: Positional[tuple[str, ...]]
    """A TOML file, or experiments, also as EXPERIMENT/AGENT. The file may have experiments, agents, seeds, budget,
    algorithm, and a table [set] of options of `snail train`, such as training.learning-rate, each with a value or a
    list of values; or several tables [[sweeps]] of all that, which are run in their order."""
    agents: tuple[str, ...] | None = None
    """Names of agents; None: what the file says, else snail."""
    seeds: tuple[int, ...] | None = None
    """Seeds; None: what the file says, else 0."""
    budget: str | None = None
    """Training budget: full, demo, short or smoke; None: what the file says, else full."""
    algorithm: str | None = None
    """Training algorithm for trials: ppo or trpo; None: what the file says, else the default."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of `snail train` with a value, or several for a grid: --set training.learning-rate=1e-3,3e-3 --set
    model.heads=1,4. Those of options that take several stand in brackets: task.shots=[1],[1,5]."""
    results: Path = RESULTS
    """Folder of all results; each run gets one of its own in it."""
    dry_run: bool = False
    """Print the runs without starting them."""

    def run(self) -> None:
        """Launch, and print the numbers."""
        configs = [config for spec in self._specs() for config in spec.configs()]
        jobs = list({job.path: job for job in (Job.of(config, self.results) for config in configs)}.values())
        if self.dry_run:
            finished = [job.finished() for job in jobs]
            for job, done in zip(jobs, finished, strict=True):
                print(f"{'finished' if done else 'to do':8}  {job.path}  {own_settings(job.config)}".rstrip())
            print(summary(len(jobs), sum(finished)))
            return
        outcomes = launch(configs, self.results, self, name="-".join(Path(w).stem for w in self.what))
        if submitted := [o.reason for o in outcomes if o.state == "submitted"]:
            print(f"submitted to Slurm: {', '.join(submitted)}; `snail status` shows how they are")
        for job in jobs:
            if job.finished() and (record := job.folder.result()) is not None:
                settings = own_settings(job.config)
                print(describe(record) + (f"; {settings}" if settings else ""))
        require_finished(outcomes)

    def _specs(self) -> list[SweepSpec]:
        if not self.what:
            raise RunError("which runs? give a TOML file or experiments: snail sweep bandit/n10-k5 --seeds 0 1 2")
        files = [word for word in self.what if word.endswith(".toml")]
        if files and len(self.what) > 1:
            raise RunError(f"{files[0]} says which experiments to run; give the file alone")
        specs = read_sweeps(Path(files[0])) if files else [SweepSpec(self.what)]
        if self.set:
            settings = dict(map(parse_setting, self.set))
            specs = [dataclasses.replace(spec, set={**spec.set, **settings}) for spec in specs]
        given = {name: getattr(self, name) for name in ("agents", "seeds", "budget", "algorithm")}
        given = {name: value for name, value in given.items() if value is not None}
        return [dataclasses.replace(spec, **given) for spec in specs]

"""`snail sweep`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tabulate import tabulate
from tyro.conf import Positional

from runs.catalogue import RunConfig
from runs.config.serialization import from_dict
from runs.launch import LaunchOptions, launch, require_finished
from runs.launch.costs import Costs, machine_factor
from runs.launch.jobs import Job
from runs.launch.launching import slots, summary
from runs.launch.search import Range, Search, search
from runs.launch.settings import own_settings, train_command
from runs.launch.sweeps import SweepSpec, parse_setting, read_sweeps
from runs.results.folder import RESULTS
from runs.results.records import describe, describe_progress
from runs.system.errors import RunError


@dataclass(frozen=True)
class Sweep(LaunchOptions):
    """Train all combinations of experiments, agents, seeds and settings, given here or in a file.

    Finished runs are skipped: repeat the command to continue after an interruption.
    """

    what: Positional[tuple[str, ...]]
    """A TOML file, or experiments, also as EXPERIMENT/AGENT. The file may have experiments, agents, seeds, budget,
    algorithm, and a table [set] of options of `snail train`, such as training.learning-rate, each with a value or a
    list of values; or several such tables, [[sweeps]], which run in order."""
    agents: tuple[str, ...] | None = None
    """Names of agents; None: those of the file, else snail."""
    seeds: tuple[int, ...] | None = None
    """Seeds; None: those of the file, else 0."""
    budget: str | None = None
    """Training budget: full, demo, short or smoke; None: that of the file, else full."""
    algorithm: str | None = None
    """For trials: ppo, trpo, or lookahead for bandits and MDPs; None: that of the file, else the default."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of `snail train` with a value, or several for a grid: --set training.learning-rate=1e-3,3e-3 --set
    model.heads=1,4. Lists are values in brackets: task.shots=[1],[1,5]."""
    search: Search = "grid"
    """grid: every combination; random or optuna (TPE): --trials proposals for what --set names, where ranges such as
    training.learning-rate=1e-4..1e-2 are allowed, judged by training metrics, never by the test."""
    trials: int = 20
    """With --search random or optuna: number of proposals for each experiment and agent."""
    until: int | None = None
    """Pause every run with a checkpoint after this many updates, and print the training metric that it has reached; the
    command without it goes on. None: that of the file, else train to the end."""
    results: Path = RESULTS
    """Folder of all results; each run gets a subfolder."""
    dry_run: bool = False
    """Print the runs without starting them."""

    def run(self) -> None:
        """Launch the runs, and print their results."""
        if self.search != "grid":
            if self.until is not None:
                raise RunError("a search pauses its runs itself; leave out --until")
            for spec in self._specs():
                self._search(spec)
            return
        until = {config: spec.until for spec in self._specs() for config in spec.configs()}
        jobs = [Job.of(config, self.results) for config in until]
        if self.dry_run:
            finished = [job.finished() for job in jobs]
            for job, done in zip(jobs, finished, strict=True):
                print(f"{'finished' if done else 'to do':8}  {job.path}  {own_settings(job.config)}".rstrip())
            todo = [from_dict(RunConfig, job.config) for job, done in zip(jobs, finished, strict=True) if not done]
            hours = f"; {Costs(self.results, machine_factor()).total(todo, slots(self))}" if todo else ""
            print(summary(len(jobs), sum(finished)) + hours)
            return
        name = "-".join(Path(w).stem for w in self.what)
        outcomes = launch(list(until), self.results, self, name, {c: n for c, n in until.items() if n is not None})
        if submitted := [o.reason for o in outcomes if o.state == "submitted"]:
            print(f"submitted to Slurm: {', '.join(submitted)}; `snail status` shows their progress")
        for config, job, outcome in zip(until, jobs, outcomes, strict=True):
            settings = own_settings(job.config)
            if job.finished() and (record := job.folder.result()) is not None:
                print(describe(record) + (f"; {settings}" if settings else ""))
            elif outcome.state == "paused":
                print(describe_progress(config, job.folder.metrics()) + (f"; {settings}" if settings else ""))
        require_finished(outcomes)

    def _search(self, spec: SweepSpec) -> None:
        """Search settings for each experiment and agent, and print the best as a command."""
        for runs in spec.bases():
            if self.dry_run:
                print(f"{self.trials} settings of {runs[0].experiment} {runs[0].agent}, {len(runs)} runs each")
                continue
            values = {name: _listed(value) for name, value in spec.set.items()}
            found = search(runs, values, self.trials, self.search, self.results, self)  # type: ignore[arg-type]
            rows = [[f"{p.score:.5g}", p.state, *p.settings.values()] for p in found]
            print(tabulate(rows, ["in training", "state", *found[0].settings], disable_numparse=True))
            best = found[0].configs[0]
            print(f"best: {train_command(best, Job.of(best, self.results).folder.config_path)}")

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
        values = ((name, v) for spec in specs for name, given in spec.set.items() for v in _listed(given))
        ranges = [name for name, value in values if Range.parse(value)]
        if ranges and self.search == "grid":
            raise RunError(
                f"{ranges[0]} has a range; give --search random or --search optuna, or values to choose from"
            )
        given = {name: getattr(self, name) for name in ("agents", "seeds", "budget", "algorithm", "until")}
        given = {name: value for name, value in given.items() if value is not None}
        return [dataclasses.replace(spec, **given) for spec in specs]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

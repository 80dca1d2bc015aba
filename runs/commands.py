"""The verbs of the command line: each a frozen dataclass of its options, parsed by tyro."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from envs.fewshot import DATASETS, SPLITS, dataset_status, load_classes
from envs.storage import DataError
from runs import BEGAN
from runs.agents import METHODS
from runs.attention_pictures import draw
from runs.bench import TINY, Sizes, What, bench
from runs.bench import render as render_report
from runs.bench_scaling import draw_scaling
from runs.catalogue import CATALOGUE, RunConfig, Test, find
from runs.deadline import Deadline, parse_duration
from runs.demo import Demo
from runs.errors import RunError
from runs.folder import RESULTS, RunFolder, run_path, write_json
from runs.machine import Machine
from runs.records import PUBLISHED, describe, describe_results, read_results
from runs.tables import Format, render, tables
from runs.tracking import TrackerName
from runs.training import build_learner, evaluate, load_model, train


@dataclass(frozen=True)
class List:
    """Show the experiments of the catalogue, their budgets and their agents."""

    def run(self) -> None:
        """Print them, and once for all experiments that share them their agents."""
        width = max(map(len, CATALOGUE))
        families: dict[tuple[str, ...], list[str]] = {}
        for e in CATALOGUE.values():
            print(f"{e.id:{width}}  {e.about}; budgets: {', '.join(e.budgets)}")
            families.setdefault(tuple(e.agents), []).append(e.id)
        usual: dict[str, set[str]] = {}  # the agents that all experiments of a kind have
        for agents, ids in families.items():
            for name in ids:
                kind = name.partition("/")[0]
                usual[kind] = usual.get(kind, set(agents)) & set(agents)
        for agents, ids in families.items():
            kinds = list(dict.fromkeys(name.partition("/")[0] for name in ids))
            common = set.intersection(*(usual[kind] for kind in kinds))
            if special := [a for a in agents if a not in common]:
                print(f"\nagents for {', '.join(ids)} besides: {', '.join(special)}")
                continue
            print(f"\nagents for {', '.join(kinds)}: {', '.join(a for a in agents if a not in METHODS)}")
            if methods := [a for a in agents if a in METHODS]:
                print(f"  methods that do not learn: {', '.join(methods)}")
        print("\nstart one with:  snail train bandit/n10-k5 --agent snail --budget demo")


@dataclass(frozen=True)
class Train(RunConfig):
    """Train one agent on one experiment, measure it on frozen test tasks, and leave a record.

    The defaults shown are those of the chosen experiment, agent and budget: all of them can be changed.
    """

    experiment: Positional[str]
    """Name in the catalogue; `snail list` shows all."""
    algorithm: str | None = None
    """How it learns: ppo or trpo for trials; None: the usual way."""
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
    """Mirror of the metrics: wandb, none, or auto (wandb if installed; offline unless you have logged in)."""
    resume: bool = False
    """Go on with an unfinished run."""
    overwrite: bool = False
    """Throw away what the run's folder holds."""

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
        """Train."""
        if self.resume and self.overwrite:
            raise RunError("--resume and --overwrite exclude each other")
        seconds = None if self.time_budget is None else parse_duration(self.time_budget)
        config = RunConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(RunConfig)})
        machine = Machine.named(self.device, self.data_root, self.threads)
        folder = RunFolder(run_path(self.results, config))
        record = train(
            config,
            folder,
            machine,
            tracker=self.tracker,
            resume=self.resume,
            overwrite=self.overwrite,
            deadline=Deadline(seconds, BEGAN),
        )
        print(describe(record))
        print(f"record: {folder.result_path}")


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's last checkpoint again on its frozen test tasks, or on as many as you like."""

    folder: Positional[Path]
    """The run's folder."""
    test: Test
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; else $SNAIL_DATA, else a cache, filled by download."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Evaluate:
        """What all options are before ``args`` are read: those of the test are the run's."""
        folders = [a for a in args if (Path(a) / "config.json").exists()] or [a for a in args[:1] if a[0] != "-"]
        if folders:
            return cls(Path(folders[0]), RunFolder(Path(folders[0])).config().test)
        if "-h" in args or "--help" in args:
            return cls(Path("results/bandit/n10-k5/snail/full-seed0"), find("bandit/n10-k5").config("snail").test)
        raise RunError("which run? give its folder: snail evaluate results/bandit/n10-k5/snail/demo-seed0")

    def run(self) -> None:
        """Evaluate."""
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


@dataclass(frozen=True)
class Attention:
    """Draw what a run's model attends to: support images, past steps, alignments, glimpses; PNGs and a page."""

    folder: Positional[Path]
    """The run's folder; the pictures go into its subfolder attention."""
    seed: int = 0
    """Which task to watch it on; never one of the test."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    data_root: Path | None = None
    """Folder with the data sets; else $SNAIL_DATA, else a cache, filled by download."""

    def run(self) -> None:
        """Draw."""
        folder = RunFolder(self.folder)
        config = folder.config()
        learner = build_learner(config, Machine.named(self.device, self.data_root, self.threads))
        load_model(learner, folder, config)
        title = f"{config.experiment} {config.agent}, {config.budget} budget, seed {config.seed}"
        looks = learner.watch(self.seed)
        if looks is None:
            raise RunError(f"{title}: nothing in this agent attends; try a run of snail or of transformer")
        for path in draw(looks, title, self.folder / "attention"):
            print(path)


@dataclass(frozen=True)
class PrintTable:
    """Print a table: the paper's number, ours with its interval, and the limit."""

    name: Positional[str]
    """1: few-shot on Omniglot, 2: on mini-ImageNet, 3: bandits, 4: MDPs; attention: score functions; ablation: SNAIL
    with one thing changed, and what it descends from."""
    results: Path = RESULTS
    """Folder of your own results; the published records are read too, yours first."""
    format: Format = "text"
    """text or markdown."""
    missing: bool = True
    """Show the rows that are not run, too."""

    def run(self) -> None:
        """Print it."""
        known = tables()
        if self.name not in known:
            raise RunError(f"there is no table {self.name}; choose {' or '.join(known)}")
        print(render(known[self.name], read_results([self.results, PUBLISHED]), self.format, self.missing))


@dataclass(frozen=True)
class Data:
    """Show where the data sets are, and make them ready for use."""

    build: bool = False
    """Fetch what can be fetched and is missing, decode what is there, and fill the cache."""
    data_root: Path | None = None
    """Folder with the data sets; else $SNAIL_DATA, else a cache."""

    def run(self) -> None:
        """Show."""
        problems = []
        for name in DATASETS:
            status = dataset_status(name, self.data_root)
            if self.build and not status.cached and (status.sources or status.obtain is None):
                try:
                    for split in SPLITS:  # they may have files of their own
                        load_classes(name, split, root=self.data_root, download=True)
                except DataError as e:
                    problems.append(str(e))
                status = dataset_status(name, self.data_root)
            sources = ", ".join(map(str, status.sources))
            splits = ", ".join(f"{split} {n}" for split, n in (status.classes or {}).items())
            print(name)
            print(f"  found in:  {sources or 'nowhere; ' + (status.obtain or 'snail data --build fetches it')}")
            print(f"  cache:     {status.cache} ({'ready' if status.cached else 'not built yet'})")
            print(f"  classes:   {splits or 'known once built'}, {status.per_class} images each")
            if status.fingerprint:
                print(f"  pixels:    {status.fingerprint}")
        if problems:
            raise RunError("; ".join(problems))


@dataclass(frozen=True)
class Bench:
    """Measure speed as a ratio on this machine: against re-running the whole sequence, and against RecurrentPPO."""

    what: Positional[What] = "all"
    """rollout: acting and learning on bandits; fewshot: one training update; scaling: time and memory against length;
    all."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    repetitions: int = 5
    """Turns that all ways take; medians are over them."""
    tiny: bool = False
    """Sizes that take a second, to see that it works."""
    save: Path | None = None
    """Write all measurements to this JSON file, too."""
    plot: Path | None = None
    """Draw how time and memory grow with the length into this PNG, too."""

    def run(self) -> None:
        """Measure."""
        if self.plot is not None and self.what not in ("all", "scaling"):
            raise RunError("--plot draws what `snail bench scaling` measures")
        machine = Machine.named(self.device, threads=self.threads)
        report = bench(self.what, machine.device, self.repetitions, TINY if self.tiny else Sizes())
        text = render_report(report)
        if self.save is not None:
            write_json(self.save, {"text": text} | report.to_dict())
        if self.plot is not None and report.scaling is not None:
            draw_scaling(report.scaling, self.plot)
        print(text)


VERBS: dict[str, Any] = {
    "list": List,
    "train": Train,
    "evaluate": Evaluate,
    "attention": Attention,
    "table": PrintTable,
    "data": Data,
    "bench": Bench,
    "demo": Demo,
}


def run_verb(verb: str, args: Sequence[str]) -> None:
    """Parse the options of a verb and do what it says.

    Raises:
        RunError: for a verb or an option that does not exist; the message suggests the nearest.
    """
    if verb not in VERBS:
        raise RunError(f"unknown verb {verb!r}; {_suggestion(verb, list(VERBS), '', 'snail --help')}")
    kind = VERBS[verb]
    known = {"default": kind.defaults(args)} if hasattr(kind, "defaults") else {}
    parsed, unknown = tyro.cli(
        kind, args=args, prog=f"snail {verb}", return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,), **known
    )
    if unknown:
        options = _option_names(parsed)
        wanted = unknown[0].split("=")[0].lstrip("-").replace("_", "-")
        advice = _suggestion(wanted, options, "--", f"snail {verb} --help")
        raise RunError(f"unknown option {unknown[0]!r}; {advice}")
    parsed.run()


def _suggestion(word: str, known: list[str], prefix: str, help_command: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"`{help_command}` shows all"


def _option_names(options: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(options):
        name = prefix + field.name.replace("_", "-")
        value = getattr(options, field.name)
        names += _option_names(value, name + ".") if dataclasses.is_dataclass(value) else [name]
    return names

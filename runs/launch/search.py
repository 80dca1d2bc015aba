"""Hyperparameter search: random or TPE proposals by Optuna, with successive halving.

Every proposal is an ordinary run, in any engine. It pauses at a ninth and a third of its updates,
and continues from its checkpoint if it is among the best third of those that came as far. Proposals are judged by the
training return or the accuracy on validation classes, never by the test. The state is kept in
``launches/search.db`` of the results folder, from which the same command continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runs.catalogue import RunConfig
from runs.config.command_line import changed
from runs.launch.jobs import Job
from runs.launch.launching import LaunchOptions, launch, slots
from runs.results.metrics import UPDATE, training_score
from runs.system.errors import Interrupted, OutOfTime, RunError
from runs.system.progress import progress_bar

Search = Literal["grid", "random", "optuna"]
RUNGS = (1, 3, 9)
"""Ninths of the updates at which a proposal is judged."""
_RANGE = re.compile(r"([-+.\deE]+?)\.\.([-+.\deE]+)")
_AGAIN = "again, number"


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, on a logarithmic scale over a decade or more."""

    low: float
    high: float
    whole: bool

    @classmethod
    def parse(cls, word: object) -> Range | None:
        """Parse a range such as ``1e-4..1e-2``; None for anything else."""
        found = _RANGE.fullmatch(word) if isinstance(word, str) else None
        try:
            low, high = map(float, found.groups()) if found else (0.0, 0.0)
        except ValueError:
            return None
        whole = found is not None and all(re.fullmatch(r"[-+]?\d+", end) for end in found.groups())
        return cls(low, high, whole) if low < high else None

    def suggest(self, trial: Any, name: str) -> float:
        """A number suggested by an Optuna trial."""
        log = self.low > 0 and self.high / self.low >= 10
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=log)
        return trial.suggest_float(name, self.low, self.high, log=log)


@dataclass(frozen=True)
class Proposal:
    """A finished or pruned proposal: its score, its runs, and its progress."""

    number: int
    score: float
    state: str
    configs: tuple[RunConfig, ...]
    settings: Mapping[str, Any]


def search(
    runs: Sequence[RunConfig],
    space: Mapping[str, Sequence[Any]],
    trials: int,
    sampler: Literal["random", "optuna"],
    results: Path,
    options: LaunchOptions,
) -> list[Proposal]:
    """Search settings of one experiment and agent; returns proposals, best first.

    Args:
        runs: the base run, once for every seed; proposals are judged by the mean over seeds.
        space: values for each option, or a range such as ``1e-4..1e-2``.
        trials: number of proposals, including those of earlier starts of the same search.
        sampler: random, or optuna: its tree-structured Parzen estimator.

    Raises:
        RunError: if Optuna is not installed, or the space has an invalid option or value.
        OutOfTime, Interrupted: if the launch ends early; the same command continues.
    """
    try:
        import optuna
    except ImportError as e:
        raise RunError("optuna is not installed; run: pip install 'snail-suite[tune]'") from e
    if trials < 1:
        raise RunError(f"trials must be at least 1, got {trials}")
    if options.engine == "slurm" and not options.slurm.wait:
        raise RunError("a search has to wait for its runs; give --slurm.wait")
    fixed = {name: values[0] for name, values in space.items() if len(values) == 1 and Range.parse(values[0]) is None}
    space = {name: values for name, values in space.items() if name not in fixed}
    if not space:
        raise RunError("nothing to search; give --set training.learning-rate=1e-4..1e-2 or values to choose from")
    runs = [changed(run, fixed, f"train {run.experiment} --agent {run.agent}") for run in runs]
    base = runs[0]
    if not hasattr(base.training, "steps"):
        raise RunError(f"{base.agent} is not trained: there is nothing to search")
    where = f"{base.experiment} {base.agent}"
    choices = {name: [Range.parse(value) or value for value in values] for name, values in space.items()}
    for name, values in choices.items():
        if len(values) > 1 and any(isinstance(value, Range) for value in values):
            raise RunError(f"{name}: give one range, or values to choose from")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = results / "launches" / "search.db"
    storage.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps([dataclasses.asdict(r) for r in runs] + [space, sampler], sort_keys=True, default=str)
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(seed=base.seed),
        "optuna": lambda: optuna.samplers.TPESampler(seed=base.seed, constant_liar=True),
    }
    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=f"{where} {hashlib.sha256(about.encode()).hexdigest()[:8]}",
        sampler=samplers[sampler](),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3),
        direction="maximize",
        load_if_exists=True,
    )
    state = optuna.trial.TrialState
    for stopped in study.get_trials(states=[state.RUNNING]):  # from a search that was stopped: its runs continue
        study.enqueue_trial(stopped.params, user_attrs={_AGAIN: stopped.number})
        study.tell(stopped.number, state=state.FAIL)

    def counted() -> list[Any]:
        again = {t.user_attrs.get(_AGAIN) for t in study.get_trials()}
        ended = study.get_trials(states=[state.COMPLETE, state.PRUNED, state.FAIL])
        return [t for t in ended if t.number not in again]

    def configs(settings: Mapping[str, Any]) -> tuple[RunConfig, ...]:
        # categories are stored as JSON, which can represent lists
        values = {n: v if isinstance(choices[n][0], Range) else json.loads(v) for n, v in settings.items()}
        return tuple(changed(run, values, f"train {base.experiment} --agent {base.agent}") for run in runs)

    with progress_bar(trials, f"search {where}", initial=min(trials, len(counted())), unit="trial") as bar:
        while (left := trials - len(counted())) > 0:
            asked = [study.ask() for _ in range(min(left, max(1, slots(options) // len(runs))))]
            proposed = {t: configs({n: _suggest(t, n, v) for n, v in choices.items()}) for t in asked}
            _try(study, proposed, results, options)
            if scores := [t.value for t in counted() if t.value is not None]:
                bar.set_postfix_str(f"best {max(scores):.4g}", refresh=False)
            bar.update(len(asked))
    found = [
        Proposal(t.number, t.value, t.state.name.lower(), configs(t.params), _shown(t.params, choices))
        for t in counted()
        if t.value is not None and math.isfinite(t.value)
    ]
    if not found:
        raise RunError(f"all proposals for {where} failed; `snail status` shows why")
    return sorted(found, key=lambda p: (p.state != "complete", -p.score))


def _suggest(trial: Any, name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], Range):
        return values[0].suggest(trial, name)
    return trial.suggest_categorical(name, [json.dumps(value) for value in values])


def _shown(settings: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {n: v if isinstance(choices[n][0], Range) else json.loads(v) for n, v in settings.items()}


def _try(study: Any, proposed: Mapping[Any, tuple[RunConfig, ...]], results: Path, options: LaunchOptions) -> None:
    """Advance proposals from rung to rung, and report their results to the study."""
    import optuna

    going = dict(proposed)
    for rung in RUNGS:
        until = {c: max(1, c.training.steps * rung // RUNGS[-1]) for configs in going.values() for c in configs}
        configs = list(until)
        outcomes = dict(zip(configs, launch(configs, results, options, "search", until, quiet=True), strict=True))
        for trial, own in list(going.items()):
            states = {outcomes[c].state for c in own}
            if "failed" in states:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                going.pop(trial)
                continue
            if early := states - {"finished", "paused"}:
                error = OutOfTime if early == {"out of time"} else Interrupted
                raise error(f"the search stops, {early.pop()}; the same command continues")
            score = statistics.fmean(_score(c, results, until[c]) for c in own)
            trial.report(score, rung)
            if rung == RUNGS[-1]:
                study.tell(trial, score)
            elif trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                going.pop(trial)
        if not going:
            return


def _score(config: RunConfig, results: Path, until: int) -> float:
    """The score of a run at an update."""
    lines = Job.of(config, results).folder.metrics()
    try:
        return training_score([line for line in lines if line[UPDATE] <= until])[1]
    except ValueError as e:
        print(f"warning: {config.experiment} {config.agent}: {e} by update {until}", file=sys.stderr)
        return -math.inf

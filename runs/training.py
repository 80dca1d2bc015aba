"""Trains and tests a run, from its configuration to its record, through interruptions."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from runs.algorithms.fewshot import FewShotLearner
from runs.algorithms.finite import SMALLER_STEPS, NotFinite, strange_weight
from runs.algorithms.learner import Learner, Measurement
from runs.catalogue import RunConfig
from runs.config.serialization import check_values
from runs.results.folder import RunFolder, WatchedFolder, find_trained
from runs.results.metrics import RATE, SECONDS, UPDATE, metric_name, unit_name
from runs.results.records import PUBLISHED, git_commit, make_record
from runs.results.weights import sha256
from runs.system.deadline import Deadline
from runs.system.distributed.process_group import ProcessGroup
from runs.system.errors import Interrupted, OutOfTime, Paused, RunError
from runs.system.machine import Machine, emulates_bfloat16
from runs.system.progress import progress_bar
from runs.tracking import Tracker, TrackerName, open_tracker, tracker_names
from runs.tracking.labels import Labels
from runs.tracking.pictures import PICTURES_AFTER, draw_pictures


@dataclass
class Progress:
    """The progress of a run, saved in its checkpoint."""

    device: str
    step: int = 0
    units: int = 0
    seconds: float = 0.0
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    window: dict[str, list[Tensor]] = field(default_factory=dict)
    """Scalars of the updates since the last line of metrics, to be averaged in the next."""


LOGGED_STEPS = 1000  # lines of metrics per run, besides those of validation passes
SHOW_SECONDS = 2.0  # between refreshes of the progress bar, and checks of the weights
CHECKPOINT_SECONDS = 60.0


def build_learner(config: RunConfig, machine: Machine) -> Learner:
    """Build the learner of a configuration.

    Raises:
        RunError: if the task or the data do not support the configuration.
    """
    try:
        check_values(config)
        return config.training.learner(config, machine)
    except (ValueError, OverflowError) as e:
        raise RunError(f"{config.experiment}: {e}") from e


def train(
    config: RunConfig,
    folder: RunFolder,
    machine: Machine,
    *,
    tracker: TrackerName = "auto",
    labels: Labels | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    deadline: Deadline | None = None,
    until: int | None = None,
    notice: str | None = None,
) -> dict[str, Any]:
    """Train, test on the frozen tasks, and write the record to the folder.

    A run that is interrupted and resumed on the same CPU gives the same numbers as an uninterrupted one.

    With ``until``, training pauses after that many updates, so that one can decide whether to continue.
    ``notice`` is printed before a training starts from scratch.

    In a process group, the main process writes, prints and tests; the others only train.

    Returns:
        The record; empty in the other processes of a group.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
        OutOfTime: before the deadline, with a checkpoint saved.
        Paused: after ``until`` updates, with a checkpoint saved.
        RunError: if the folder is taken, the data is missing, or the loss became NaN or infinite.
    """
    group = machine.group
    if not group.is_main:
        folder, tracker, quiet = WatchedFolder(folder.path), "none", True
    commit = git_commit()  # of the running code, whose files may be edited meanwhile
    with contextlib.ExitStack() as held:
        with group.barrier():
            held.enter_context(folder.lock())
            record = folder.finished(config, resume=resume, overwrite=overwrite)
        if record is not None:
            if group.is_main:
                print(f"{folder.path} is finished already")
            return record
        with group.barrier():  # errors show before anything in the folder is deleted
            tracker_names(tracker)
            learner = build_learner(config, machine)
            if overwrite or not folder.checkpoint_path.exists():
                take_embedding(learner, config, folder.path.parents)
        with group.barrier():
            folder.claim(config, overwrite=overwrite)
        with group.barrier():
            progress = Progress(device=machine.device.type)
            if folder.checkpoint_path.exists():
                progress = restore(learner, folder, config, machine)
        group.require_same("checkpoint, by its update", progress.step)
        with group.barrier():
            folder.forget_metrics_after(progress.step)
            mirror = open_tracker(tracker, folder.path, progress.run_id, labels)
        if not quiet and getattr(config.training, "bfloat16", False) and emulates_bfloat16(machine.device):
            print(
                "this CPU has no bfloat16 instructions: computing in float32",
                file=sys.stderr,
            )
        if notice and not quiet and not progress.step:
            print(notice, file=sys.stderr)
        try:
            deadline = deadline or Deadline()
            _run_steps(learner, config, folder, progress, mirror, quiet, group, deadline, until)
            if not group.is_main:
                return {}
            results = evaluate(learner, quiet, deadline)
            record = make_record(
                config,
                results,
                learner,
                steps=progress.step,
                units=progress.units,
                seconds=progress.seconds,
                device=machine.device,
                processes=group.size,
                commit=commit,
            )
            folder.write_samples(results)
            folder.write_result(record)
            if mirror and progress.seconds >= PICTURES_AFTER:
                draw_pictures(folder, learner)
        except KeyboardInterrupt as e:
            raise Interrupted("stopped; continue with --resume") from e
        finally:
            mirror.close()
    return record


def require_updates(until: int | None) -> None:
    """Raise RunError unless ``until`` is a number of updates, or None."""
    if until is not None and until < 1:
        raise RunError(f"until must be at least 1 update, got {until}")


def take_embedding(learner: Learner, config: RunConfig, places: Iterable[Path]) -> None:
    """Give the learner the embedding of the run that its training names, found in these folders or published.

    Raises:
        RunError: if there is no such run, it is not finished, or its embedding is of another kind.
    """
    run = getattr(config.training, "embedding_from", None)
    if not run:
        return
    try:
        source = find_trained(run, [*places, PUBLISHED])
    except RunError as e:
        raise RunError(f"no embedding to start from: {e}") from e
    found, record = source.config(), source.result()
    if record is None:
        raise RunError(f"{source.path} is not finished, so its embedding cannot be used; continue it with --resume")
    weights = source.tested_weights(found)
    name = f"{found.experiment}/{found.agent}/{source.path.name}"
    about = {"run": name, "train_seconds": record["train_seconds"], "weights_sha256": sha256(weights)}
    try:
        cast(FewShotLearner, learner).take_embedding(weights, about)
    except ValueError as e:
        raise RunError(f"the embedding of {source.path} cannot be used: {e}") from e


def restore(learner: Learner, folder: RunFolder, config: RunConfig, machine: Machine) -> Progress:
    """Load the folder's checkpoint into the learner; returns its progress.

    Raises:
        RunError: if it is missing or damaged, or from another configuration, version or kind of device.
    """
    saved, state = folder.load_checkpoint(config)
    with _fitting(folder):
        progress = Progress(**saved)
        if progress.device != machine.device.type:
            raise RunError(
                f"{folder.path} was trained on {progress.device}, and can be continued exactly only there; "
                f"give --device {progress.device}, or start over with --overwrite"
            )
        learner.load_state_dict(state["learner"])
        torch.set_rng_state(state["randomness"]["cpu"])
        if progress.device == "cuda":
            torch.cuda.set_rng_state(state["randomness"]["cuda"], machine.device)
    return progress


def load_model(learner: Learner, folder: RunFolder, config: RunConfig) -> Progress:
    """Load the weights that are tested, from the folder's checkpoint or the published ones, on any device.

    Raises:
        RunError: as ``restore``.
    """
    if folder.weights_path.exists() and not folder.checkpoint_path.exists():
        with _fitting(folder):
            learner.load_weights({"model": folder.tested_weights(config), "selected": None})
        return Progress(device="cpu", step=learner.steps)
    saved, state = folder.load_checkpoint(config)
    with _fitting(folder):
        learner.load_weights(state["learner"])
        return Progress(**saved)


@contextlib.contextmanager
def _fitting(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        raise RunError(
            f"{folder.checkpoint_path} is from another version of the program; start over with --overwrite"
        ) from e


def _state(learner: Learner, progress: Progress) -> dict[str, Any]:
    """The state for an exact continuation: the learner's, and torch's global generators (used by dropout)."""
    randomness = {"cpu": torch.get_rng_state()}
    if progress.device == "cuda":
        randomness["cuda"] = torch.cuda.get_rng_state()
    return {"learner": learner.state_dict(), "randomness": randomness}


def evaluate(learner: Learner, quiet: bool = False, deadline: Deadline | None = None) -> list[Measurement]:
    """Test the learner on its frozen tasks, with a progress bar.

    Raises:
        OutOfTime: before the deadline, without results: all tasks are tested in one go.
    """
    deadline = deadline or Deadline()
    deadline.begin()
    form = "{desc} {percentage:3.0f}% {bar} {elapsed}"
    with progress_bar(1.0, "evaluate", bar_format=form, disable=quiet) as bar:

        def report(done: int, of: int) -> None:
            bar.update(done / of - bar.n)
            if done < of and deadline.near():
                raise OutOfTime("the time budget ends before the test; continue with --resume and more time")

        return learner.evaluate(report)


def _run_steps(
    learner: Learner,
    config: RunConfig,
    folder: RunFolder,
    progress: Progress,
    mirror: Tracker,
    quiet: bool,
    group: ProcessGroup,
    deadline: Deadline,
    until: int | None,
) -> None:
    """All updates from ``progress.step`` on, with logging, validation and checkpoints.

    Which updates are logged depends only on their number, so that an interrupted run logs the same.
    """
    passes = {learner.steps * (i + 1) // learner.validations for i in range(learner.validations)}
    every = math.ceil(learner.steps / LOGGED_STEPS)
    before = progress.seconds
    logged = shown = saved = began = time.monotonic()
    units = progress.units
    label = f"{config.experiment} {config.agent}"
    deadline.begin()
    with (
        _stop_requests() as stop,
        progress_bar(learner.steps, label, initial=progress.step, unit="update", disable=quiet) as bar,
    ):
        if until is not None and until < learner.steps and progress.step >= until:
            raise Paused(f"{progress.step} of {learner.steps} updates are done already; continue with --resume")
        while progress.step < learner.steps:
            with _keeping_the_last_good(folder, progress.step + 1):
                logs = learner.update(progress.step)
            for name, value in logs.items():
                progress.window.setdefault(name, []).append(value)
            progress.units += learner.units(progress.step)
            progress.step += 1
            bar.update()
            now = time.monotonic()
            progress.seconds = before + now - began
            last = progress.step == learner.steps
            validating = progress.step in passes
            # read once: a later request takes effect after the next update
            late, stopping, save, show = group.any(
                deadline.near(), bool(stop), now - saved > CHECKPOINT_SECONDS, now - shown > SHOW_SECONDS
            )
            paused = progress.step == until and not last
            save = last or stopping or late or paused or save
            due = last or validating or progress.step % every == 0
            show = save or show
            if due or show:
                line = _summary(progress, learner, progress.units - units, now - logged, group)
                with _keeping_the_last_good(folder, progress.step):
                    _require_finite(line, learner, weights=show)  # too many steps for a line each
                    if validating and group.is_main:
                        line |= {metric_name(name): value for name, value in learner.validate().items()}
                if validating:
                    # validation does not count as training
                    began += time.monotonic() - now
                if show:
                    bar.set_postfix_str(_postfix(line, learner.unit), refresh=False)
                    shown = time.monotonic()
                if due:
                    folder.append_metrics(line)
                    mirror.wake()
                    progress.window.clear()
                    logged, units = time.monotonic(), progress.units
            if save:
                progress.window = {n: [group.total(x) / group.size for x in xs] for n, xs in progress.window.items()}
                folder.save_checkpoint(config, vars(progress), _state(learner, progress))
                saved = time.monotonic()
            done = f"after update {progress.step} of {learner.steps}"
            if stopping:
                raise Interrupted(f"stopped {done}; continue with --resume")
            if paused:
                raise Paused(f"paused {done}; continue with --resume")
            if late and not last:
                raise OutOfTime(f"the time budget ends {done}; continue with --resume")


def _summary(progress: Progress, learner: Learner, units: int, elapsed: float, group: ProcessGroup) -> dict[str, Any]:
    """One line of metrics: means over the updates since the last line, in which ``units`` were processed."""
    rate = units / max(elapsed, 1e-9)
    # scalars from a checkpoint are on the host
    means = {n: torch.stack([x.to(xs[-1].device) for x in xs]).mean().item() for n, xs in progress.window.items()}
    means = group.mean(means)
    unit = unit_name(learner.unit)
    axes = {UPDATE: progress.step, unit: progress.units, SECONDS: round(progress.seconds, 3)}
    scalars = {metric_name(name): mean for name, mean in means.items()}
    return {**axes, f"time/{unit}{RATE}": round(rate, 1), **scalars}


def _require_finite(line: dict[str, Any], learner: Learner, weights: bool) -> None:
    """Raise NotFinite for a metric or, with ``weights``, a weight that is not finite."""
    for name, value in line.items():
        if not math.isfinite(value):
            raise NotFinite(f"the {name}", SMALLER_STEPS)
    if weights and (what := strange_weight(learner.model)):
        raise NotFinite(what, SMALLER_STEPS)


@contextlib.contextmanager
def _keeping_the_last_good(folder: RunFolder, update: int) -> Iterator[None]:
    """Stop the training before numbers that are not finite get into a checkpoint; say when, and what is left."""
    try:
        yield
    except NotFinite as e:
        exists = folder.checkpoint_path.exists()
        kept = f"the last good checkpoint is kept in {folder.path}" if exists else "there is no checkpoint yet"
        raise NotFinite(e.what, e.advice, f" at update {update}; {kept}") from e


def _postfix(line: dict[str, Any], unit: str) -> str:
    shown = {k: v for k, v in line.items() if k in ("train/loss", "train/return") or k.startswith("validation/")}
    rate = line[f"time/{unit_name(unit)}{RATE}"]
    return ", ".join([*(f"{k.partition('/')[2]}={v:.4g}" for k, v in shown.items()), f"{rate:,.0f} {unit}s/s"])


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM; a second Ctrl-C stops at once.

    Signal handlers that a launcher has installed are kept.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM) if not _arranged(s)}
    except ValueError:  # not the main thread, which handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def _arranged(number: int) -> bool:
    """Whether a signal has a handler already."""
    handler = signal.getsignal(number)
    return callable(handler) and handler is not signal.default_int_handler

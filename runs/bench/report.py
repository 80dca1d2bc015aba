"""Speed of the suite against public SNAIL implementations and other libraries.

* ``rollout``: acting and learning on bandits. Ours acts by ``step`` and evaluates all steps of the
  finished trials in one parallel forward; the references run policy and value network over all steps so far for every
  action, or are RecurrentPPO of Stable-Baselines3-contrib. It includes the cost of a step late in a trial, whole
  iterations of PPO, and their updates relative to the machine's peak.
* ``fewshot``: one update on 5-way episodes. Ours embeds every image once, and all queries of an episode share its
  support; the references process a separate sequence for every query.
* ``dense-stack``: `dense_stack` against library convolutions, plain and compiled.
* ``control``: collecting trials of MuJoCo's cheetah, against environments only and RecurrentPPO.
* ``scaling``: time and memory against the length of a sequence, for all sequence models.

The machine may be busy, so all candidates take turns in one process, and ratios are medians over the turns. Achieved
FLOP/s are compared with matrix products measured in the same turns. While other
programs run, measure with one thread: several threads wait for each other at every small operation, which slows down
small workloads most.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import chain
from typing import Any, Literal, get_args

import torch

from runs.bench.control import bench_control
from runs.bench.dense_stack import DENSE_STACKS
from runs.bench.fewshot import bench_few, bench_many
from runs.bench.measure import TINY, Benchmark, Sizes
from runs.bench.rollout import bench_rollout, bench_steps
from runs.bench.scaling import Scaling, bench_scaling, render_scaling
from runs.bench.training import bench_training, bench_update
from runs.results.records import device_name, git_commit
from runs.system.errors import RunError

__all__ = ["TINY", "Report", "Sizes", "What", "bench", "render"]

What = Literal["all", "rollout", "fewshot", "dense-stack", "control", "scaling"]


@dataclass(frozen=True)
class Report:
    """Benchmarks and where they were run.

    load: the system's load average over the minute before, if known.
    """

    device: str
    threads: int
    load: float | None
    torch: str
    commit: str | None
    date: str
    repetitions: int
    sizes: Sizes
    benchmarks: tuple[Benchmark, ...]
    scaling: Scaling | None

    def to_dict(self) -> dict[str, Any]:
        """The whole report, including single times, ready for JSON."""
        return dataclasses.asdict(self)


def bench(
    what: What = "all", device: torch.device | str = "cpu", repetitions: int = 5, sizes: Sizes | None = None
) -> Report:
    """Run benchmarks; progress goes to stderr if it is a terminal.

    Raises:
        RunError: for an unknown benchmark, fewer than one repetition, or candidates that disagree in their results.
    """
    if what not in get_args(What):
        raise RunError(f"what must be one of {', '.join(get_args(What))}, got {what!r}")
    if repetitions < 1:
        raise RunError(f"repetitions must be at least 1, got {repetitions}")
    device, sizes = torch.device(device), sizes or Sizes()
    able = {name: runs for name, runs in _BENCHMARKS.items() if name != "control" or find_spec("mujoco")}
    chosen = [run for run in (chain(*able.values()) if what == "all" else _BENCHMARKS.get(what, ()))]
    return Report(
        device=device_name(device),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        torch=torch.__version__,
        commit=git_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        repetitions=repetitions,
        sizes=sizes,
        benchmarks=tuple(run(device, repetitions, sizes) for run in chosen),
        scaling=bench_scaling(device, repetitions, sizes) if what in ("all", "scaling") else None,
    )


def render(report: Report) -> str:
    """The report as text."""
    lines = [
        f"{report.device}, threads: {report.threads}, torch {report.torch}",
        f"commit {_or_unknown(report.commit)}, {report.date}, load before: {_or_unknown(report.load)}",
    ]
    for b in report.benchmarks:
        peaks = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in b.peaks.items())
        found = ", ".join(f"{name} {x:.1e}" for name, x in b.differences.items())
        heads = ["", "precision", b.batch_unit, f"{b.unit}/s", "µs each", b.ratio, "MFLOP each", "GFLOP/s", "of peak"]
        cells = [
            [
                row.name,
                row.precision,
                f"{row.batch}",
                f"{row.best_rate:,.0f}",
                f"{1e6 / row.best_rate:,.1f}",
                f"{row.speedup:.{1 if row.speedup > 0.1 else 4}f} x" if i else "",
                f"{row.flops / row.units / 1e6:,.2f}",
                f"{row.best_flop_rate / 1e9:,.1f}",
                f"{row.share_of_peak:.0%}",
            ]
            for i, row in enumerate(b.rows)
        ]
        lines += ["", f"{b.name}: {b.about}", *_table([heads, *cells]), f"  peak: {peaks}"]
        if found:
            lines.append(f"  largest difference between ours and plain PyTorch: {found}")
        lines += [f"  {note}" for note in b.notes]
    if report.scaling is not None:
        lines += render_scaling(report.scaling)
    if not report.benchmarks:
        return "\n".join(lines)
    lines += [
        "",
        f"Rates are the best of {report.repetitions} runs. All candidates and large matrix products took turns;",
        '"ours is" (times as fast), "takes" (times the first) and "of peak" are medians over turns. FLOP: twice',
        "the multiply-adds of matrix products, convolutions, LSTMs and attention as executed.",
    ]
    return "\n".join(lines)


def _or_unknown(x: object) -> str:
    return "unknown" if x is None else f"{x:.1f}" if isinstance(x, float) else str(x)


def _table(rows: list[list[str]]) -> list[str]:
    """Format rows of cells as lines, the first two columns left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{x:<{w}}" if i < 2 else f"{x:>{w}}" for i, (x, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


_BENCHMARKS: dict[str, tuple[Callable[[torch.device, int, Sizes], Benchmark], ...]] = {
    "rollout": (bench_rollout, bench_steps, bench_training, bench_update),
    "fewshot": (bench_few, bench_many),
    "dense-stack": DENSE_STACKS,
    "control": (bench_control,),
}

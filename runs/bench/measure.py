"""Measurement of speed: candidates take turns, and FLOP/s are compared with the peak of matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm import tqdm

from runs.system.errors import RunError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class EpisodeSizes:
    """Sizes of an update with few-shot episodes."""

    episodes: int
    """Episodes per update."""
    ways: int
    """Classes per episode."""
    shots: int
    """Examples of each class."""
    queries: int
    """Queries per episode."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the benchmarks."""

    arms: int = 5
    """Arms of a bandit."""
    pulls: int = 100
    """Steps of a trial."""
    trials: int = 512
    """Trials played in parallel."""
    rerun_trials: int = 16
    """Parallel trials in the references: the fastest number on a CPU; more overflow its caches."""
    few: EpisodeSizes = EpisodeSizes(episodes=16, ways=5, shots=1, queries=15)
    """Short few-shot episodes."""
    many: EpisodeSizes = EpisodeSizes(episodes=4, ways=20, shots=5, queries=20)
    """Long few-shot episodes."""
    step_trials: int = 256
    """Parallel trials for measuring single steps."""
    step_times: tuple[int, ...] = (10, 100, 1000)
    """Steps at which the cost is measured; the last is the trial's length."""
    steps_timed: int = 8
    """Consecutive steps measured at each of these points."""
    recurrent_ppo_steps: int | None = None
    """Steps per iteration of RecurrentPPO; None: its default."""
    compiled: bool = True
    """Whether to measure compiled library convolutions as well; needs a C++ compiler."""
    control_trials: int = 32
    """Parallel trials of the cheetah."""
    control_steps: int = 400
    """Steps of each."""
    scaling_lengths: tuple[int, ...] = (16, 64, 256, 1000, 4096, 16384)
    """Sequence lengths at which time and memory are measured."""
    scaling_batch: int = 1
    """Batch size there."""
    matrices: tuple[int, ...] = (1024, 2048)
    """Size of the square matrices whose products give the peak."""


TINY = Sizes(
    pulls=6,
    trials=4,
    rerun_trials=2,
    few=EpisodeSizes(episodes=2, ways=3, shots=1, queries=2),
    many=EpisodeSizes(episodes=1, ways=3, shots=2, queries=3),
    step_trials=2,
    step_times=(1, 6),
    steps_timed=2,
    recurrent_ppo_steps=8,
    compiled=False,
    control_trials=2,
    control_steps=4,
    scaling_lengths=(4, 8),
    scaling_batch=2,
    matrices=(32,),
)


@dataclass(frozen=True)
class Row:
    """The measurements of one candidate.

    name: description.
    batch: parallel trials or sequences.
    units: environment steps or queries per run.
    flops: floating-point operations per run, see ``count_flops``.
    seconds: of each run.
    best_rate: units per second in the fastest run.
    speedup: how many times as fast the first row is, as a median over turns.
    best_flop_rate: FLOP/s in the fastest run.
    share_of_peak: FLOP/s relative to the matrix product of the same turn, as a median over turns.
    """

    name: str
    precision: Precision
    batch: int
    units: int
    flops: int
    seconds: tuple[float, ...]
    best_rate: float
    speedup: float
    best_flop_rate: float
    share_of_peak: float


@dataclass(frozen=True)
class Benchmark:
    """One benchmark and all its candidates.

    about: description of the work.
    unit: unit of rates; batch_unit: unit of ``Row.batch``.
    peaks: FLOP/s of the fastest matrix product, by precision.
    differences: largest absolute difference of the named results between ours and the plain reference.
    ratio: heading of ``Row.speedup``.
    notes: further lines for the reader.
    """

    name: str
    about: str
    unit: str
    batch_unit: str
    rows: tuple[Row, ...]
    peaks: dict[str, float]
    differences: dict[str, float] = field(default_factory=dict)
    ratio: str = "ours is"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A candidate: ``run`` does the work once; the rest is as in ``Row``."""

    name: str
    precision: Precision
    batch: int
    units: int
    run: Callable[[], object]


def measure(
    candidates: Sequence[Candidate], device: torch.device, repetitions: int, matrices: Sequence[int]
) -> tuple[tuple[Row, ...], dict[str, float]]:
    """Rows, and the best rate of matrix products by precision; every candidate runs once per turn.

    Candidates are compared with the first.
    """
    seconds: list[list[float]] = [[] for _ in candidates]
    peaks: dict[str, list[float]] = {name: [] for name in get_args(Precision)}
    with tqdm(total=(repetitions + 1) * len(candidates), disable=None) as bar:

        def flops_while_warming_up(way: Candidate) -> int:
            flops = count_flops(way.run)
            bar.update()
            return flops

        flops = [flops_while_warming_up(way) for way in candidates]
        for _ in range(repetitions):
            for name, found in peaks.items():
                found.append(max(matmul_rate(n, getattr(torch, name), device) for n in matrices))
            for way, times in zip(candidates, seconds, strict=True):
                times.append(_seconds(way.run, device))
                bar.update()
    rows = (_row(*it, candidates[0], seconds[0], peaks) for it in zip(candidates, flops, seconds, strict=True))
    return tuple(rows), {name: max(found) for name, found in peaks.items()}


def _row(
    way: Candidate,
    flops: int,
    seconds: list[float],
    ours: Candidate,
    our_seconds: list[float],
    peaks: dict[str, list[float]],
) -> Row:
    speedups = [(ours.units / a) / (way.units / b) for a, b in zip(our_seconds, seconds, strict=True)]
    shares = [flops / s / peak for s, peak in zip(seconds, peaks[way.precision], strict=True)]
    return Row(
        name=way.name,
        precision=way.precision,
        batch=way.batch,
        units=way.units,
        flops=flops,
        seconds=tuple(seconds),
        best_rate=way.units / min(seconds),
        speedup=statistics.median(speedups),
        best_flop_rate=flops / min(seconds),
        share_of_peak=statistics.median(shares),
    )


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of a run: twice the multiply-adds of matrix products, convolutions and attention.

    They are counted as executed, including padding and masked keys. Elementwise work,
    normalisation, pooling and the optimiser are not counted.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS_MISSING_IN_TORCH)
    with counter:
        run()
    return counter.get_total_flops()


def _addmm_flops(out: torch.Size, a: torch.Size, b: torch.Size, *rest: Any, **options: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **options: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _lstm_flops(x: torch.Size, input_weight: torch.Size, hidden_weight: torch.Size, *rest: Any, **options: Any) -> int:
    return 2 * x[0] * x[1] * (input_weight.numel() + hidden_weight.numel())


def _lstm_backward_flops(*shapes: Any, **options: Any) -> int:
    return 2 * _lstm_flops(*shapes)


_FLOPS_MISSING_IN_TORCH = {
    torch.ops.aten.addmm_: _addmm_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: _lstm_backward_flops,
}


def matmul_rate(n: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a product of two (n, n) matrices, the faster of two runs."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = a @ b
    return 2 * n**3 / min(_seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(2))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_agreement(differences: dict[str, float]) -> None:
    """Raise RunError if candidates differ by more than rounding; GPU convolutions round to 10 bits."""
    for name, difference in differences.items():
        if not difference < 1e-2:
            raise RunError(f"the candidates disagree: {name} differ by {difference:.1e}")


def largest(x: Tensor) -> float:
    """Largest absolute entry."""
    return x.abs().max().item()

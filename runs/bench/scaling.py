"""Time and memory against the length of a sequence, for every sequence model.

Training is a forward and a backward pass over whole sequences; streaming is one more step at their end. The models
are policies for 5-armed bandits, of SNAIL's size for 1,000 pulls; the depth of temporal convolutions
grows with the length, since a TC block has log2 T layers.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runs.agents import AGENTS, MEMORIES, SequenceAgent, SNAILConfig
from runs.bench.measure import Sizes
from runs.results.folder import writing
from runs.system.errors import RunError
from runs.system.progress import progress_bar
from snail.sequence import SequenceModel

CHANNELS, OUTPUTS = 8, 5
SIZED_FOR = 1000
"""Length of the SNAIL whose parameter count the others match."""
MODELS: dict[str, SequenceAgent] = {"tcn": SNAILConfig(blocks="convolutions"), **AGENTS, **MEMORIES}
"""All agents that are sequence models; tcn: only SNAIL's temporal convolutions."""


def build(name: str, steps: int) -> SequenceModel:
    """The model of that name for sequences of this length."""
    agent = MODELS[name]
    return agent.build("policy", CHANNELS, OUTPUTS, steps if isinstance(agent, SNAILConfig) else SIZED_FOR)


@dataclass(frozen=True)
class Quantity:
    """A quantity that grows with the length T; ``expected`` are its exponents of T for very long sequences."""

    name: str
    unit: str
    expected: dict[str, str]


def _expected(tcn: str, attention: str, snail: str, s5: str, recurrent: str) -> dict[str, str]:
    special = {"tcn": tcn, "snail": snail, "transformer": attention, "rotary": attention, "s5": s5}
    return {name: special.get(name, recurrent) for name in MODELS}


QUANTITIES = {
    "training time": Quantity(
        "training time of a sequence", "ms", _expected("1, and log T", "2", "2", "1, and log T", "1")
    ),
    "training memory": Quantity(
        "memory of a sequence, kept for the backward pass",
        "MB",
        _expected("1, and log T", "1", "1, and log T", "1, and log T", "1"),
    ),
    "step time": Quantity("time of one more step", "µs", _expected("log T", "1", "1", "0", "0")),
    "step memory": Quantity("memory of a cache", "kB", _expected("1", "1", "1", "0", "0")),
}
"""Fused attention kernels store no T x T matrix: memory is linear in T, time is not."""


@dataclass(frozen=True)
class Scaling:
    """Measurements: ``values[quantity][model]`` has one number per length, for one sequence."""

    lengths: tuple[int, ...]
    values: dict[str, dict[str, tuple[float, ...]]]

    def exponent(self, quantity: str, model: str) -> float:
        """Slope on logarithmic axes between the two longest lengths."""
        (x0, x1), (y0, y1) = self.lengths[-2:], self.values[quantity][model][-2:]
        return math.log(y1 / y0) / math.log(x1 / x0)


def bench_scaling(device: torch.device, repetitions: int, sizes: Sizes) -> Scaling:
    """Measure all models, which take turns; times are medians over the turns."""
    lengths = sizes.scaling_lengths
    times: dict[tuple[str, str, int], list[float]] = {}
    memory: dict[tuple[str, str, int], float] = {}
    turns = [lengths[:3], *[lengths] * repetitions]  # the first turn is a warm-up
    total = len(MODELS) * sum(map(len, turns))
    with progress_bar(total, "scaling", unit="turn") as bar:
        for turn, chosen in enumerate(turns):
            for T in chosen:
                for name in MODELS:
                    torch.manual_seed(0)
                    model = build(name, T).to(device)
                    x = torch.randn(sizes.scaling_batch, T, CHANNELS, device=device)
                    seconds, kept = _train(model, x)
                    at_end, cache = _stream(model, x, sizes.steps_timed)
                    if turn:
                        times.setdefault(("training time", name, T), []).append(1e3 * seconds / len(x))
                        times.setdefault(("step time", name, T), []).append(1e6 * at_end / len(x))
                    memory["training memory", name, T] = kept / 1e6 / len(x)
                    memory["step memory", name, T] = cache / 1e3 / len(x)
                    bar.update()
    found = {key: statistics.median(values) for key, values in times.items()} | memory
    values = {q: {name: tuple(found[q, name, T] for T in lengths) for name in MODELS} for q in QUANTITIES}
    return Scaling(lengths, values)


def _train(model: SequenceModel, x: Tensor) -> tuple[float, int]:
    """Seconds of a forward and a backward pass, and bytes kept between them."""
    kept: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}  # these exist anyway

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return saved.detach()  # keeping itself, as the output of its own node, would be a cycle that is never freed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        y = model(x)  # keep them alive, so that no storage is counted twice
    del y
    began = _now(x.device)
    model(x).square().mean().backward()
    return _now(x.device) - began, sum(kept.values())


@torch.no_grad()
def _stream(model: SequenceModel, x: Tensor, steps: int) -> tuple[float, int]:
    """Seconds of a step at the end of the sequences, and bytes of the cache."""
    T = x.shape[1]
    steps = min(steps, T - 1)
    _, cache = model.prefill(x[:, : T - steps], max_len=T)
    size = _bytes(cache)
    began = _now(x.device)
    for t in range(T - steps, T):
        _, cache = model.step(x[:, t], cache)
    return (_now(x.device) - began) / steps, size


def _bytes(cache: Any) -> int:
    """Bytes of all tensors in nested tuples and dataclasses."""
    if isinstance(cache, Tensor):
        return cache.untyped_storage().nbytes()
    parts = cache if isinstance(cache, (tuple, list)) else getattr(cache, "__dict__", {}).values()
    return sum(_bytes(part) for part in parts)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def render_scaling(scaling: Scaling) -> list[str]:
    """Format as text."""
    lines = []
    for key, quantity in QUANTITIES.items():
        lines += ["", f"scaling: {quantity.name}, in {quantity.unit}, by length"]
        heads = ["", *map(str, scaling.lengths), "exponent", "expected"]
        rows = [heads] + [
            [name, *(f"{v:,.3g}" for v in scaling.values[key][name]), f"{scaling.exponent(key, name):.2f}", expected]
            for name, expected in quantity.expected.items()
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  " + "  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in rows]
    lines.append("  exponent: of the length, between the two longest; expected: for very long sequences")
    return lines


def draw_scaling(scaling: Scaling, path: Path) -> None:
    """Draw the four quantities on logarithmic axes into a PNG.

    Raises:
        RunError: if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as e:
        raise RunError("matplotlib is not installed; run: pip install 'snail-suite[plot]'") from e
    figure = Figure(figsize=(11, 10), layout="constrained")
    colours = dict(zip(MODELS, colormaps["tab20"](range(len(MODELS))), strict=True))
    for axes, (key, quantity) in zip(figure.subplots(2, 2).flat, QUANTITIES.items(), strict=True):
        for name, values in scaling.values[key].items():
            axes.plot(scaling.lengths, values, marker="o", markersize=4, color=colours[name], label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(quantity.name, fontsize=10)
        axes.set_xlabel("length")
        axes.set_ylabel(quantity.unit)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=120)

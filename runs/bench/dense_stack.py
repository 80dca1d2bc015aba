"""Speed of `dense_stack` against library convolutions, plain and compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from runs.bench.measure import Benchmark, Candidate, Precision, Sizes, largest, measure
from snail.convolution import TCBlock
from snail.ops.dense_stack import dense_stack, dense_stack_reference

Stack = Callable[..., Tensor]


def bench_bandit_stack(precision: Precision, device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """The first TC block of the policy, for a minibatch of PPO."""
    block = TCBlock(32, sizes.pulls, filters=32)
    trials = max(1, sizes.trials // 8)
    return _bench("dense stack, bandits", precision, device, repetitions, sizes, block, trials, sizes.pulls)


def bench_fewshot_stack(precision: Precision, device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """The first TC block of the few-shot network, for the support sets of an update's episodes."""
    few = sizes.few
    steps = few.ways * few.shots
    block = TCBlock(64 + few.ways + 32, steps + 1, filters=128)
    return _bench("dense stack, few-shot", precision, device, repetitions, sizes, block, few.episodes, steps)


DENSE_STACKS = tuple(
    partial(bench, precision)
    for bench in (bench_bandit_stack, bench_fewshot_stack)
    for precision in get_args(Precision)
)


def _bench(
    name: str,
    precision: Precision,
    device: torch.device,
    repetitions: int,
    sizes: Sizes,
    block: TCBlock,
    batch: int,
    steps: int,
) -> Benchmark:
    torch.manual_seed(0)
    block.to(device)
    weights, biases = [c.weight for c in block.convs], [c.bias for c in block.convs]
    x = torch.randn(steps, batch, block.input_size, device=device, requires_grad=True)
    target = torch.randn(steps, batch, block.output_size, device=device)
    inputs = [x, *weights, *biases]

    def gradients(stack: Stack, precision: Precision = precision) -> tuple[Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            y = stack(x, weights, biases, block.dilations)
        return torch.autograd.grad(y, inputs, target.to(y.dtype))

    stacks: dict[str, Stack] = {"ours": dense_stack, "library convolutions": dense_stack_reference}
    if sizes.compiled and (shutil.which("c++") or device.type != "cpu"):
        stacks["library convolutions, compiled"] = torch.compile(dense_stack_reference, dynamic=False)
    candidates = [
        Candidate(way, precision, batch, batch * steps, partial(gradients, stack)) for way, stack in stacks.items()
    ]
    rows, peaks = measure(candidates, device, repetitions, sizes.matrices)
    ours, reference = (gradients(stack, "float32") for stack in (dense_stack, dense_stack_reference))
    differences = {"gradients": max(largest(a - b) / largest(b) for a, b in zip(ours, reference, strict=True))}
    about = (
        f"forward and backward of {len(block.dilations)} dense blocks of {block.filters} filters on "
        f"{block.input_size} channels, {steps} steps"
    )
    return Benchmark(f"{name}, {precision}", about, "steps", "sequences", rows, peaks, differences)

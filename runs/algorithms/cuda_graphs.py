"""CUDA graphs: the kernels of a training step, captured once and replayed in one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Warm-up calls before a step is captured, in which libraries select kernels and allocate workspaces."""

Step = Callable[..., dict[str, Tensor]]
"""A training step: from tensors, or None, to scalars to log."""


class ReplayedStep:
    """A step that is replayed as a CUDA graph from its fourth call on, if ``graphs``, else simply called.

    The first calls are normal training steps. Inputs of another shape are captured anew.

    Args:
        step: reads nothing back to the host, and only changes tensors in place.
        graphs: whether to capture; requires a GPU.
    """

    def __init__(self, step: Step, graphs: bool):
        self.step, self.graphs = step, graphs
        self._shapes: list[torch.Size | None] = []
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """Do the step."""
        if not self.graphs:
            return self.step(*inputs)
        shapes = [None if x is None else x.shape for x in inputs]
        if shapes != self._shapes:
            self._shapes, self._calls, self._graph = shapes, 0, None
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._beside(*inputs)
        if self._graph is None:
            self._inputs = [None if x is None else x.clone() for x in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logs = self.step(*self._inputs)
        for buffer, x in zip(self._inputs, inputs, strict=True):
            if buffer is not None and x is not None:
                buffer.copy_(x)
        self._graph.replay()
        return {name: x.clone() for name, x in self._logs.items()}

    def _beside(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """Run the step on a side stream, which capturing requires beforehand."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            logs = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return logs

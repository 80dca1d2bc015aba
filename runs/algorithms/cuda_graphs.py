"""CUDA graphs: what a GPU does in a training step, recorded once and replayed in one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before a step is recorded: libraries choose their kernels in them, and allocate what they keep."""

Step = Callable[..., dict[str, Tensor]]
"""A training step: tensors, or None, in; scalars to log out."""


class ReplayedStep:
    """A step that is replayed from its fourth call on where ``graphs`` says so, else called.

    The first calls are steps of the training like all others. Inputs of another shape begin anew.

    Args:
        step: reads nothing back to the host, and changes nothing but tensors in place.
        graphs: whether to record; only on a GPU.
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
        """The step on a stream of its own, as recording needs it to have been before."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            logs = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return logs

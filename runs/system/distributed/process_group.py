"""Data-parallel training of one run by several processes, each on its shard of every batch.

All processes hold the same weights and draw the same random numbers, for the whole batch; each processes its own
rows. So a run gives the same result, up to rounding, with any number of processes, which may change at a resume.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from envs.fewshot.datasets.storage import DataError
from runs.system.errors import RunError

PATIENCE = timedelta(days=1)
"""Time-out of communication: the main process may be validating meanwhile. torchrun notices at once
when a process has died."""


@dataclass(frozen=True)
class ProcessGroup:
    """The process group of a run. With a single process, the usual case, its methods do nothing.

    Tensors are sharded along their first dimension into equal parts, in the order of the ranks. All
    processes must call the methods that communicate in the same order: all except `shard`, `scatter` and
    `require_divisible`.
    """

    rank: int = 0
    """Rank of this process."""
    size: int = 1
    """Number of processes."""

    @property
    def single(self) -> bool:
        """Whether there is only one process."""
        return self.size == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes, prints and tests."""
        return self.rank == 0

    def require_single_process(self, why: str) -> None:
        """Raise ValueError, with the reason, if there are several processes."""
        if not self.single:
            raise ValueError(f"{why}, so it needs a single process, got {self.size}; start it without torchrun")

    def require_divisible(self, name: str, count: int) -> None:
        """Raise ValueError if ``count`` rows cannot be sharded evenly; ``name`` is for the message."""
        if count % self.size:
            raise ValueError(f"{name} must be a multiple of the number of processes, got {count} and {self.size}")

    def _part(self, count: int) -> slice:
        self.require_divisible("rows", count)
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def shard(self, whole: Tensor) -> Tensor:
        """This process's shard: (B, ...) -> (B / size, ...).

        Raises:
            ValueError: if B is not a multiple of the number of processes.
        """
        return whole if self.single else whole[self._part(len(whole))]

    def scatter(self, part: Tensor) -> Tensor:
        """The inverse of `shard` without communication, with zeros for the other shards: (b, ...) -> (b size, ...)."""
        if self.single:
            return part
        whole = part.new_zeros(self.size * len(part), *part.shape[1:])
        whole[self._part(len(whole))] = part
        return whole

    def gather(self, part: Tensor) -> Tensor:
        """Concatenate the shards of all processes, (b, ...) -> (b size, ...), with gradients.

        Gradients are those of the sum of all processes' losses, like those of parameters after a sum over processes.
        """
        return part if self.single else _Gather.apply(part, self)

    def total(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the processes, without gradients."""
        if self.single:
            return x
        x = x.detach().clone(memory_format=torch.contiguous_format)
        with _peers():
            distributed.all_reduce(x)
        return x

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of all parameters over the processes."""
        if self.single:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean = self.total(torch.cat([g.flatten() for g in gradients])) / self.size  # one message
        for gradient, new in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(new.view_as(gradient))

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Averages over the processes of numbers with the same names, in the same order."""
        if self.single:
            return dict(numbers)
        found = self.total(torch.tensor(list(numbers.values()), dtype=torch.float64)) / self.size
        return dict(zip(numbers, found.tolist(), strict=True))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process has it set."""
        if self.single:
            return flags
        return tuple((self.total(torch.tensor(flags, dtype=torch.int32)) > 0).tolist())

    def require_same(self, what: str, value: int) -> None:
        """Check that all processes have the same value.

        Raises:
            RunError: in all of them, if not.
        """
        if self.single:
            return
        values: list[Any] = [None] * self.size
        with _peers():
            distributed.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise RunError(
                f"the processes differ in their {what}: {', '.join(map(str, values))}; "
                "use a results folder that all of them share"
            )

    @contextmanager
    def barrier(self) -> Iterator[None]:
        """Barrier at the end; a user error in one process ends all.

        Raises:
            RunError: the message of the first process that failed.
        """
        if self.single:
            yield
            return
        error: str | None = None
        try:
            yield
        except (RunError, DataError) as e:
            error = str(e)
        errors: list[Any] = [None] * self.size
        with _peers():
            distributed.all_gather_object(errors, error)
        for said in errors:
            if said is not None:
                raise RunError(said)


SINGLE_PROCESS = ProcessGroup()
"""One process."""


class _Gather(torch.autograd.Function):
    """`ProcessGroup.gather` with several processes."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(group.size)]
        with _peers():
            distributed.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.shard(ctx.group.total(gradients[0])), None


@contextmanager
def _peers() -> Iterator[None]:
    """Turn the loss of another process into a user error."""
    try:
        yield
    except RuntimeError as e:
        reason = str(e).strip().partition("\n")[0].partition(". ")[0]
        raise RunError(f"another process of this run has ended ({reason}); continue with --resume") from e


@contextmanager
def started_by_torchrun(device: torch.device) -> Iterator[ProcessGroup]:
    """The process group of torchrun, from its environment variables; a single process without torchrun.

    CPU processes communicate by gloo; with one GPU per process, GPU tensors by NCCL and host tensors by gloo.

    User errors are reported by the main process; the others exit silently.

    Raises:
        RunError: if the other processes of the environment cannot be reached.
    """
    announced = os.environ.get("WORLD_SIZE") or "1"
    if not announced.isdecimal() or announced == "0":
        raise RunError(f"WORLD_SIZE must be a number of processes, got {announced!r}; torchrun sets it, else unset it")
    size = int(announced)
    if size == 1:
        yield SINGLE_PROCESS
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size) and sys.platform == "linux":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # all on one machine: use the loopback interface
            os.environ.setdefault(name, "lo")
    if device.type == "cuda":
        if str(device.index) != os.environ.get("LOCAL_RANK"):
            raise RunError("each process needs its own GPU, so --device cannot name one; give --device cuda")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (ValueError, RuntimeError) as e:
        raise RunError(f"cannot join the other {size - 1} processes of this run ({e}); start them with torchrun") from e
    group = ProcessGroup(distributed.get_rank(), size)
    try:
        yield group
    except (RunError, DataError, KeyboardInterrupt):
        if group.is_main:
            raise
        sys.exit(0)  # so that torchrun lets the main process clean up, and reports its exit code
    finally:
        distributed.destroy_process_group()

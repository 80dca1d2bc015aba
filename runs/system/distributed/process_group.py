"""The processes that train one run together, each on its part of every batch: how they share out and add up.

All of them hold the same weights and draw the same randomness, that of the whole batch; each works on its own rows. So
a run is the same, but for rounding, however many processes train it, and can go on with another number of them.
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
"""How long processes wait for one another: the first measures on validation tasks meanwhile. torchrun notices at once
when one has died."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run as one of them sees them. One alone is the usual case: there all is left as it is.

    What is shared out is cut along its first dimension into parts of equal size, in the order of the ranks. All
    processes have to call the methods that communicate, in the same order: all but `shard`, `scatter` and
    `require_divisible`.
    """

    rank: int = 0
    """Which of the processes this is."""
    size: int = 1
    """How many there are."""

    @property
    def single(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, prints and measures for all."""
        return self.rank == 0

    def require_single_process(self, why: str) -> None:
        """Raise ValueError, with the reason, if there are several processes."""
        if not self.single:
            raise ValueError(f"{why}, so one process has to train it, got {self.size}; start it without torchrun")

    def require_divisible(self, name: str, count: int) -> None:
        """Raise ValueError if so many rows cannot be shared out evenly; ``name`` says what they are."""
        if count % self.size:
            raise ValueError(f"{name} must be a multiple of the number of processes, got {count} and {self.size}")

    def _part(self, count: int) -> slice:
        self.require_divisible("rows", count)
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def shard(self, whole: Tensor) -> Tensor:
        """This process's part: (B, ...) -> (B / size, ...).

        Raises:
            ValueError: if B is not a multiple of the number of processes.
        """
        return whole if self.single else whole[self._part(len(whole))]

    def scatter(self, part: Tensor) -> Tensor:
        """The inverse of `shard` without communication, zeros for the others' parts: (b, ...) -> (b size, ...)."""
        if self.single:
            return part
        whole = part.new_zeros(self.size * len(part), *part.shape[1:])
        whole[self._part(len(whole))] = part
        return whole

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all processes, (b, ...) -> (b size, ...); gradients flow back to each.

        They are gradients of the sum of all processes' losses, as are those of parameters after a sum over processes.
        """
        return part if self.single else _Gather.apply(part, self)

    def total(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the processes; gradients do not flow."""
        if self.single:
            return x
        x = x.detach().clone(memory_format=torch.contiguous_format)
        with _peers():
            distributed.all_reduce(x)
        return x

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all parameters the mean of their gradients in the processes."""
        if self.single:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean = self.total(torch.cat([g.flatten() for g in gradients])) / self.size  # one message
        for gradient, new in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(new.view_as(gradient))

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The means over the processes of numbers that all have by the same names, in the same order."""
        if self.single:
            return dict(numbers)
        found = self.total(torch.tensor(list(numbers.values()), dtype=torch.float64)) / self.size
        return dict(zip(numbers, found.tolist(), strict=True))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each of the flags: whether any process has it set."""
        if self.single:
            return flags
        return tuple((self.total(torch.tensor(flags, dtype=torch.int32)) > 0).tolist())

    def require_same(self, what: str, value: int) -> None:
        """Make sure that all processes have the same.

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
                f"the processes have not the same {what}: {', '.join(map(str, values))}; "
                "give them a folder of results that all of them see"
            )

    @contextmanager
    def barrier(self) -> Iterator[None]:
        """Wait at the end until all processes have arrived; a user error in one of them ends all.

        Raises:
            RunError: what the first of the processes that failed has to say.
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
    """`ProcessGroup.gather` of several processes."""

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
    """Turn the loss of another process into a message."""
    try:
        yield
    except RuntimeError as e:
        reason = str(e).strip().partition("\n")[0].partition(". ")[0]
        raise RunError(f"another process of this run has ended ({reason}); continue with --resume") from e


@contextmanager
def started_by_torchrun(device: torch.device) -> Iterator[ProcessGroup]:
    """The group that torchrun has started this process in, by its environment variables; one alone without torchrun.

    Processes on the CPU speak gloo. On GPUs, one for each process, tensors go by NCCL, and what is on the host by gloo.

    User errors are reported by the main process; the others exit silently.

    Raises:
        RunError: if the environment announces other processes, which cannot be reached.
    """
    announced = os.environ.get("WORLD_SIZE") or "1"
    if not announced.isdecimal() or announced == "0":
        raise RunError(f"WORLD_SIZE must be a number of processes, got {announced!r}; torchrun sets it, else unset it")
    size = int(announced)
    if size == 1:
        yield SINGLE_PROCESS
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size) and sys.platform == "linux":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # all on one machine: stay on the loopback interface
            os.environ.setdefault(name, "lo")
    if device.type == "cuda":
        if str(device.index) != os.environ.get("LOCAL_RANK"):
            raise RunError("each process needs a GPU of its own, so --device cannot name one; give --device cuda")
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
        sys.exit(0)  # so that torchrun leaves the first one the time to tidy up, and reports its exit code
    finally:
        distributed.destroy_process_group()

"""The machine of a run: device, threads, data folder and process group."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from runs.system.distributed.process_group import SINGLE_PROCESS, ProcessGroup, started_by_torchrun
from runs.system.errors import RunError


@dataclass(frozen=True)
class Machine:
    """Device, data folder and process group of a run."""

    device: torch.device
    data_root: Path | None = None
    group: ProcessGroup = SINGLE_PROCESS

    @classmethod
    def named(cls, device: str, data_root: Path | None = None, threads: int | None = None) -> Machine:
        """The machine given by command-line options; ``auto`` is a GPU if there is one.

        Raises:
            RunError: if there is no such device.
        """
        if threads is not None:
            if threads < 1:
                raise RunError(f"threads must be at least 1, got {threads}")
            if threads > (cores := len(os.sched_getaffinity(0))):
                print(f"warning: {threads} threads on {cores} cores slow each other down", file=sys.stderr)
            torch.set_num_threads(threads)
        keep_freed_memory()
        return cls(_device(device), data_root)

    @contextmanager
    def in_process_group(self) -> Iterator[Machine]:
        """The machine with the process group of torchrun, if started by it; see `started_by_torchrun`."""
        with started_by_torchrun(self.device) as group:
            yield replace(self, group=group)

    def generator(self, seed: int) -> torch.Generator:
        """A random generator on the device."""
        return torch.Generator(self.device).manual_seed(seed)


def keep_freed_memory() -> None:
    """Make the allocator reuse freed memory, instead of returning it to the system.

    By default glibc returns every large tensor at once, and the system zeroes pages for the next one, which took up to
    half of the time of an update on images. Other C libraries are not changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of several independent random streams, by name."""
    return int(hashlib.sha256(f"{stream} {seed}".encode()).hexdigest()[:15], 16)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (local := os.environ.get("LOCAL_RANK")) is not None:  # set by torchrun for each process
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise RunError(f"unknown device {name!r}; choose auto, cpu or cuda") from e
    if device.type not in ("cpu", "cuda"):
        raise RunError(f"device {name!r} is not supported; choose auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RunError(f"there is no {name} on this machine; choose --device cpu")
    return device


INSTRUCTION_SETS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimd": "NEON",
}
"""CPU flags of Linux, the widest instruction set first; each includes those after it."""
_ONEDNN_LEVELS = {"AMX": "AMX", "AVX512_CORE_BF16": "AVX-512 with bfloat16", "AVX512": "AVX-512", "AVX2": "AVX2"}


def device_name(device: torch.device) -> str:
    """Description of the machine: the GPU's name, or the CPU's and its widest instruction set.

    They determine the order and precision of sums, so results differ between them within noise.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, widest = _processor()
    return f"{name}, {widest}" if widest else name


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether the CPU has no bfloat16 instructions, so that bfloat16 is slower than float32."""
    widest = _processor()[1]
    return device.type == "cpu" and widest is not None and widest not in ("AMX", "AVX-512 with bfloat16")


def use_bfloat16(setting: bool, device: torch.device) -> bool:
    """Whether to compute in bfloat16: if the setting says so and the device has instructions for it.

    Without them, few-shot training is about 15 times as slow in bfloat16 as in float32.
    """
    return setting and not emulates_bfloat16(device)


def _processor() -> tuple[str, str | None]:
    """The CPU's name, and the widest instruction set that may be used, if known."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    info = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    name = info.get("model name") or platform.processor() or platform.machine()
    flags = info.get("flags", info.get("Features", "")).split()
    widest = [title for flag, title in INSTRUCTION_SETS.items() if flag in flags]
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    limit = next((title for level, title in _ONEDNN_LEVELS.items() if level in allowed), None)
    if limit in widest:
        widest = widest[widest.index(limit) :]
    return name, widest[0] if widest else None

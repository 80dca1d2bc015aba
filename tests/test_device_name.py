"""What a record says of the machine that it was made on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runs.system.machine import device_name, emulates_bfloat16

CPUINFO = (
    "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nmodel name\t: A Processor\n"
)
FULL = "avx2 avx512f avx512_bf16 amx_bf16"


@pytest.mark.parametrize(
    "flags, limit, expected",
    [
        (FULL, "", "A Processor, AMX"),
        (FULL, "AVX512_CORE_BF16", "A Processor, AVX-512 with bfloat16"),
        (FULL, "AVX512_CORE", "A Processor, AVX-512"),
        (FULL, "AVX2", "A Processor, AVX2"),
        ("avx2", "", "A Processor, AVX2"),
        ("avx2", "AVX512_CORE_AMX", "A Processor, AVX2"),
        ("sse2", "", "A Processor"),
    ],
)
def test_the_processor_and_its_widest_instructions(monkeypatch, flags, limit, expected):
    monkeypatch.setattr(Path, "read_text", lambda self: CPUINFO.format(flags=flags))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert device_name(torch.device("cpu")) == expected
    assert emulates_bfloat16(torch.device("cpu")) == (expected.endswith(("AVX-512", "AVX2")))

"""Every family learns and is tested whatever kernels the processor offers: what it lacks is passed over by the library.

The instruction sets are chosen by environment variables that torch and oneDNN read as they start: a process each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ONEDNN = ["AVX2", "AVX512_CORE", "AVX512_CORE_BF16", None]  # None: the widest that there is
ATEN = ["default", "avx2", "avx512"]

RUN_EVERY_FAMILY = """
from dataclasses import replace
import runs.tasks
from runs.agents import AGENTS, FEWSHOT_AGENTS, FEWSHOT_VARIANTS
from runs.system.errors import RunError
from test_uninitialized_memory import fresh_memory_is_nan, learn_and_test
from tiny_runs import BANDIT, FEWSHOT, TRPO, few_classes

runs.tasks.load_classes = few_classes
configs = [replace(c, model=m) for c in (BANDIT, TRPO) for m in AGENTS.values()]
for model in {**FEWSHOT_AGENTS, **FEWSHOT_VARIANTS}.values():
    for bfloat16 in (False, True):
        configs.append(replace(FEWSHOT, model=model, training=replace(FEWSHOT.training, bfloat16=bfloat16)))
with fresh_memory_is_nan():
    for config in configs:
        try:
            learn_and_test(config)
        except RunError as e:
            assert "make maml" in str(e)
print(len(configs), "runs")
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("aten", ATEN)
@pytest.mark.parametrize("onednn", ONEDNN)
def test_every_family_on_every_instruction_set(onednn, aten):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    environment = dict(os.environ, ATEN_CPU_CAPABILITY=aten, OMP_NUM_THREADS="1", PYTHONPATH=path)
    environment.pop("ONEDNN_MAX_CPU_ISA", None)
    if onednn:
        environment["ONEDNN_MAX_CPU_ISA"] = onednn
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN_EVERY_FAMILY], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("runs\n")

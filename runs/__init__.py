"""Experiments: the catalogue, training, records, tables and the command line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runs.loading import Actor, Classifier

BEGAN = time.monotonic()
"""When the program began: what time budgets count from."""

# OpenMP threads that spin while they wait make every process on a shared machine many times slower; ones that sleep
# at once are slow where operations are short. So they spin for some microseconds. Read when torch is loaded, which is
# after this package is; whatever the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def load(run: str | Path) -> Actor | Classifier:
    """The trained agent of a run: a folder, or EXPERIMENT/AGENT of the published ones; see `runs.loading.load`."""
    from runs.loading import load as load_agent  # brings torch along

    return load_agent(run)

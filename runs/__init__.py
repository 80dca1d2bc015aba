"""Experiments: the catalogue, training, records, tables and the command line."""

import os
import time

BEGAN = time.monotonic()
"""When the program began: what time budgets count from."""

# OpenMP threads that spin while they wait make every process on a shared machine many times slower; ones that sleep
# at once are slow where operations are short. So they spin for some microseconds. Read when torch is loaded, which is
# after this package is; whatever the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

"""Experiments: the catalogue, training, records, tables and the command line."""

import os

# OpenMP threads that wait by spinning make every process on a shared machine many times slower. Read when torch is
# loaded, which is after this package is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

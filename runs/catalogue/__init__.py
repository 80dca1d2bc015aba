"""The catalogue: every experiment of the suite, and functions to add to it."""

from runs.catalogue.experiment import BUDGETS, Budget, Experiment, RunConfig
from runs.catalogue.experiments import CATALOGUE, PRETRAINED, meta_rl, supervised
from runs.catalogue.registry import as_catalogued, find, register, register_agent

__all__ = [
    "BUDGETS",
    "CATALOGUE",
    "PRETRAINED",
    "Budget",
    "Experiment",
    "RunConfig",
    "as_catalogued",
    "find",
    "meta_rl",
    "register",
    "register_agent",
    "supervised",
]

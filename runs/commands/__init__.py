"""The verbs of the command line: each a frozen dataclass of its options, parsed by tyro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runs.commands.attention import Attention
from runs.commands.bench import Bench
from runs.commands.compare import Compare
from runs.commands.dashboard import Dashboard
from runs.commands.data import Data
from runs.commands.listing import List
from runs.commands.status import ShowStatus
from runs.commands.sweep import Sweep
from runs.commands.tables import PrintTable
from runs.commands.track import Track
from runs.commands.training import Evaluate, Train
from runs.demo import Demo
from runs.errors import RunError
from runs.options import parse, suggestion

VERBS: dict[str, Any] = {
    "list": List,
    "train": Train,
    "sweep": Sweep,
    "status": ShowStatus,
    "evaluate": Evaluate,
    "attention": Attention,
    "table": PrintTable,
    "compare": Compare,
    "dashboard": Dashboard,
    "track": Track,
    "data": Data,
    "bench": Bench,
    "demo": Demo,
}


def run_verb(verb: str, args: Sequence[str]) -> None:
    """Parse the options of a verb and do what it says.

    Raises:
        RunError: for a verb or an option that does not exist; the message suggests the nearest.
    """
    if verb not in VERBS:
        raise RunError(f"unknown verb {verb!r}; {suggestion(verb, list(VERBS), '', 'snail --help')}")
    kind = VERBS[verb]
    known = {"default": kind.defaults(args)} if hasattr(kind, "defaults") else {}
    parse(kind, args, verb, **known).run()

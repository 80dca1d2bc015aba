"""The verbs of the command line: each a frozen dataclass of its options, parsed by tyro."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import tyro

from runs.commands.attention import Attention
from runs.commands.bench import Bench
from runs.commands.dashboard import Dashboard
from runs.commands.data import Data
from runs.commands.listing import List
from runs.commands.tables import PrintTable
from runs.commands.training import Evaluate, Train
from runs.demo import Demo
from runs.errors import RunError

VERBS: dict[str, Any] = {
    "list": List,
    "train": Train,
    "evaluate": Evaluate,
    "attention": Attention,
    "table": PrintTable,
    "dashboard": Dashboard,
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
        raise RunError(f"unknown verb {verb!r}; {_suggestion(verb, list(VERBS), '', 'snail --help')}")
    kind = VERBS[verb]
    known = {"default": kind.defaults(args)} if hasattr(kind, "defaults") else {}
    parsed, unknown = tyro.cli(
        kind, args=args, prog=f"snail {verb}", return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,), **known
    )
    if unknown:
        options = _option_names(parsed)
        wanted = unknown[0].split("=")[0].lstrip("-").replace("_", "-")
        advice = _suggestion(wanted, options, "--", f"snail {verb} --help")
        raise RunError(f"unknown option {unknown[0]!r}; {advice}")
    parsed.run()


def _suggestion(word: str, known: list[str], prefix: str, help_command: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"`{help_command}` shows all"


def _option_names(options: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(options):
        name = prefix + field.name.replace("_", "-")
        value = getattr(options, field.name)
        names += _option_names(value, name + ".") if dataclasses.is_dataclass(value) else [name]
    return names

"""Options of the command line from frozen dataclasses, by tyro, with one line for what is mistyped."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tyro

from runs.errors import RunError

T = TypeVar("T")


def parse(kind: type[T], args: Sequence[str], verb: str, **known: Any) -> T:
    """The options ``args`` of a verb as the dataclass ``kind``; ``known`` may give a ``default`` to start from.

    Raises:
        RunError: for an option that does not exist; the message suggests the nearest.
    """
    parsed, unknown = tyro.cli(
        kind, args=args, prog=f"snail {verb}", return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,), **known
    )
    if unknown:
        wanted = unknown[0].split("=")[0].lstrip("-").replace("_", "-")
        advice = suggestion(wanted, option_names(parsed), "--", f"snail {verb} --help")
        raise RunError(f"unknown option {unknown[0]!r}; {advice}")
    return parsed


def changed(config: T, settings: Mapping[str, Any], verb: str) -> T:
    """A configuration with some options changed, each checked as on the command line of ``verb``.

    ``settings`` maps names of options, such as ``training.learning-rate``, to values: numbers, strings, booleans, or
    lists of them for what takes several.

    Raises:
        RunError: for an option that does not exist or a value of another type.
    """
    names = [name for name in option_names(config) if "." in name]  # others tell which run it is
    for name, value in settings.items():
        name = name.replace("_", "-")
        if name not in names:
            raise RunError(f"unknown option {name!r}; {suggestion(name, names, '', f'snail {verb} --help')}")
        words = [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                config = tyro.cli(
                    type(config),
                    args=[f"--{name}", *words],
                    default=config,
                    config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
                )
        except SystemExit as e:
            raise RunError(f"{name} cannot be {value!r}; `snail {verb} --help` tells what it takes") from e
    return config


def suggestion(word: str, known: Sequence[str], prefix: str, help_command: str) -> str:
    """What to do about a word that is not known."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"`{help_command}` shows all"


def option_names(options: Any, prefix: str = "") -> list[str]:
    """The options of a dataclass as they are typed, those of nested ones with dots."""
    names = []
    for field in dataclasses.fields(options):
        name = prefix + field.name.replace("_", "-")
        value = getattr(options, field.name)
        names += option_names(value, name + ".") if dataclasses.is_dataclass(value) else [name]
    return names

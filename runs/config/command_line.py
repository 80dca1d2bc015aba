"""Command line options from frozen dataclasses, by tyro, with one-line messages for mistakes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tyro

from runs.config.serialization import old_names
from runs.config.suggestions import suggestion
from runs.system.errors import RunError

T = TypeVar("T")


def parse(kind: type[T], args: Sequence[str], command: str, **known: Any) -> T:
    """Parse the options ``args`` of a command into the dataclass ``kind``, starting from a ``default`` if given.

    Raises:
        RunError: for an option that does not exist; the message suggests the nearest.
    """
    args = _present_names(args, known.get("default"))
    _require_one_seed(args, command)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, unknown = tyro.cli(
                kind,
                args=args,
                prog=f"snail {command}",
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
                **known,
            )
    except SystemExit as e:
        if not e.code:  # --help was requested
            raise
        raise RunError(f"{_first_words(said.getvalue())}; `snail {command} --help` shows all options") from e
    if unknown:
        wanted = unknown[0].split("=")[0].lstrip("-").replace("_", "-")
        advice = suggestion(wanted, option_names(parsed), "--", f"snail {command} --help")
        what = "unknown option" if unknown[0].startswith("-") else "unexpected argument"
        raise RunError(f"{what} {unknown[0]!r}; {advice}")
    return parsed


def _require_one_seed(args: Sequence[str], command: str) -> None:
    """Raise RunError for several seeds where there can be one."""
    if "--seed" in args:
        seeds = list(itertools.takewhile(str.isdigit, args[args.index("--seed") + 1 :]))
        if len(seeds) > 1:
            raise RunError(f"{command} takes one seed; for several: snail sweep EXPERIMENT --seeds {' '.join(seeds)}")


def _first_words(box: str) -> str:
    """The first part of tyro's message, in one line."""
    plain = re.sub(r"(?m)\x1b\[[0-9;]*m|^[│|]|[│|]$", "", box)
    title = "" if "╭" in plain else r".*\n"  # in a plain terminal the title is on its own line
    found = re.search(rf"{title}\s*[╭─-].*\n((?:.*\n)*?)\s*[╰─-]", plain)
    words = " ".join(found[1].split("\n\n")[0].split()).rstrip(".") if found else ""
    for form, better in (
        (r"invalid literal for int\(\) with base 10:", r"\1 must be an integer, got"),
        (r"could not convert string to float:", r"\1 must be a number, got"),
        (r"no type matching (\S+) could be instantiated from \[(.*?)\].*", r"\1 must be \2, got \3"),
    ):
        words = re.sub(rf"^Error parsing (\S+): {form}", better, words)
    return words[:1].lower() + words[1:] if words else "an option has an invalid value"


def changed(config: T, settings: Mapping[str, Any], command: str) -> T:
    """A configuration with some options changed, each checked as on the command line of ``command``.

    ``settings`` maps names of options, such as ``training.learning-rate``, to values: numbers, strings, booleans, or
    lists of them for options that take several.

    Raises:
        RunError: for an option that does not exist or a value of another type.
    """
    names = [name for name in option_names(config) if "." in name]  # the others name the run
    for name, value in settings.items():
        name = _former_options(config).get(name := name.replace("_", "-"), name)
        if name not in names:
            raise RunError(f"unknown option {name!r}; {suggestion(name, names, '', f'snail {command} --help')}")
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
            raise RunError(f"{name} cannot be {value!r}; see `snail {command} --help`") from e
    return config


def _present_names(args: Sequence[str], default: Any) -> list[str]:
    """Replace former names of options, which the help does not show, by the current ones."""
    former = {} if default is None else _former_options(default)

    def present(word: str) -> str:
        name, *value = word.split("=", 1)
        key = name[2:].replace("_", "-") if name.startswith("--") else ""
        return "=".join([f"--{former[key]}", *value]) if key in former else word

    return [present(word) for word in args]


def _former_options(options: Any, prefix: str = "") -> dict[str, str]:
    """Former names of options as typed, mapped to the current ones."""
    found = {prefix + old.replace("_", "-"): prefix + new.replace("_", "-") for old, new in old_names(options).items()}
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(value := getattr(options, field.name)):
            found |= _former_options(value, prefix + field.name.replace("_", "-") + ".")
    return found


def option_names(options: Any, prefix: str = "") -> list[str]:
    """The options of a dataclass as typed, with dots for nested ones."""
    names = []
    for field in dataclasses.fields(options):
        name = prefix + field.name.replace("_", "-")
        value = getattr(options, field.name)
        names += option_names(value, name + ".") if dataclasses.is_dataclass(value) else [name]
    return names

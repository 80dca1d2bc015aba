"""Configurations as frozen dataclasses, written to JSON and read back equal.

A field of an abstract type can hold any dataclass that derives from it, without changes here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import types
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from runs.system.errors import RunError

T = TypeVar("T")


def options_of(*bases: type) -> Any:
    """Mark a field for the command line: its options are those of its value, of a class derived from these.

    For ``field: Annotated[Base, options_of(Base)]``. The classes are looked up when the options are read, so that
    those of extensions are among them.
    """

    def choices() -> Any:
        found = {k.__name__: k for base in bases for k in _choices(base)}  # the latest definition of each class
        return Union[tuple(found.values())]  # noqa: UP007  # built at run time

    return tyro.conf.arg(constructor_factory=choices)


def renamed(old: str, default: Any) -> Any:
    """A renamed field: configurations and command lines that use the ``old`` name still work."""
    return dataclasses.field(default=default, metadata={"was": old})


def old_names(kind: Any) -> dict[str, str]:
    """Former names of a dataclass's fields, mapped to the current ones."""
    return {f.metadata["was"]: f.name for f in dataclasses.fields(kind) if "was" in f.metadata}


def to_json(config: Any) -> str:
    """A dataclass as indented JSON. Nested dataclasses carry their class name under ``type``."""
    return json.dumps(_plain(config), indent=2)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as a dictionary: ``json.loads(to_json(config))``."""
    return json.loads(to_json(config))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under names with dots, as on the command line: ``training.learning_rate``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


LARGEST = 10**12
"""The largest size or count of a setting; seeds may be up to 2^63."""


def check_values(config: Any) -> None:
    """Check the ranges of a configuration's values.

    Raises:
        ValueError: for a seed that is negative or beyond 63 bits, another integer beyond `LARGEST`, a number that is
            not finite, a list without entries, or a size of the task or the model below 0.
    """
    for name, value in flat(to_dict(config)).items():
        if isinstance(value, list) and not value:
            raise ValueError(f"{name} needs at least one value, got none")
        for x in value if isinstance(value, list) else [value]:
            if isinstance(x, bool) or not isinstance(x, (int, float)):
                continue
            if name.endswith("seed"):
                if not 0 <= x < 2**63:
                    raise ValueError(f"{name} must be between 0 and {2**63 - 1}, got {x}")
            elif not math.isfinite(x):
                raise ValueError(f"{name} must be finite, got {x}")
            elif isinstance(x, int) and abs(x) > LARGEST:
                raise ValueError(f"{name} must be at most {LARGEST:,}, got {x}")
            elif x < 0 and name.startswith(("task.", "model.")):
                raise ValueError(f"{name} must not be negative, got {x}")


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """The inverse of ``to_dict``: a dataclass ``cls`` from its dictionary.

    A missing key means its default: the setting is newer than the dictionary. So a new setting's default must be
    the behaviour from before it existed.

    Raises:
        RunError: for an unknown key, a missing one without default or a value of another type; the message names the
            key.
    """
    return _read(cls, data, where)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if _is_abstract(kind):
        if isinstance(data, dict):
            return _read_named((kind,), data, where)
        raise RunError(f"{where} must be an object, got {data!r}")
    if origin in (Union, types.UnionType):
        return _read_union(args, data, where)
    if origin is Literal:
        if data in args:
            return data
    elif origin is tuple:
        if isinstance(data, list):
            kinds = [args[0]] * len(data) if args[1:] == (...,) else args
            if len(kinds) == len(data):
                return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, data, strict=True)))
    elif dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    elif kind is float:
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return float(data)
    elif kind is type(None):
        if data is None:
            return None
    elif type(data) is kind:
        return data
    what = "a list" if origin is tuple else getattr(kind, "__name__", kind)
    raise RunError(f"{where} must be {what}, got {data!r}")


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if isinstance(data, dict):
        return _read_named(kinds, data, where)
    for kind in kinds:
        try:
            return _read(kind, data, where)
        except RunError:
            continue
    raise RunError(f"{where} has no valid value: {data!r}")


def _read_named(kinds: tuple[Any, ...], data: dict[str, Any], where: str) -> Any:
    """The dataclass that ``data`` names, one of the kinds."""
    found = {(k.__module__, k.__qualname__): k for kind in kinds for k in _choices(kind)}
    choices = found.values()  # the latest definition of a class, which a notebook may repeat
    named = [k for k in choices if data.get("type") in _names_of(k)]
    if len(named) > 1:
        modules = " and ".join(k.__module__ for k in named)
        raise RunError(f"{where}.type {data['type']!r} is the name of classes in {modules}; rename one")
    if not named:
        names = ", ".join(k.__name__ for k in choices)
        hint = "; if it comes from an extension: snail --extend FILE ..." if any(map(_is_abstract, kinds)) else ""
        raise RunError(f"{where}.type must be one of {names}, got {data.get('type')!r}{hint}")
    return _read_dataclass(named[0], data, where)


def _names_of(kind: type) -> tuple[str, ...]:
    """The name of a dataclass, and its ``FORMER_NAME`` if it has one."""
    return kind.__name__, *([vars(kind)["FORMER_NAME"]] if "FORMER_NAME" in vars(kind) else [])


def _is_abstract(kind: Any) -> bool:
    """Whether a kind is an abstract base of dataclasses."""
    return isinstance(kind, ABCMeta) and not dataclasses.is_dataclass(kind)


def _choices(kind: Any) -> Iterator[Any]:
    """The possible classes of a value of this kind: itself, or those that derive from an abstract base."""
    if not _is_abstract(kind):
        yield from [kind] if dataclasses.is_dataclass(kind) else []
        return
    todo: list[type] = [kind]
    while todo:
        found = todo.pop(0)
        todo += found.__subclasses__()
        if dataclasses.is_dataclass(found) and not inspect.isabstract(found) and not found.__name__.startswith("_"):
            yield found


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, cached: resolving them dominates the time of reading a record."""
    types = get_type_hints(kind)
    return {f.name: types[f.name] for f in dataclasses.fields(kind)}


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise RunError(f"{where} must be an object, got {data!r}")
    if data.get("type", kind.__name__) not in _names_of(kind):
        raise RunError(f"{where}.type must be {kind.__name__}, got {data['type']!r}")
    names = old_names(kind)
    if twice := [old for old, new in names.items() if old in data and new in data]:
        raise RunError(f"{where} has both {names[twice[0]]} and {twice[0]}, its former name")
    data = {names.get(k, k): v for k, v in data.items() if k != "type"}
    hints = _field_types(kind)
    required = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    unknown, missing = data.keys() - hints.keys(), required - data.keys()
    if unknown:
        raise RunError(f"{where} has an unknown key {min(unknown)!r}; known are {', '.join(hints)}")
    if missing:
        raise RunError(f"{where} has no key {min(missing)!r}")
    return kind(**{name: _read(hints[name], data[name], f"{where}.{name}") for name in data})

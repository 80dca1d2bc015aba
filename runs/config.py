"""Configurations as frozen dataclasses, written to JSON and read back equal."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from runs.errors import RunError

T = TypeVar("T")


def to_json(config: Any) -> str:
    """A dataclass as indented JSON. Nested dataclasses carry their class name under ``type``."""
    return json.dumps(_plain(config), indent=2)


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as what ``json.loads(to_json(config))`` gives."""
    return json.loads(to_json(config))


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """The dataclass ``cls`` from the dictionary that ``to_dict`` made of it.

    A missing key means its default: a setting that is younger than the dictionary. So a new setting's default must be
    what was done before there was a choice.

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
    raise RunError(f"{where} must be {getattr(kind, '__name__', kind)}, got {data!r}")


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if isinstance(data, dict):
        named = [k for k in kinds if getattr(k, "__name__", None) == data.get("type")]
        if not named:
            names = ", ".join(k.__name__ for k in kinds)
            raise RunError(f"{where}.type must be one of {names}, got {data.get('type')!r}")
        return _read(named[0], data, where)
    for kind in kinds:
        try:
            return _read(kind, data, where)
        except RunError:
            continue
    raise RunError(f"{where} has no valid value: {data!r}")


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise RunError(f"{where} must be an object, got {data!r}")
    if data.get("type", kind.__name__) != kind.__name__:
        raise RunError(f"{where}.type must be {kind.__name__}, got {data['type']!r}")
    data = {k: v for k, v in data.items() if k != "type"}
    types = get_type_hints(kind)
    hints = {f.name: types[f.name] for f in dataclasses.fields(kind)}
    required = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    unknown, missing = data.keys() - hints.keys(), required - data.keys()
    if unknown:
        raise RunError(f"{where} has an unknown key {min(unknown)!r}; known are {', '.join(hints)}")
    if missing:
        raise RunError(f"{where} lacks the key {min(missing)!r}")
    return kind(**{name: _read(hints[name], data[name], f"{where}.{name}") for name in data})

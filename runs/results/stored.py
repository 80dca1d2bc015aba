"""Reads back files of runs, and checks that they are complete, unchanged, and of valid types and ranges.

Files carry a digest: JSON as a key, zip archives as their comment. Without torch, so that mirrors start quickly.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runs.results.metrics import UPDATE, current_names
from runs.system.errors import RunError

LARGEST_JSON = 2**26
"""Maximum bytes, far above what this program writes."""
DEEPEST_JSON = 50
"""Maximum depth of nesting; this program writes 7 levels."""
_MARK = b"sha256:"
_SEAL = len(_MARK) + 64
_END_OF_ZIP = b"PK\x05\x06"

RESUME = "remove only that file, and continue with --resume from what is left"

RESTORE = "remove it, or restore it"


class Damaged(RunError):
    """A file is not as it was written."""

    def __init__(self, path: Path, why: str, advice: str = RESUME):
        super().__init__(f"{path} is damaged: {why}; {advice}")
        self.why = why


def with_digest(data: dict[str, Any]) -> dict[str, Any]:
    """A dictionary for JSON, with the digest of its contents under ``digest``."""
    data = {name: value for name, value in data.items() if name != "digest"}
    return {**data, "digest": _digest(data)}


def read_json(path: Path, edited: bool = False) -> dict[str, Any]:
    """A dictionary that was written as JSON, without its digest, which the oldest files do not have.

    ``edited``: it may have been changed by hand.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it cannot be read, is not a dictionary, or its digest differs.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("too large")
        data = json.loads(path.read_text(encoding="utf-8"))
        _check_depth(data, DEEPEST_JSON)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise Damaged(path, e.strerror or str(e)) from e
    except RecursionError as e:
        raise Damaged(path, "nested too deep") from e
    except ValueError as e:
        raise Damaged(path, f"no JSON: {e}") from e
    if not isinstance(data, dict):
        raise Damaged(path, "no JSON object")
    digest = data.pop("digest", None)
    if digest is not None and not edited and digest != _digest(data):
        raise Damaged(path, "its digest does not match: it was changed after it was written")
    return data


def _check_depth(data: Any, levels: int) -> None:
    if isinstance(data, (dict, list)):
        if not levels:
            raise RecursionError
        for part in data.values() if isinstance(data, dict) else data:
            _check_depth(part, levels - 1)


def _digest(data: dict[str, Any]) -> str:
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def sealed(archive: bytes) -> bytes:
    """A zip archive with the digest of its contents as comment."""
    body = archive[:-2] + _SEAL.to_bytes(2, "little")
    return body + _MARK + hashlib.sha256(body).hexdigest().encode()


def unsealed(path: Path, advice: str = RESUME) -> bytes:
    """The bytes of a sealed zip archive; the oldest files have no seal.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it cannot be read, or its digest does not match.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as e:
        raise Damaged(path, e.strerror or str(e), advice) from e
    if data[-22:-18] == _END_OF_ZIP and data[-2:] == b"\0\0":
        return data  # never sealed
    body, seal = data[:-_SEAL], data[-_SEAL:]
    if seal != _MARK + hashlib.sha256(body).hexdigest().encode():
        raise Damaged(path, "its digest does not match", advice)
    return data


def is_count(value: Any) -> bool:
    """Whether a value is an integer from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """Whether a value is a number in the range of floats; infinities and NaN are."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def logged_step(line: bytes) -> dict[str, Any]:
    """One line of metrics: numbers by name, including ``update``; old names are replaced by the current ones.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        found = json.loads(line)
    except RecursionError as e:
        raise ValueError("nested too deep") from e
    if not isinstance(found, dict) or not is_count((found := current_names(found)).get(UPDATE)):
        raise ValueError("no logged update")
    for name, value in found.items():
        if not is_number(value):
            raise ValueError(f"{name[:50]} is not a number")
    return found


def _is_amount(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()


def _is_time(value: Any) -> bool:
    try:
        return bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


_Checks = Mapping[str, tuple[Callable[[Any], bool], str]]
_TEXT, _COUNT, _AMOUNT = (_is_text, "a text"), (is_count, "a count"), (_is_amount, "a finite number from 0 on")
_RECORD: _Checks = {
    "results": (lambda x: isinstance(x, list) and 0 < len(x) <= 1000, "a list of measured numbers"),
    "budget": _TEXT,
    "as_catalogued": (lambda x: isinstance(x, bool), "true or false"),
    "steps": _COUNT,
    "train_seconds": _AMOUNT,
    "parameters": _COUNT,
    "device": _TEXT,
    "finished": (_is_time, "a time"),
    "config": (lambda x: isinstance(x, dict), "an object"),
}
_RESULT: _Checks = {
    "experiment": _TEXT,
    "agent": _TEXT,
    "seed": _COUNT,
    "metric": _TEXT,
    "mean": (lambda x: is_number(x) and math.isfinite(x), "a finite number"),
    "ci95": _AMOUNT,
    "n": (lambda x: is_count(x) and x > 0, "a positive count"),
    "task_set": _TEXT,
}
_OPTIONAL: _Checks = {"shots": (lambda x: x is None or is_count(x), "a count"), "env_steps": _COUNT, "episodes": _COUNT}


def read_record(path: Path) -> dict[str, Any]:
    """A record, with all values checked for type and range.

    Raises:
        FileNotFoundError: if there is none.
        Damaged: if it is not a valid record; the message names the first wrong value.
    """
    record = read_json(path)
    _check(path, record, _RECORD, "")
    for i, result in enumerate(record["results"]):
        if not isinstance(result, dict):
            raise Damaged(path, f"results[{i}] must be an object")
        _check(path, result, _RESULT, f"results[{i}].")
    return record


def _check(path: Path, data: dict[str, Any], checks: _Checks, where: str) -> None:
    for name, (fits, what) in {**checks, **{k: v for k, v in _OPTIONAL.items() if k in data}}.items():
        if name not in data:
            raise Damaged(path, f"{where}{name} is missing")
        if not fits(data[name]):
            raise Damaged(path, f"{where}{name} must be {what}, got {reprlib.repr(data[name])}")

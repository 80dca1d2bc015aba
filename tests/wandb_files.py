"""Reads what wandb keeps offline, independently of the suite."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(path: Path) -> Iterator[Any]:
    """What wandb has written into a ``.wandb`` file, as its own messages; up to where a kill has cut it short.

    The file is a log as LevelDB's: blocks of 32 KiB of chunks, each with checksum, length and kind before it. Kinds
    are 1 for a whole message, and 2, 3 and 4 for its first, middle and last part.
    """
    from google.protobuf.message import DecodeError

    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, message = path.read_bytes(), _FILE_HEADER, b""
    while place + _CHUNK_HEADER <= len(data):
        if (left := _BLOCK - place % _BLOCK) < _CHUNK_HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += _CHUNK_HEADER + length
        if kind not in (1, 2, 3, 4) or place > len(data):
            return
        message += data[place - length : place]
        if kind in (1, 4):
            try:
                yield messages.Record.FromString(message)
            except DecodeError:
                return
            message = b""


_FILE_HEADER, _CHUNK_HEADER, _BLOCK = 7, 7, 1 << 15

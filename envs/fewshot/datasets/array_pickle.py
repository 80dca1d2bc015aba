"""Reading an array out of a pickle from the internet without running what the pickle says.

A pickle is a program: it names functions and has them called, which is how NumPy arrays are rebuilt and how a
hostile file runs any command. Here the names that a pickled array needs are bound to records that only write
down what they were to be called with, and all other names are refused. So nothing is called that comes from
outside this file, and the array is then made from what was written down, after it has been checked.

https://docs.python.org/3/library/pickle.html#restricting-globals
"""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from envs.fewshot.datasets.storage import DataError


class _Record:
    """What was to be called, and how; the state that it was to be given afterwards."""

    args: tuple = ()
    state: Any = None

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NdArray(_Record):
    """The class numpy.ndarray itself, which a pickle only passes on."""


class _Reconstruct(_Record):
    """An empty array; its state is (version, shape, dtype, fortran_order, content)."""


class _FromBuffer(_Record):
    """An array of protocol 5: (content, dtype, shape, order, ...)."""


class _Dtype(_Record):
    """A type of array elements: ("u1", ...)."""


class _Encode(_Record):
    """Bytes, as protocols before 3 have them: (text, "latin1")."""


_ALLOWED: dict[tuple[str, str], type[_Record]] = {
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,  # NumPy 2
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _Encode,
}


class _Refused(Exception):
    """A name that a pickle of arrays has no need of."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Record]:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def read_array_pickle(path: Path, array: str, classes: str) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Read a pickled dictionary that holds an array and, for each class, a list of positions in it.

    ``array``, ``classes``: the keys of the two. Pickles of any protocol are read, those of Python 2 included.
    Returns the array, uint8, and the lists by label. The whole file is in memory meanwhile.
    Raises DataError, naming the file, if it cannot be read, names anything but what an array is made of, or
    holds something else.
    """
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file, encoding="latin1").load()  # so that Python 2's strings keep their bytes
    except _Refused as refused:
        raise DataError(
            f"{path} is refused: it names {str(refused)!r}, which no pickle of images has to; do not trust its source"
        ) from refused
    except Exception as error:  # bytes that are not a pickle can raise anything
        raise DataError(f"{path} is not a whole pickle ({error}); fetch it again") from error
    if not isinstance(content, dict) or not {array, classes} <= content.keys():
        raise DataError(f"{path} is not a pickle of a dictionary with {array!r} and {classes!r}; get the original")
    lists = content[classes]
    if not isinstance(lists, dict) or not all(
        isinstance(label, str) and isinstance(indices, list) and all(type(i) is int for i in indices)
        for label, indices in lists.items()
    ):
        raise DataError(f"{classes!r} in {path} is not a dictionary of lists of integers; get the original")
    try:
        return _uint8_array(content[array]), lists
    except ValueError as error:
        raise DataError(f"{array!r} in {path} is {error}; get the original") from error


def _uint8_array(record: Any) -> np.ndarray:
    """The array that was written down. Raises ValueError, saying what it is instead, if it is none of uint8."""
    match record:
        case _Reconstruct(state=(int(), shape, _Dtype(args=(str(kind), *_)), bool(fortran), content)):
            pass
        case _FromBuffer(args=(content, _Dtype(args=(str(kind), *_)), shape, "C" | "F" as order, *_)):
            fortran = order == "F"
        case _:
            raise ValueError("no array")
    if kind != "u1":
        raise ValueError(f"an array of type {kind!r}, not of bytes ('u1')")
    if isinstance(content, _Encode) and content.args[1:] == ("latin1",):
        content = content.args[0]
    if isinstance(content, str):
        content = content.encode("latin1")  # UnicodeEncodeError is a ValueError
    if not isinstance(content, bytes | bytearray):
        raise ValueError("an array without content")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a shape")
    if math.prod(shape) != len(content):
        raise ValueError(f"an array of shape {shape} with {len(content)} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")

"""Where data sets are looked for, how they are read, and where their decoded arrays are kept.

Data is searched, in this order, under an explicit root (``--data-root``), under the folder named by the
environment variable ``SNAIL_DATA``, and under the cache folder. Archives are read in place, never unpacked.
Whatever is written goes to a temporary name first and is renamed when whole, so that a reader sees either a
complete file or none, also when several processes build the same file at once.
"""

import io
import os
import socket
import sys
import urllib.error
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch

_MAX_MEMBER_BYTES = 1 << 24  # one image is a few kB; anything this large is a decompression bomb
_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
_CHECKSUM_BYTES = 4  # of a CRC-32
_MEMORY_MARGIN = 1 << 30  # bytes to leave free beside an array: for what is computed with it


class DataError(Exception):
    """Data that is missing, damaged or unreadable: one line saying what is wrong, where, and what to do."""


def missing_package(package: str) -> DataError:
    """The error to raise when an optional package is not installed."""
    return DataError(f"{package} is not installed; run: pip install 'snail-suite[data]'")


def cache_dir() -> Path:
    """Folder of downloads and decoded arrays: $SNAIL_CACHE, $XDG_CACHE_HOME/snail or ~/.cache/snail."""
    if explicit := os.environ.get("SNAIL_CACHE"):
        return Path(explicit).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "snail"
    return Path.home() / ".cache" / "snail"


def data_roots(root: str | Path | None = None) -> list[Path]:
    """Folders to search for data, first to last: ``root``, $SNAIL_DATA, the cache.

    Raises DataError if ``root`` or $SNAIL_DATA is given and is not a folder.
    """
    roots = []
    for origin, folder in (("--data-root", root), ("SNAIL_DATA", os.environ.get("SNAIL_DATA"))):
        if folder is None or not str(folder):
            continue
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise DataError(f"the data root {path} (from {origin}) is not a folder; correct the path or leave it out")
        roots.append(path)
    return [*roots, cache_dir()]


def find_source(dataset: str, part: str, root: str | Path | None = None) -> Path | None:
    """The folder ``part`` or the archive ``part.zip``, found under a root or under its folder ``dataset``.

    Returns None if it is nowhere. Raises DataError as ``data_roots`` does.
    """
    for base in data_roots(root):
        for folder in (base / dataset, base):
            if (folder / part).is_dir():
                return folder / part
            if (folder / f"{part}.zip").is_file():
                return folder / f"{part}.zip"
    return None


class FileTree:
    """The files of a folder or of a zip archive, read by name; nothing is unpacked to disk.

    ``names`` are sorted relative paths with forward slashes. Those of a folder begin with its own name, so
    that a folder ``part`` and an archive that holds ``part/...`` give the same names in the same order.

    Raises DataError if the archive cannot be opened or has a member whose path leads out of it.
    """

    def __init__(self, source: Path):
        self.source = source
        self._archive: zipfile.ZipFile | None = None
        if source.is_dir():
            self.names = sorted(p.relative_to(source.parent).as_posix() for p in source.rglob("*") if p.is_file())
            return
        try:
            self._archive = zipfile.ZipFile(source)
        except _READ_ERRORS as error:
            raise DataError(f"{source} is not a whole zip archive ({error}); delete it and fetch it again") from error
        members = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        for name in members:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                self._archive.close()
                raise DataError(f"{source} has the unsafe member {name!r}; delete it and fetch it again")
        self.names = sorted(members)

    def read(self, name: str) -> bytes:
        """The content of one file. Raises DataError if it cannot be read or fails its checksum."""
        try:
            if self._archive is None:
                return (self.source.parent / name).read_bytes()
            if (size := self._archive.getinfo(name).file_size) > _MAX_MEMBER_BYTES:
                raise ValueError(f"{size} bytes are too many for an image")
            return self._archive.read(name)
        except _READ_ERRORS as error:
            raise DataError(f"{name} in {self.source} is damaged ({error}); fetch the data again") from error

    def __enter__(self) -> "FileTree":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive is not None:
            self._archive.close()


def decode_image(tree: FileTree, name: str, kind: str, side: int, mode: str, advice: str) -> np.ndarray:
    """Decode one square image: uint8 (side, side) in mode "L", (side, side, 3) in mode "RGB".

    ``kind``: the only file format that is accepted, as Pillow calls it. ``advice``: what to do about an image of
    another size. Raises DataError, naming the file, if it cannot be read or decoded to its end or is not
    ``side`` pixels high and wide, or if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_package("pillow") from error

    content = tree.read(name)
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            size = image.size
            # The size is known before the pixels are decoded, so that a huge image never is.
            pixels = np.asarray(image.convert(mode)) if size == (side, side) else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} in {tree.source} is not a readable {kind} ({error}); fetch the data again") from error
    if pixels is None:
        raise DataError(f"{name} in {tree.source} has {size[0]} x {size[1]} pixels, not {side} x {side}; {advice}")
    return pixels


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Write ``path`` as a whole or not at all.

    Yields a binary file under a temporary name in the same folder; on success it is flushed to disk and
    renamed to ``path``, replacing what was there, and after an exception it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Keep arrays in one uncompressed .npz file, written atomically.

    One file holds all of them together with a CRC-32 of each, so there is no pair of files to disagree.
    Raises DataError if the folder cannot be written.
    """
    try:
        with atomic_writer(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); set SNAIL_CACHE to a folder with room") from error


def load_arrays(path: Path, *names: str) -> tuple[np.ndarray, ...] | None:
    """The named arrays of a file written by ``save_arrays``; None if it is absent, truncated or corrupt."""
    try:
        with np.load(path, allow_pickle=False) as archive:  # reading an array to its end checks its CRC-32
            return tuple(archive[name] for name in names)
    except (*_READ_ERRORS, TypeError, SyntaxError):  # the latter two: an array header that is garbage
        return None


def save_large_array(path: Path, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Keep a uint8 array that is made part by part, ``array[0]``, ``array[1]``, ..., in one .npy file.

    Never more than one part is in memory. The file is written atomically; behind the pixels, where readers of
    .npy files do not look, follows their CRC-32, so that there is no second file to disagree.
    Raises DataError if the folder cannot be written, and whatever ``parts`` raises; the file is then not made.
    """
    checksum, count = 0, 0
    try:
        with atomic_writer(path) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                assert part.dtype == np.uint8 and part.shape == shape[1:], "a part is of another array"
                content = part.tobytes()
                checksum = zlib.crc32(content, checksum)
                count += 1
                file.write(content)
            assert count == shape[0], "parts are missing, or too many"
            file.write(checksum.to_bytes(_CHECKSUM_BYTES, "little"))
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); set SNAIL_CACHE to a folder with room") from error


def map_large_array(path: Path, shape: tuple[int, ...]) -> np.memmap | None:
    """A memory map of a file written by ``save_large_array``; None if it is absent, damaged or of another shape.

    The file is read through once, at the speed of the disk, to compare its checksum. The map is private
    (copy-on-write): whoever writes to the array changes a copy of the page in memory, never the file.
    """
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        with open(path, "rb") as file:
            size = file.seek(-_CHECKSUM_BYTES, os.SEEK_END) + _CHECKSUM_BYTES
            checksum = int.from_bytes(file.read(), "little")
    except (*_READ_ERRORS, TypeError, SyntaxError):  # the latter two: an array header that is garbage
        return None
    if array.dtype != np.uint8 or array.shape != shape or not array.flags.c_contiguous:
        return None
    if size != array.offset + array.nbytes + _CHECKSUM_BYTES or zlib.crc32(array.data) != checksum:
        return None
    return array


def available_memory() -> int | None:
    """Bytes that can be had without swapping, by Linux's /proc/meminfo; None where that is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].removesuffix("kB\n")) * 1024
    except (OSError, ValueError, KeyError):
        return None


def in_memory(array: np.memmap, available: Callable[[], int | None] = available_memory) -> np.ndarray:
    """The array read into memory, or, with one line on stderr, as it is if there is too little for it.

    Both hold the same values. ``available``: tells how many bytes of memory are free, None if it cannot.
    """
    free = available()
    if free is None or array.nbytes + _MEMORY_MARGIN <= free:
        try:
            return np.array(array)
        except MemoryError:  # a limit of this process
            free = None
    print(
        f"{array.filename} is read from disk as needed, which is slower: its {array.nbytes / 1e9:.2f} GB "
        + ("do not fit into memory" if free is None else f"are too many beside {free / 1e9:.2f} GB of free memory"),
        file=sys.stderr,
    )
    return array


SILENCE_SECONDS = 30.0
"""Timeout of a download without progress."""


def download(url: str, path: Path) -> None:
    """Fetch the zip archive ``url`` to ``path`` with a progress bar.

    The file is renamed to ``path`` when it is whole. Raises DataError, naming ``url`` and ``path``, if the network or
    the server fails, or if what arrived is not a whole archive.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(temporary), progress=sys.stderr.isatty())
        if not zipfile.is_zipfile(temporary):
            raise OSError("what arrived is not a whole zip archive")
        os.replace(temporary, path)
    except OSError as error:  # URLError, HTTPError and timeouts are all OSErrors
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(
            f"cannot download {url} ({reason}); fetch it elsewhere and point --data-root or SNAIL_DATA at "
            f"the folder with {path.name}, or use the data set 'glyphs', which needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
        temporary.unlink(missing_ok=True)

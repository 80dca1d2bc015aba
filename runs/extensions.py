"""Extensions: Python files that add environments, agents and experiments: ``snail --extend FILE``.

A file adds them by `runs.catalogue.register` and `runs.catalogue.register_agent`. An environment variable
lists the files, so that worker processes inherit them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]

from runs.system.errors import Interrupted, RunError

VARIABLE = "SNAIL_EXTENSIONS"
"""The environment variable: paths, separated as in $PATH."""
PATIENCE = 5.0
"""Seconds after which a slow extension is reported."""


def extension_files() -> list[str]:
    """The files that the environment variable names."""
    return [file for file in os.environ.get(VARIABLE, "").split(os.pathsep) if file]


def take_extensions(args: Sequence[str]) -> list[str]:
    """Move every ``--extend FILE`` from the arguments to the environment variable; returns the other arguments.

    Raises:
        RunError: if the last word is ``--extend``.
    """
    files = extension_files()
    others: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--extend" or word.startswith("--extend="):
            file = next(words, "") if word == "--extend" else word.partition("=")[2]
            if not file:
                raise RunError("--extend needs a file: snail --extend my_experiment.py list")
            files.append(str(Path(file).resolve()))  # workers may have another working directory
        else:
            others.append(word)
    if files:
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(files))
    return others


def load_extensions() -> None:
    """Import the files that the environment variable lists, each once.

    A worker process calls it before it reads a configuration, whose class may be defined in one of these files.

    Raises:
        RunError: if one is missing, or fails; the message names the file and the line.
    """
    for file in extension_files():
        _load(Path(file).resolve())


def _load(path: Path) -> None:
    name = f"extension_{path.stem}"  # other processes find configurations by this name
    if name in sys.modules:
        if sys.modules[name].__file__ == str(path):
            return
        raise RunError(f"two extensions are called {path.name}; rename {path} or {sys.modules[name].__file__}")
    if path.suffix != ".py" or not path.is_file():
        raise RunError(f"{path} is not a Python file; --extend and ${VARIABLE} take files that end in .py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their own module
    cloudpickle.register_pickle_by_value(module)  # environment processes cannot import it by that name
    patience = threading.Timer(PATIENCE, print, [f"still loading the extension {path} ..."], {"file": sys.stderr})
    patience.daemon = True
    patience.start()
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt as e:
        raise Interrupted(f"stopped while the extension {path}{_line(e, path)} was loading") from e
    except BaseException as e:  # including SystemExit
        del sys.modules[name]
        raise RunError(f"the extension {path}{_line(e, path)} fails: {_words(e)}") from e
    finally:
        patience.cancel()
    from runs.catalogue import CATALOGUE  # the extension has imported it, to add to it

    if not CATALOGUE:
        raise RunError(f"the extension {path} leaves no experiment in the catalogue")


def _words(error: BaseException) -> str:
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}, line {error.lineno}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _line(error: BaseException, path: Path) -> str:
    """Where in the file it failed, as far as that is known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}," if lines else ""

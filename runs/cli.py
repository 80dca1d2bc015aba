"""The ``snail`` command: exit codes, and one-line messages for user errors."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from runs.system.errors import Interrupted, OutOfTime, RunError


def main() -> None:
    """Entry point of the ``snail`` command."""
    closed = sys.stdout is None
    for number in range(3):  # otherwise the next opened file would take a closed stream's descriptor
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if closed:
        print("error: standard output is closed", file=sys.stderr)
        sys.exit(2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells do this to background processes, and
        signal.signal(signal.SIGINT, signal.default_int_handler)  # then only SIGTERM could stop the run in order
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # characters that the terminal lacks
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0 when done, 2 with a one-line message on stderr for user errors, 75 when a time budget was used up ("try
        again later" in sysexits.h: continue with --resume), 130 when stopped.
    """
    try:
        # imports can take a second: inside the try, so that Ctrl-C works from the start
        from runs.commands import COMMANDS, about, run_command
        from runs.extensions import load_extensions, take_extensions

        if args and args[0] in ("--version", "-V"):
            print(f"snail {metadata.version('snail-suite')}")
            return 0
        args = take_extensions(args)
        load_extensions()
        if not args or args[0] in ("-h", "--help", "help"):
            print("snail: launch meta-learning experiments, compare them, reproduce the papers' tables.\n")
            for name in COMMANDS:
                print(f"  {name:9} {about(name)}")
            print("\n`snail COMMAND --help` explains each. Start with: snail list")
            print("`snail --extend FILE COMMAND ...` adds what a Python file defines: see docs/experiment.md")
            return 0
        run_command(args[0], args[1:])
        sys.stdout.flush()  # here, where a closed pipe is not an error
    except OutOfTime as e:
        print(f"\n{e}", file=sys.stderr)
        return 75
    except Interrupted as e:
        print(f"\n{e}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, for instance head, has closed the pipe
        _drop_output()
    except Exception as e:
        if (message := _user_error(e)) is None:
            raise
        return _failed(message)
    return 0


def _failed(message: str) -> int:
    """Print the message in one line, with long words shortened."""
    line = re.sub(r"\S{300,}", lambda word: f"{word[0][:100]}...{word[0][-100:]}", " ".join(message.split("\n")))
    print(f"error: {line}", file=sys.stderr)
    return 2


def _user_error(error: Exception) -> str | None:
    """The message for a user error; None for a bug."""
    from envs.fewshot.datasets.storage import DataError
    from envs.gym_trials import EnvironmentFailed

    if isinstance(error, (RunError, DataError, EnvironmentFailed)):
        return str(error)
    if isinstance(error, OSError):
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
            _drop_output()
            return f"standard output: {error.strerror}"
    if isinstance(error, (MemoryError, RuntimeError)) and (wanted := _too_large(error)) is not None:
        return f"{wanted}; make the model, the batch or the task smaller"
    return None


def _drop_output() -> None:
    """Discard unwritten output, which Python would otherwise try to flush at exit."""
    with contextlib.suppress(OSError):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _too_large(error: BaseException) -> str | None:
    """The message if memory ran out; None for another error."""
    if not isinstance(error, MemoryError) and "memory" not in str(error):
        return None
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    asked = re.search(r"allocate (\d+) bytes", str(error))
    what = f"{int(asked[1]) / 2**30:,.0f} GiB were requested at once" if asked else "more was requested"
    return f"not enough memory: {what}, this machine has {there:.0f} GiB"


if __name__ == "__main__":
    main()

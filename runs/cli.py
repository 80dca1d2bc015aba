"""The ``snail`` command: exit codes, and one line for what a person can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from envs.storage import DataError
from runs.errors import Interrupted, OutOfTime, RunError


def main() -> None:
    """Entry point of the ``snail`` command."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0 when done, 2 with one line on stderr for what a person can mend, 75 when a time budget was used up ("try
        again later" in sysexits.h: --resume goes on), 130 when stopped.
    """
    try:
        from runs.commands import VERBS, run_verb  # takes a second: inside, so that Ctrl-C is answered from the start
        from runs.extensions import load_extensions, take_extensions

        args = take_extensions(args)
        load_extensions()
        if not args or args[0] in ("-h", "--help", "help"):
            print("snail: launch meta-learning experiments, compare them, reproduce the papers' tables.\n")
            for name, verb in VERBS.items():
                print(f"  {name:9} {verb.__doc__.splitlines()[0]}")
            print("\n`snail VERB --help` explains each. Start with: snail list")
            print("`snail --extend FILE VERB ...` knows what a Python file of yours adds, too: see docs/experiment.md")
            return 0
        run_verb(args[0], args[1:])
        sys.stdout.flush()  # here, where a reader that has left is no error
    except OutOfTime as e:
        print(f"\n{e}", file=sys.stderr)
        return 75
    except Interrupted as e:
        print(f"\n{e}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (RunError, DataError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    main()

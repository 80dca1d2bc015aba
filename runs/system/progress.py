"""Progress bars: live in a terminal, occasional lines in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class _Lines:
    """A log file, in which each refresh of a bar becomes a line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: float, description: str, **options: Any) -> tqdm:
    """A bar on stderr with throughput and time left."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, mininterval=0.2, dynamic_ncols=True, **options)
    return tqdm(total=total, desc=description, mininterval=15.0, ncols=120, file=_Lines(), **options)

"""Progress bars: live in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: float, description: str, **options: Any) -> tqdm:
    """A bar on stderr with throughput and time left."""
    in_log = not sys.stderr.isatty()
    return tqdm(total=total, desc=description, mininterval=15.0 if in_log else 0.2, dynamic_ncols=True, **options)

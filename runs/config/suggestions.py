"""Messages for unknown words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggestion(word: str, known: Sequence[str], prefix: str, help_command: str) -> str:
    """Advice for an unknown word."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"`{help_command}` shows all"

"""Shows docstring lines such as ``tasks: (B, K), hidden from agents`` as a list instead of one paragraph."""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMES = re.compile(r"(?:`*[a-z_]\w*`*(?:, | and )?)+: \S")


class Definitions(griffe.Extension):
    """The griffe extension that preprocesses docstrings for mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Rewrite the docstring of an object, if it has one."""
        if obj.docstring is not None:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(listed, paragraphs))


def listed(paragraph: str) -> str:
    """A paragraph of definitions as a Markdown list; any other unchanged."""
    if not NAMES.match(paragraph):
        return paragraph
    return re.sub(rf"^(?={NAMES.pattern})", "- ", paragraph, flags=re.MULTILINE)

"""What a run is filed under at wandb and trackio: the options and variables that wandb's users know."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROJECT = "snail"
"""The project of runs that name none."""
LABELS_FILE = "labels.json"
"""In a run's folder: its labels, for `snail track push`."""


@dataclass(frozen=True)
class Labels:
    """Empty ones mean the tracker's own default."""

    project: str = PROJECT
    entity: str = ""
    group: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""

    @classmethod
    def given(cls, **options: Any) -> Labels:
        """The options that are given, else wandb's environment variables."""
        variables = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        found: dict[str, Any] = {name: value for name, value in variables.items() if value}
        if "tags" in found:
            found["tags"] = tuple(tag.strip() for tag in found["tags"].split(",") if tag.strip())
        return cls(**{**found, **{name: value for name, value in options.items() if value}})

    @classmethod
    def of_run(cls, folder: Path) -> Labels:
        """Those that a run was trained with; the defaults where it has none or they are damaged."""
        try:
            return cls.from_json((folder / LABELS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return cls()

    @classmethod
    def from_json(cls, text: str) -> Labels:
        """The labels that ``to_json`` wrote.

        Raises:
            ValueError, TypeError: for anything else.
        """
        found = json.loads(text)
        return cls(**{**found, "tags": tuple(found.get("tags", ()))})

    def to_json(self) -> str:
        """The labels as text."""
        return json.dumps(asdict(self))


VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
}
"""wandb's environment variables for the labels."""

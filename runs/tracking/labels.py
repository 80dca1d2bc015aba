"""Labels of a run at wandb and trackio: wandb's usual options and environment variables."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROJECT = "snail"
"""The default project."""
LABELS_FILE = "labels.json"
"""The file of labels in a run's folder, for `snail track push`."""


@dataclass(frozen=True)
class Labels:
    """Labels of a run; empty ones mean the tracker's default."""

    project: str = PROJECT
    entity: str = ""
    group: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""

    @classmethod
    def given(cls, **options: Any) -> Labels:
        """The given options, else wandb's environment variables."""
        variables = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
        found: dict[str, Any] = {name: value for name, value in variables.items() if value}
        if "tags" in found:
            found["tags"] = tuple(tag.strip() for tag in found["tags"].split(",") if tag.strip())
        return cls(**{**found, **{name: value for name, value in options.items() if value}})

    @classmethod
    def of_run(cls, folder: Path) -> Labels:
        """The labels that a run was trained with; the defaults if there are none or they are damaged."""
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

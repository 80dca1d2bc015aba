"""In what a run differs from the catalogue's: its folder's name tells only that it does."""

from __future__ import annotations

from typing import Any

from runs.catalogue import find
from runs.config.serialization import to_dict
from runs.system.errors import RunError


def own_settings(config: dict[str, Any]) -> str:
    """The settings that are not the catalogue's, as "training.steps=2 task.arms=3"; empty where there are none.

    ``config`` is what ``runs.config.serialization.to_dict`` made of a run's configuration.
    """
    try:
        usual = find(config["experiment"]).config(config["agent"], config["seed"], config["budget"])
    except RunError:  # the catalogue no longer has such a run
        return ""
    return " ".join(_walk(config, to_dict(usual), ""))


def _walk(mine: Any, usual: Any, name: str) -> list[str]:
    if not (isinstance(mine, dict) and isinstance(usual, dict)):
        return [] if mine == usual else [f"{name.replace('_', '-')}={mine}"]
    if mine.get("type") != usual.get("type"):  # of another kind, whose other settings cannot be compared
        return [f"{name}={mine.get('type')}"]
    found = (_walk(value, usual.get(key), f"{name}.{key}" if name else key) for key, value in mine.items())
    return [text for texts in found for text in texts]

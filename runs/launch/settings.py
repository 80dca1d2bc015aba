"""Settings in which a run differs from the catalogue, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from runs.catalogue import RunConfig, find
from runs.config.command_line import changed
from runs.config.serialization import flat, to_dict
from runs.extensions import extension_files
from runs.system.errors import RunError


def own_settings(config: dict[str, Any]) -> str:
    """The settings that differ from the catalogue's, as "training.steps=2 task.arms=3"; empty if none do.

    ``config`` is a run's configuration as from ``runs.config.serialization.to_dict``.
    """
    try:
        usual = find(config["experiment"]).config(config["agent"], config["seed"], config["budget"])
    except RunError:  # the catalogue no longer has this run
        return ""
    return " ".join(_walk(config, to_dict(usual), ""))


def train_command(config: RunConfig, file: Path) -> str:
    """The command that trains this configuration; ``file`` holds it, in case options cannot express it."""
    words = ["snail", *(w for f in extension_files() for w in ("--extend", f)), "train"]
    return shlex.join([*words, *(_options(config) or ["--config", str(file)])])


def _options(config: RunConfig) -> list[str] | None:
    """The arguments of ``snail train`` for the configuration; None if options cannot express it."""
    usual = find(config.experiment)
    algorithms = usual.algorithms(config.agent, config.budget)
    for algorithm in (None, *algorithms[1:]):
        base = usual.config(config.agent, config.seed, config.budget, algorithm)
        settings = _changes(to_dict(config), to_dict(base))
        try:
            found = changed(base, settings, "train")
        except RunError:
            continue
        if found == config:
            words = [config.experiment, "--agent", config.agent, "--budget", config.budget, "--seed", str(config.seed)]
            words += ["--algorithm", algorithm] if algorithm else []
            for name, value in settings.items():
                values = value if isinstance(value, list) else [value]
                words += [f"--{name}", *map(str, values)] if not isinstance(value, bool) else [_flag(name, value)]
            return words
    return None


def _flag(name: str, value: bool) -> str:
    head, _, last = name.rpartition(".")
    return f"--{name}" if value else f"--{head}.no-{last}"


def _changes(mine: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """The options in which a configuration differs, as typed."""
    before = flat(usual)
    found = {name: value for name, value in flat(mine).items() if "." in name and before.get(name) != value}
    return {name.replace("_", "-"): value for name, value in found.items()}


def _walk(mine: Any, usual: Any, name: str) -> list[str]:
    if not (isinstance(mine, dict) and isinstance(usual, dict)):
        return [] if mine == usual else [f"{name.replace('_', '-')}={mine}"]
    if mine.get("type") != usual.get("type"):  # another type, whose settings cannot be compared
        return [f"{name}={mine.get('type')}"]
    found = (_walk(value, usual.get(key), f"{name}.{key}" if name else key) for key, value in mine.items())
    return [text for texts in found for text in texts]

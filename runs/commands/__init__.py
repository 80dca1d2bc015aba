"""The commands of `snail`: each is a frozen dataclass of its options, parsed by tyro.

They are imported on use: most need torch, which takes more than a second to import.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from runs.config.suggestions import suggestion
from runs.system.errors import RunError

COMMANDS: dict[str, str] = {
    "list": "runs.commands.listing:List",
    "train": "runs.commands.training:Train",
    "sweep": "runs.commands.sweep:Sweep",
    "status": "runs.commands.status:ShowStatus",
    "evaluate": "runs.commands.training:Evaluate",
    "attention": "runs.commands.attention:Attention",
    "play": "runs.commands.play:Play",
    "table": "runs.commands.tables:PrintTable",
    "compare": "runs.commands.compare:Compare",
    "dashboard": "runs.commands.dashboard:Dashboard",
    "verify": "runs.commands.verify:Verify",
    "track": "runs.commands.track:Track",
    "data": "runs.commands.data:Data",
    "bench": "runs.commands.bench:Bench",
    "demo": "runs.commands.demo:Demo",
}
"""Where each is defined."""


def about(command: str) -> str:
    """The first line of a command's docstring, read from the source without importing it."""
    module, _, name = COMMANDS[command].partition(":")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return (ast.get_docstring(found) or "").splitlines()[0]


def run_command(command: str, args: Sequence[str]) -> None:
    """Parse the options of a command and run it.

    Raises:
        RunError: for a command or an option that does not exist; the message suggests the nearest.
    """
    if command not in COMMANDS:
        raise RunError(f"unknown command {command!r}; {suggestion(command, list(COMMANDS), '', 'snail --help')}")
    module, _, name = COMMANDS[command].partition(":")
    kind = getattr(import_module(module), name)
    from runs.config.command_line import parse

    known = {"default": kind.defaults(args)} if hasattr(kind, "defaults") else {}
    parse(kind, args, command, **known).run()

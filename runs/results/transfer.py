"""Agents on trials longer than those that they were trained for, as `runs.bench.transfer` has measured them."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from runs.results.records import PUBLISHED
from runs.results.stored import read_json

OUTCOME = PUBLISHED / "transfer.json"
TRIALS = 2000


def transfers() -> list[dict[str, Any]]:
    """All that is published."""
    return read_json(OUTCOME)["transfers"] if OUTCOME.exists() else []


def render_transfer(found: list[dict[str, Any]]) -> str:
    """A row for each agent and the trials of its training, a column for the lengths that it is tested on."""
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for f in found:
        share, half = (100 * f[name] / f["reference"] for name in ("mean", "ci95"))
        rows.setdefault((f["trained"], f["agent"]), {})[f["pulls"]] = f"{share:.1f} ± {half:.1f}"
    lengths = sorted({f["pulls"] for f in found})
    lines = [[*key, *(cells.get(n, "") for n in lengths)] for key, cells in sorted(rows.items())]
    heads = ["trained on", "agent", *(f"{n} pulls" for n in lengths)]
    return "\n".join(
        [
            "**Transfer: agents on trials longer than those of their training**",
            "",
            tabulate(lines, heads, "github", disable_numparse=True),
            "",
            f"In per cent of what the finite-horizon Gittins index collects, over {TRIALS:,} trials with as many arms, "
            "with 95% intervals over these. One training each.",
        ]
    )

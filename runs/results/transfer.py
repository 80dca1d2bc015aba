"""The table of agents on longer trials than in training, as measured by `runs.bench.transfer`."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from runs.results.records import PUBLISHED
from runs.results.stored import read_json

OUTCOME = PUBLISHED / "transfer.json"
TRIALS = 2000


def transfers() -> list[dict[str, Any]]:
    """The published measurements."""
    return read_json(OUTCOME)["transfers"] if OUTCOME.exists() else []


def render_transfer(found: list[dict[str, Any]]) -> str:
    """One row per agent and training task, one column per tested length."""
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for f in found:
        share, half = (100 * f[name] / f["reference"] for name in ("mean", "ci95"))
        rows.setdefault((f["trained"], f["agent"]), {})[f["pulls"]] = f"{share:.1f} ± {half:.1f}"
    lengths = sorted({f["pulls"] for f in found})
    lines = [[*key, *(cells.get(n, "") for n in lengths)] for key, cells in sorted(rows.items())]
    heads = ["trained on", "agent", *(f"{n} pulls" for n in lengths)]
    return "\n".join(
        [
            "**Transfer: agents on longer trials than in training**",
            "",
            tabulate(lines, heads, "github", disable_numparse=True),
            "",
            f"In per cent of the return of the finite-horizon Gittins index, over {TRIALS:,} trials with as many arms, "
            "with 95% intervals over these. One training each.",
        ]
    )

"""Writes what is generated: the README's numbers and the listing of the catalogue: ``python -m runs.generate``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from runs.commands.demo import AGENTS
from runs.commands.listing import LISTING, digest, listing
from runs.results.folder import writing
from runs.results.records import PUBLISHED, Result, read_results
from runs.results.stored import read_record
from runs.results.tables import render, tables

README = Path(__file__).parent.parent / "README.md"


def sections() -> dict[str, str]:
    """What stands between each pair of marks."""
    results = read_results([PUBLISHED])
    benches = [json.loads(path.read_text()) for path in sorted(PUBLISHED.glob("bench/*.json"))]
    return {
        "results": f"{_tables(results)}\n\n{_machines()}",
        "demo": _tables([r for r in results if r.budget == "demo" and r.agent in AGENTS.get(r.experiment, ())]),
        "comparisons": _tables(results, of_paper=False),
        "bench": "\n\n".join(f"```\n{b['text']}\n```" for b in benches),
    }


def _tables(results: list[Result], of_paper: bool = True) -> str:
    measured = {r.experiment for r in results}
    shown = [
        t for t in tables().values() if t.of_paper == of_paper and measured & {cell.experiment for cell in t.cells}
    ]
    return "\n\n".join(render(table, results, "markdown", missing=False) for table in shown)


def _machines() -> str:
    """Where and when the records were made."""
    records = [read_record(path) for path in sorted(PUBLISHED.rglob("result.json"))]
    if not records:
        return "No records yet."
    devices = ", ".join(sorted({r["device"] for r in records}))
    threads = " or ".join(map(str, sorted({r["threads"] for r in records})))
    days = sorted(r["finished"][:10] for r in records)
    return (
        f"Measured on {devices} with {threads} threads, {' to '.join(sorted({days[0], days[-1]}))}. Times are of "
        "training alone. Each number's record, with its settings, threads, versions and commit, is under "
        "`runs/published/`."
    )


def updated(text: str) -> str:
    """The README with its numbers brought up to date."""
    for name, body in sections().items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text = marks.sub(lambda m, body=body: f"{m[1]}\n{body}\n\n{m[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    with writing(LISTING) as file:
        file.write(f"{digest()}\n{listing()}".encode())
    with writing(README) as file:
        file.write(updated(README.read_text(encoding="utf-8")).encode())

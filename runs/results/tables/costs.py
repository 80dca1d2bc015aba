"""What a memory costs late in a long trial, as `snail bench scaling` has measured it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from runs.results.records import PUBLISHED
from runs.results.stored import read_json
from runs.results.tables.rows import Row

LENGTH = 1000
"""Steps of the sequence."""
MEASURED = PUBLISHED / "bench" / "scaling-cpu-1-thread.json"


@dataclass(frozen=True)
class MemoryCost:
    """Of one sequence on one core: microseconds of one more step, and kilobytes of the cache."""

    step_time: float
    cache: float


@cache
def memory_costs() -> dict[str, MemoryCost]:
    """By agent, of policies of SNAIL's size for bandits of five arms; empty where nothing was measured."""
    if not MEASURED.exists():
        return {}
    found = read_json(MEASURED)["scaling"]
    if LENGTH not in found["lengths"]:
        return {}
    at = found["lengths"].index(LENGTH)
    times, sizes = found["values"]["step time"], found["values"]["step memory"]
    return {name: MemoryCost(times[name][at], sizes[name][at]) for name in times}


def cost_of(row: Row) -> MemoryCost | None:
    """Of a row that has been run; None for few-shot classification, which takes no such steps."""
    return memory_costs().get(row.agent) if row.ours and row.cell.shots is None else None

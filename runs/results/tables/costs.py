"""Costs of sequence models late in a long trial, as measured by `snail bench scaling`."""

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
    """For one sequence on one core: microseconds of one more step, and kilobytes of the cache."""

    step_time: float
    cache: float


@cache
def memory_costs() -> dict[str, MemoryCost]:
    """By agent, for policies of SNAIL's size for 5-armed bandits; empty if nothing was measured."""
    if not MEASURED.exists():
        return {}
    found = read_json(MEASURED)["scaling"]
    if LENGTH not in found["lengths"]:
        return {}
    at = found["lengths"].index(LENGTH)
    times, sizes = found["values"]["step time"], found["values"]["step memory"]
    return {name: MemoryCost(times[name][at], sizes[name][at]) for name in times}


def cost_of(row: Row) -> MemoryCost | None:
    """The costs of a row that has been run; None for few-shot classification."""
    return memory_costs().get(row.agent) if row.ours and row.cell.shots is None else None

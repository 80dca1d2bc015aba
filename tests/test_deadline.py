"""Time budgets as people write them, and when they tell a run to stop."""

from __future__ import annotations

import pytest

from runs.system import deadline
from runs.system.deadline import RESERVE, Deadline, parse_duration
from runs.system.errors import RunError


@pytest.mark.parametrize(
    "text, seconds", [("90s", 90), ("25m", 1500), ("1h30m", 5400), ("1.5h", 5400), ("0.5m10s", 40), ("600s", 600)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "25", "m", "25 m", "-5m", "0s", "5d", "1h30", "1e3s", "five minutes"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(RunError, match="not a time budget; give hours, minutes or seconds"):
        parse_duration(text)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when told."""
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])

    def tick(seconds: float) -> None:
        now[0] += seconds

    return tick


def test_another_piece_must_fit(clock):
    limit = Deadline(RESERVE + 100)
    clock(30)  # getting ready: says nothing about the pieces
    limit.begin()
    clock(20)
    assert not limit.near()
    clock(10)
    assert not limit.near()  # 60 gone, 40 left, the longest took 20
    clock(15)
    assert limit.near()  # 75 gone, 25 left: less than one and a half times 20


def test_another_kind_of_work_is_timed_anew(clock):
    limit = Deadline(RESERVE + 100)
    limit.begin()
    clock(60)
    assert limit.near()
    limit.begin()
    clock(1)
    assert not limit.near()


def test_no_budget_never_ends(clock):
    limit = Deadline()
    limit.begin()
    clock(1e9)
    assert not limit.near()


def test_a_budget_may_have_begun_before(clock):
    limit = Deadline(RESERVE + 100, began=20.0)  # 80 seconds ago
    limit.begin()
    clock(5)
    assert not limit.near()  # 15 left
    clock(11)
    assert limit.near()

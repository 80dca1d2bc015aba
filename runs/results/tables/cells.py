"""A table and its cells, with the numbers that papers printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from baselines.classical_agent import ClassicalAgent
from runs.agents import FEWSHOT_MEMORIES
from runs.catalogue import CATALOGUE


@dataclass(frozen=True)
class Printed:
    """A number printed in a paper.

    half: half-width of its 95% interval, if it has one.
    digits: decimals of the number.
    rounding: maximum rounding error.
    """

    value: float
    half: float | None
    digits: int
    rounding: float

    def __str__(self) -> str:
        shown = f"{self.value:.{self.digits}f}"
        return shown if self.half is None else f"{shown} ± {self.half:.{max(self.digits, _decimals(self.half))}f}"


def _decimals(x: float) -> int:
    return len(str(x).partition(".")[2])


def as_printed(value: float, half: float | None = None, digits: int | None = None) -> Printed:
    """A printed number, rounded to ``digits``; None: to those that it is written with."""
    digits = _decimals(value) if digits is None else digits
    return Printed(value, half, digits, 0.5 * 10**-digits)


@dataclass(frozen=True)
class Cell:
    """One setting of a table, for several agents.

    paper: the printed number by agent or method, with the half-width of its interval if it has one.
    optimum: upper bound for every agent's expected result; None if unknown.
    reference: the method whose measured result takes the place of an unknown optimum.
    in_paper: False for our own settings, which are shown only once they have been run.
    reference_experiment: the experiment in which that method is run, if not this one.
    paper_unit: the unit of the paper's numbers, if it prints fractions.
    metric: the metric in the records; None: the only one.
    minus: a metric to subtract, per test task.
    lower: whether lower is better.
    """

    label: str
    experiment: str
    shots: int | None
    paper: Mapping[str, Printed | None]
    optimum: Callable[[], float | None]
    reference: str | None = None
    in_paper: bool = True
    paper_unit: float | None = None
    reference_experiment: str | None = None
    metric: str | None = None
    minus: str | None = None
    lower: bool = False


def learns(experiment: str, agent: str) -> bool:
    """Whether an agent's training depends on a seed; classical methods do not."""
    agents = CATALOGUE[experiment].agents if experiment in CATALOGUE else {}
    return not isinstance(agents.get(agent), ClassicalAgent)


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one of our own comparisons.

    name: its name on the command line; a number for the paper's tables.
    shares: whether to show per cent of the optimum as well.
    unit: unit of the numbers, for figures.
    bound: label of the optimum.
    optional: agents that have a row only once they have been run.
    costs: whether to show the costs of a step and of the cache.
    budget: the only one to show; None: the largest that was run, but not the short one beside longer ones.
    """

    name: str
    title: str
    scale: float
    digits: int
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=())
    shares: bool = True
    budget: str | None = None
    unit: str = "accuracy in %"
    bound: str = "optimum"
    optional: frozenset[str] = frozenset(FEWSHOT_MEMORIES)
    costs: bool = False

    @property
    def of_paper(self) -> bool:
        """Whether there are published numbers to compare with."""
        return any(printed for cell in self.cells for printed in cell.paper.values())

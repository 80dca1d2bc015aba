"""Which tables there are: their cells, what the papers printed there, and comparisons of our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from baselines.classical_agent import ClassicalAgent
from envs.control import GOALS
from runs.agents import AGENTS, FEWSHOT_MEMORIES, MEMORIES
from runs.catalogue import CATALOGUE, find
from runs.system.errors import RunError
from snail.attention.scores import SCORE_NAMES


@dataclass(frozen=True)
class Printed:
    """A number as a paper prints it.

    half: half-width of its 95% interval, where it has one.
    digits: decimals of the number.
    rounding: how far it may be from the number that was rounded.
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


@cache
def paper_tables() -> dict:
    """The papers' printed numbers."""
    return json.loads((Path(__file__).with_name("paper_tables.json")).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Cell:
    """One setting of a table, measured for several agents.

    paper: the printed number for an agent or method, with the half-width of its interval where it has one.
    optimum: what no agent can pass in expectation; None where it is not known.
    reference: the method whose own measured number stands for the optimum where that is not known.
    in_paper: False for a setting of ours, which is shown only where it has been run.
    reference_experiment: where that method is run, if not in this experiment.
    paper_unit: what the paper divides by, where it prints fractions.
    metric: which number of the records; None: their only one.
    minus: what is subtracted from it, test task by test task.
    lower: whether less is better.
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
    """Whether an agent's training has a seed; methods that do not learn are the same in all of them."""
    agents = CATALOGUE[experiment].agents if experiment in CATALOGUE else {}
    return not isinstance(agents.get(agent), ClassicalAgent)


@dataclass(frozen=True)
class Table:
    """A table of the paper, or of comparisons of our own.

    name: what it is asked for by: a number is the paper's.
    shares: whether to give the numbers in per cent of the optimum, too.
    unit: of the numbers, in pictures.
    bound: what the optimum is called.
    optional: agents that have a row only where they are run.
    costs: whether to set what a step and a cache cost beside the numbers.
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
        """Whether there are printed numbers to stand beside ours."""
        return any(printed for cell in self.cells for printed in cell.paper.values())


_DIGITS = {"bandits": 1, "rl2-bandits": 1, "mdps": 3, "rl2-mdps": 1}
"""Decimals of all numbers of a table; in the others each number has its own."""


def _printed(table: str, row: str, column: str) -> Printed | None:
    found = paper_tables()[table].get(row, {}).get(column)
    if found is None:
        return None
    digits = _DIGITS.get(table, _decimals(found[0]))
    return Printed(found[0], found[1], digits, 0.5 * 10**-digits)


_FEWSHOT_ROWS = {
    "snail": "SNAIL",
    "lstm": None,
    "gru": None,
    "transformer": None,
    "maml": "Finn 2017 (MAML)",
    "protonet": "Snell 2017",
    **dict.fromkeys(FEWSHOT_MEMORIES),
}
"""Agents of few-shot classification, and whose printed numbers stand beside theirs."""


def _fewshot_cell(data: str, ways: int, shots: int) -> Cell:
    column = f"{ways}way_{shots}shot"
    paper = {agent: None if row is None else _printed(data, row, column) for agent, row in _FEWSHOT_ROWS.items()}
    return Cell(f"{ways}-way {shots}-shot", f"{data}/{ways}way", shots, paper, lambda: 1.0)


def _our_cell(label: str, experiment: str, shots: int) -> Cell:
    """A setting that the paper does not have."""
    return Cell(label, experiment, shots, dict.fromkeys(_FEWSHOT_ROWS), CATALOGUE[experiment].optimum, in_paper=False)


def _bandit_cell(pulls: int, arms: int) -> Cell:
    row = f"{pulls},{arms}"
    # the SNAIL paper's LSTM column repeats RL^2's GRU, except for the longest trials, which are its own LSTM
    recurrent = _printed("bandits", row, "LSTM")
    paper = {
        "snail": _printed("bandits", row, "SNAIL"),
        "lstm": recurrent if pulls == 1000 else None,
        "gru": recurrent if pulls != 1000 else None,
        "transformer": None,
        "maml": _printed("bandits", row, "MAML"),
        "random": _printed("bandits", row, "Random"),
        "greedy": _printed("rl2-bandits", row, "Greedy"),
        "eps-greedy": _printed("rl2-bandits", row, "eps-Greedy"),
        "ucb1": _printed("rl2-bandits", row, "UCB1"),
        "thompson": _printed("rl2-bandits", row, "TS"),
        "optimistic-thompson": _printed("rl2-bandits", row, "OTS"),
        "gittins": _printed("bandits", row, "Gittins"),
        "finite-gittins": None,
        **dict.fromkeys(MEMORIES),
    }
    experiment = CATALOGUE[f"bandit/n{pulls}-k{arms}"]
    return Cell(f"N={pulls} K={arms}", experiment.id, None, paper, experiment.optimum, reference="finite-gittins")


PAPER_EPISODE = 20.76
"""What the SNAIL paper's fractions of the optimum divide the reward of an episode by: less than the real optimum."""


def _mdp_cell(episodes: int) -> Cell:
    row = str(episodes)
    gru = _printed("rl2-mdps", row, "RL2")
    fraction = _printed("mdps", row, "LSTM")
    assert gru is not None and fraction is not None
    unit = gru.value / fraction.value  # RL^2 printed the return of which the SNAIL paper prints the fraction

    def converted(column: str) -> Printed | None:
        found = _printed("mdps", row, column)
        if found is None:
            return None
        half = found.half and round(unit * found.half, 1)
        return Printed(round(unit * found.value, 1), half, 1, unit * found.rounding)

    paper = {
        "snail": converted("SNAIL"),
        "lstm": None,
        "gru": gru,
        "transformer": None,
        "maml": converted("MAML"),
        "random": _printed("rl2-mdps", row, "Random"),
        **dict.fromkeys(MEMORIES),
    }
    for method, column in (
        ("greedy", "Greedy"),
        ("eps-greedy", "eps-Greedy"),
        ("psrl", "PSRL"),
        ("opsrl", "OPSRL"),
        ("ucrl2", "UCRL2"),
        ("beb", "BEB"),
    ):
        # the papers' numbers are of a prior that expects rewards of 0
        paper |= {f"{method}-mean0": _printed("rl2-mdps", row, column), method: None}
    paper |= {"oracle": None}
    experiment = CATALOGUE[f"mdp/n{episodes}"]
    paper = {agent: number for agent, number in paper.items() if agent in experiment.agents}
    unit = PAPER_EPISODE * episodes
    return Cell(f"N={episodes}", experiment.id, None, paper, experiment.optimum, reference="oracle", paper_unit=unit)


def _control_cells(animal: str, goal: str) -> tuple[Cell, ...]:
    """Return of the first and the second episode, how much more the second is, and how far the velocity is off."""
    experiment = f"control/{animal}-{goal}"
    agents: dict[str, Printed | None] = dict.fromkeys(CATALOGUE[experiment].agents)
    first, second = "return_episode1", "return_episode2"

    def cell(what: str, metric: str, minus: str | None = None, told: bool = False, lower: bool = False) -> Cell:
        reference = ("snail", f"{experiment}-told") if told else (None, None)
        return Cell(
            f"{animal} {goal}, {what}",
            experiment,
            None,
            agents,
            lambda: None,
            reference=reference[0],
            reference_experiment=reference[1],
            metric=metric,
            minus=minus,
            lower=lower,
        )

    found = [cell("episode 1", first, told=True), cell("episode 2", second, told=True), cell("gain", second, first)]
    if goal == "velocity":
        found.append(cell("error in episode 2", "velocity_error_episode2", lower=True))
    return tuple(found)


def _comparison(name: str, title: str, rows: Mapping[str, tuple[str, ...]]) -> Table:
    """A table of few-shot classification and of bandits, with a group of agents a row of ``rows``.

    Every agent is shown where the catalogue has it.
    """
    tasks = (("few-shot", "omniglot/5way-1shot", 1), ("bandit", "bandit/n100-k5", None))
    return Table(
        name,
        title,
        1.0,
        3,
        tuple(
            Cell(
                f"{task}: {group}",
                experiment,
                shots,
                dict.fromkeys(a for a in agents if a in CATALOGUE[experiment].agents),
                CATALOGUE[experiment].optimum,
                reference=None if shots else "finite-gittins",
            )
            for task, experiment, shots in tasks
            for group, agents in rows.items()
        ),
        (
            "few-shot: accuracy on 5-way 1-shot Omniglot. bandit: total reward over 100 pulls of 5 arms; its optimum "
            "is what the finite-horizon Gittins index collects on the same tasks.",
            "All rows of a task have the same short budget, seed and test tasks: they show what is learned soon, not "
            "what can be reached.",
        ),
        budget="short",
    )


def _models() -> Table:
    """All memories on a task of every kind."""
    tasks = (
        ("5 arms, 100 pulls", "bandit/n100-k5", None),
        ("50 arms, 100 pulls", "bandit/n100-k50", None),
        ("MDPs, 10 episodes", "mdp/n10", None),
        ("recall of 8 pairs", "recall/n8", None),
        ("Omniglot 5-way 1-shot", "omniglot/5way", 1),
        ("Omniglot 5-way 5-shot", "omniglot/5way", 5),
    )
    references = {"bandit": "finite-gittins", "mdp": "oracle"}
    return Table(
        "models",
        "memories of one size, on a task of every kind",
        1.0,
        3,
        tuple(
            Cell(
                label,
                experiment,
                shots,
                dict.fromkeys([*AGENTS, *(FEWSHOT_MEMORIES if shots else MEMORIES)]),
                CATALOGUE[experiment].optimum,
                reference=references.get(experiment.partition("/")[0]),
            )
            for label, experiment, shots in tasks
        ),
        (
            "All rows of a task have the same short budget, seed, test tasks and settings, which are SNAIL's: they "
            "show what is learned soon, not what can be reached.",
            "Seconds of training: on one core of a machine that did other work beside, so that they compare roughly.",
            "A step and a cache: of a policy for bandits of five arms after 1,000 steps, on one core.",
        ),
        budget="short",
        optional=frozenset(),
        costs=True,
    )


_SCORE_ROWS = {"score function": ("snail", *(f"snail-{score}" for score in SCORE_NAMES if score != "scaled-dot"))}
_ABLATION_ROWS = {
    "blocks": ("snail", "snail-convolutions", "snail-attention", "snail-dilation-2"),
    "attention window": ("snail", "snail-local-m", "snail-local-p"),
    "selection": ("snail", "snail-hard", "snail-gumbel"),
    "heads": ("snail", "snail-4-heads"),
    "width": ("snail-half", "snail", "snail-double"),
    "lineage": ("snail", "lstm", "gru", "seq2seq", "seq2seq-aligned", "encoder-decoder", "transformer", "transfer"),
    "embedding": ("snail", "snail-self-attention", "snail-glimpses", "snail-hard-glimpses"),
}


_REGISTERED: dict[str, list[Cell]] = {}
"""Rows that extensions add, by table."""


def register_row(
    table: str,
    label: str,
    experiment: str,
    agents: Sequence[str] = (),
    shots: int | None = None,
    paper: Mapping[str, tuple[float, float | None]] | None = None,
) -> None:
    """Add a setting to a table of the paper's, where it is shown once it is run, or to one of your own.

    Args:
        table: its name; a new one makes a table.
        label: what the setting is called.
        experiment: in the catalogue.
        agents: who is shown, in this order; none: all of the experiment.
        shots: of few-shot classification, one of those that are tested.
        paper: printed numbers to compare with, by agent, with the half-width of their 95% interval or None.

    Raises:
        RunError: for a name or shots that do not exist, or a label that the table has already.
    """
    found = find(experiment)
    agents, printed = tuple(agents) or tuple(found.agents), dict(paper or {})
    if wrong := [agent for agent in (*agents, *printed) if agent not in found.agents]:
        raise RunError(f"{experiment} has no agent {wrong[0]}; it has {', '.join(found.agents)}")
    tested = getattr(found.budgets["full"].task, "test_shots", (None,))
    if shots not in tested:
        raise RunError(f"shots of {experiment} must be one of {', '.join(map(str, tested))}, got {shots}")
    there = tables()
    if table in there and label in (cell.label for cell in there[table].cells):
        raise RunError(f"table {table} has a row {label!r} already; choose another label")
    numbers = {agent: _number(*printed[agent]) if agent in printed else None for agent in agents}
    own = table not in there or table in _REGISTERED
    cell = Cell(label, experiment, shots, numbers, found.optimum, in_paper=own)
    _REGISTERED.setdefault(table, []).append(cell)


def _number(value: float, half: float | None = None) -> Printed:
    digits = _decimals(value)
    return Printed(value, half, digits, 0.5 * 10**-digits)


def tables() -> dict[str, Table]:
    """Every table that can be printed: by its number in the SNAIL paper, comparisons of our own, and extensions'."""
    found = _tables()
    for name, cells in _REGISTERED.items():
        if name in found:
            found[name] = replace(found[name], cells=(*found[name].cells, *cells))
        else:
            scale, digits = (100.0, 2) if cells[0].shots else (1.0, 3)
            found[name] = Table(name, "rows of extensions", scale, digits, tuple(cells), shares=not cells[0].shots)
    return found


def _tables() -> dict[str, Table]:
    omniglot = [_fewshot_cell("omniglot", ways, shots) for ways in (5, 20) for shots in (1, 5)]
    ours = [
        _our_cell("5-way 1-shot only", "omniglot/5way-1shot", 1),
        _our_cell("glyphs 5-way 1-shot", "glyphs/5way", 1),
        _our_cell("glyphs 5-way 5-shot", "glyphs/5way", 5),
        _our_cell("glyphs 5-way 1-shot only", "glyphs/5way-1shot", 1),
    ]
    photographs = tuple(_fewshot_cell("mini-imagenet", 5, shots) for shots in (1, 5))
    settings = [(n, k) for n in (10, 100, 500) for k in (5, 10, 50)] + [(1000, 50)]
    return {
        "1": Table(
            "1",
            "few-shot accuracy on Omniglot, in per cent",
            100.0,
            2,
            (*omniglot, *ours),
            (
                "The paper trains one model for 1 to 5 shots, as do the rows of 1 and 5 shots; "
                "a row of 1 shot only is of a model that was trained for nothing else.",
            ),
            shares=False,
        ),
        "2": Table("2", "few-shot accuracy on mini-ImageNet, in per cent", 100.0, 2, photographs, shares=False),
        "3": Table(
            "3",
            "total reward on K-armed Bernoulli bandits over N pulls",
            1.0,
            3,
            tuple(_bandit_cell(n, k) for n, k in settings),
            (
                "optimum: expected total reward of the Bayes-optimal agent, by exact dynamic programming; where that "
                "is infeasible, what the finite-horizon Gittins index, which comes close to it, collects on the same "
                "tasks.",
                "The papers' numbers are means of about 1000 trials, so one can exceed the optimum. "
                "What the SNAIL paper prints as LSTM is RL^2's GRU, except for N=1000.",
            ),
        ),
        "4": Table(
            "4",
            "total reward in random MDPs over N episodes",
            1.0,
            1,
            tuple(_mdp_cell(n) for n in (10, 25, 50, 75, 100)),
            (
                "optimum: what an oracle that knows each MDP collects on the same tasks. The SNAIL paper prints "
                f"fractions of {PAPER_EPISODE} an episode, which is less than that; its numbers are converted to "
                "rewards here, and ours are given on its scale too.",
                "mean0: with a prior that expects mean rewards of 0, as the papers' numbers imply; the MDPs' true mean "
                "is 1.",
            ),
        ),
        "control": Table(
            "control",
            "return of the first and the second episode of a trial",
            1.0,
            2,
            tuple(c for animal in ("cheetah", "ant") for goal in GOALS for c in _control_cells(animal, goal)),
            (
                "gain: return of the second minus that of the first episode of the same trial. error: mean distance "
                "from the velocity to keep, in m/s; less is better.",
                "ceiling: SNAIL that is shown the task, after as many updates of one-episode trials; floor: random. "
                "The SNAIL paper and MAML's show curves of these tasks, and no numbers.",
            ),
            shares=False,
            unit="return; of error in m/s",
            bound="ceiling",
        ),
        "models": _models(),
        "attention": _comparison("attention", "six score functions for SNAIL's attention", _SCORE_ROWS),
        "ablation": _comparison("ablation", "SNAIL with one thing changed, and what it descends from", _ABLATION_ROWS),
    }

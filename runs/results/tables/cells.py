"""Definitions of the tables: their cells, the papers' numbers, and our own comparisons."""

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


@cache
def paper_tables() -> dict:
    """The papers' printed numbers."""
    return json.loads((Path(__file__).with_name("paper_tables.json")).read_text(encoding="utf-8"))


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


_DIGITS = {"bandits": 1, "rl2-bandits": 1, "mdps": 3, "rl2-mdps": 1}
"""Decimals of all numbers of a table; by default each number has its own."""


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
"""Few-shot agents, and the papers' methods that they are compared with."""


def _fewshot_cell(data: str, ways: int, shots: int) -> Cell:
    column = f"{ways}way_{shots}shot"
    paper = {agent: None if row is None else _printed(data, row, column) for agent, row in _FEWSHOT_ROWS.items()}
    return Cell(f"{ways}-way {shots}-shot", f"{data}/{ways}way", shots, paper, lambda: 1.0)


def _our_cell(label: str, experiment: str, shots: int) -> Cell:
    """A setting that is not in the paper."""
    return Cell(label, experiment, shots, dict.fromkeys(_FEWSHOT_ROWS), CATALOGUE[experiment].optimum, in_paper=False)


def _bandit_cell(pulls: int, arms: int) -> Cell:
    row = f"{pulls},{arms}"
    # the SNAIL paper's LSTM column repeats RL^2's GRU, except for the longest trials
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
"""The optimum per episode that the SNAIL paper's fractions refer to: less than the exact one."""


def _mdp_cell(episodes: int) -> Cell:
    row = str(episodes)
    gru = _printed("rl2-mdps", row, "RL2")
    fraction = _printed("mdps", row, "LSTM")
    assert gru is not None and fraction is not None
    unit = gru.value / fraction.value  # RL^2 printed the return, the SNAIL paper the fraction

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
    """Return of the first and the second episode, their difference, and the error of the velocity."""
    experiment = f"control/{animal}-{goal}"
    agents: dict[str, Printed | None] = dict.fromkeys(CATALOGUE[experiment].agents)
    first, second = "return_episode1", "return_episode2"

    def cell(what: str, metric: str, minus: str | None = None, bound: bool = False, lower: bool = False) -> Cell:
        reference = ("snail", f"{experiment}-told") if bound else (None, None)
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

    found = [cell("episode 1", first, bound=True), cell("episode 2", second, bound=True), cell("gain", second, first)]
    if goal == "velocity":
        found.append(cell("error in episode 2", "velocity_error_episode2", lower=True))
    return tuple(found)


def _comparison(name: str, title: str, rows: Mapping[str, tuple[str, ...]]) -> Table:
    """A table of few-shot classification and bandits, with the agents of ``rows``.

    Each agent is shown in the experiments that have it.
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
            "is the result of the finite-horizon Gittins index on the same tasks.",
        ),
        budget="short",
    )


def _models() -> Table:
    """All sequence models on one task of each kind."""
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
        "sequence models of equal size, on one task of each kind",
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
            "Hyperparameters are SNAIL's. Of the full budget, the learning rates of SNAIL, LSTM, GRU and the "
            "Transformer were tuned alike.",
            "Seconds of training: on one core of a busy machine, so they are only roughly comparable.",
            "Step time and cache: of a policy for 5-armed bandits after 1,000 steps, on one core.",
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
"""Rows added by extensions, by table."""


def register_row(
    table: str,
    label: str,
    experiment: str,
    agents: Sequence[str] = (),
    shots: int | None = None,
    paper: Mapping[str, tuple[float, float | None]] | None = None,
) -> None:
    """Add a setting to one of the paper's tables, where it is shown once it has been run, or to your own table.

    Args:
        table: its name; a new name creates a table.
        label: name of the setting.
        experiment: its id in the catalogue.
        agents: the agents to show, in this order; empty: all of the experiment.
        shots: for few-shot classification, one of the tested numbers of shots.
        paper: published numbers by agent, with the half-width of their 95% interval or None.

    Raises:
        RunError: for unknown names or shots, or a label that the table already has.
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
    """All tables: the SNAIL paper's by number, our own comparisons, and those of extensions."""
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
                'rows labelled "1-shot only" are models trained for 1 shot only.',
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
                "is infeasible, the result of the finite-horizon Gittins index, which comes close to it, on the same "
                "tasks.",
                "The papers' numbers are means of about 1000 trials, so they can exceed the optimum. "
                "The SNAIL paper's LSTM is RL^2's GRU, except for N=1000.",
            ),
        ),
        "4": Table(
            "4",
            "total reward in random MDPs over N episodes",
            1.0,
            1,
            tuple(_mdp_cell(n) for n in (10, 25, 50, 75, 100)),
            (
                "optimum: the result of an oracle that knows each MDP, on the same tasks. The SNAIL paper prints "
                f"fractions of {PAPER_EPISODE} an episode, which is less than that; its numbers are converted to "
                "rewards here, and ours are also given on its scale.",
                "mean0: with a prior mean reward of 0, as the papers' numbers imply; the MDPs' true mean is 1.",
            ),
        ),
        "control": Table(
            "control",
            "return of the first and the second episode of a trial",
            1.0,
            2,
            tuple(c for animal in ("cheetah", "ant") for goal in GOALS for c in _control_cells(animal, goal)),
            (
                "gain: return of the second minus that of the first episode of the same trial. error: mean absolute "
                "error of the velocity, in m/s; lower is better.",
                "upper bound: SNAIL with the task in its observation, after as many updates of one-episode trials; "
                "lower bound: random. The SNAIL paper and MAML's show curves of these tasks, and no numbers.",
            ),
            shares=False,
            unit="return; of error in m/s",
            bound="upper bound",
        ),
        "models": _models(),
        "attention": _comparison("attention", "six score functions for SNAIL's attention", _SCORE_ROWS),
        "ablation": _comparison("ablation", "SNAIL with one change, and its predecessors", _ABLATION_ROWS),
    }

"""The tables of the SNAIL paper, and the papers' numbers in them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from envs.control import GOALS
from runs.agents import FEWSHOT_MEMORIES, MEMORIES
from runs.catalogue import CATALOGUE, PRETRAINED
from runs.results.tables.cells import Cell, Printed, Table, as_printed


@cache
def printed_numbers() -> dict:
    """The papers' printed numbers: table, row, column -> number and half-width of its interval."""
    return json.loads((Path(__file__).with_name("paper_tables.json")).read_text(encoding="utf-8"))


_DIGITS = {"bandits": 1, "rl2-bandits": 1, "mdps": 3, "rl2-mdps": 1}
"""Decimals of all numbers of a table; by default each number has its own."""


def _printed(table: str, row: str, column: str) -> Printed | None:
    found = printed_numbers()[table].get(row, {}).get(column)
    if found is None:
        return None
    value, half = found
    return as_printed(value, half, _DIGITS.get(table))


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


def _pretrained_cell(shots: int) -> Cell:
    """The same, with an embedding that was trained before, by itself."""
    cell = _fewshot_cell("mini-imagenet", 5, shots)
    return replace(
        cell,
        label=f"{cell.label}, pre-trained",
        experiment=PRETRAINED,
        paper={"transfer": None, **cell.paper},
    )


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


def paper_tables() -> dict[str, Table]:
    """The paper's tables by number, and its locomotion tasks."""
    omniglot = [_fewshot_cell("omniglot", ways, shots) for ways in (5, 20) for shots in (1, 5)]
    ours = [
        _our_cell("5-way 1-shot only", "omniglot/5way-1shot", 1),
        _our_cell("glyphs 5-way 1-shot", "glyphs/5way", 1),
        _our_cell("glyphs 5-way 5-shot", "glyphs/5way", 5),
        _our_cell("glyphs 5-way 1-shot only", "glyphs/5way-1shot", 1),
    ]
    end_to_end = (_fewshot_cell("mini-imagenet", 5, shots) for shots in (1, 5))
    photographs = (*end_to_end, *(_pretrained_cell(shots) for shots in (1, 5)))
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
        "2": Table(
            "2",
            "few-shot accuracy on mini-ImageNet, in per cent",
            100.0,
            2,
            photographs,
            (
                "pre-trained: the embedding, a smaller one than the paper's, is trained once, to classify the training "
                "classes, and not any further. transfer is this training, and its seconds; the other agents read the "
                "same embedding, and theirs are in addition. The papers' agents train their embeddings on episodes.",
            ),
            shares=False,
        ),
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
                "The full training for N=100 and more knows the prior: agents learn from one step of lookahead in the "
                "pulls and successes of each arm (`--algorithm lookahead`), by Bayes' rule. These counts are not shown "
                "to the agents, in training or testing.",
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
                "The full training knows the prior: agents learn from values of all actions that follow from what was "
                "seen, by Bayes' rule, planning and a network (`--algorithm lookahead`). None of this is shown to the "
                "agents, in training or testing.",
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
    }

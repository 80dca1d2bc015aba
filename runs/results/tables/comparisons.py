"""Comparisons of our own: sequence models, score functions of attention, and ablations of SNAIL."""

from __future__ import annotations

from collections.abc import Mapping

from runs.agents import AGENTS, FEWSHOT_MEMORIES, MEMORIES
from runs.catalogue import CATALOGUE
from runs.results.tables.cells import Cell, Table
from snail.attention.scores import SCORE_NAMES

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


def comparison_tables() -> dict[str, Table]:
    """Our own comparisons, by name."""
    return {
        "models": _models(),
        "attention": _comparison("attention", "six score functions for SNAIL's attention", _SCORE_ROWS),
        "ablation": _comparison("ablation", "SNAIL with one change, and its predecessors", _ABLATION_ROWS),
    }


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

"""A trial as text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from baselines.planning import value_iteration
from runs.algorithms.attention_maps import PlayedTrial
from runs.tasks import BanditTask, MDPTask, RecallTask, TrialTask

SHOWN = 40
"""Maximum number of steps to print."""


def describe_trial(task: TrialTask, trial: PlayedTrial) -> str:
    """Actions and rewards, by step, episode or query, and the total reward."""
    if isinstance(task, BanditTask):
        parts = [_steps(trial, "pull", "arm"), _arms(trial)]
        best = f"; always the best arm: {len(trial.rewards) * trial.task.max():.2f} expected"
    elif isinstance(task, MDPTask):
        optimal = float(optimal_values(task, trial)[0, 0].max())
        parts = [_episodes(trial)]
        best = f"; an optimal policy: {task.episodes * optimal:.2f} expected, {optimal:.2f} an episode"
    elif isinstance(task, RecallTask):
        parts, best = [_queries(task, trial)], f" of {task.queries}"
    else:
        parts, best = [_episodes(trial)], ""
    return "\n\n".join([*parts, f"total reward {trial.rewards.sum():.2f}{best}"])


def optimal_values(task: MDPTask, trial: PlayedTrial) -> Tensor:
    """Optimal values of all actions in the trial's MDP: (H, S, A), by step of an episode."""
    mdp = trial.task[None]
    return value_iteration(mdp[..., :-1], mdp[..., -1], task.episode_length)[0]


def posterior_means(task: BanditTask, trial: PlayedTrial) -> Tensor:
    """Posterior means of all arms before each pull and after the last, under a uniform prior: (T + 1, K)."""
    pulled = F.one_hot(trial.actions, task.arms).float()  # (T, K)
    none = torch.zeros(1, task.arms)
    pulls = torch.cat([none, pulled.cumsum(0)])
    wins = torch.cat([none, (pulled * trial.rewards[:, None]).cumsum(0)])
    return (wins + 1) / (pulls + 2)


def seen(task: RecallTask, trial: PlayedTrial) -> list[str]:
    """What was seen at each step: ``k3`` is a key, ``k3?`` a query for it, and a number alone a value."""
    queried = (trial.task[:, 1] >= 0).tolist()
    names = ["", *(f"k{i}" for i in range(task.keys)), *map(str, range(task.values))]
    return [names[int(o)] + "?" * q for o, q in zip(trial.observations, queried, strict=True)]


def _queries(task: RecallTask, trial: PlayedTrial) -> str:
    """Each query with the step at which its key's value was shown, that value, and the answer."""
    names, rows = seen(task, trial), []
    for t in (trial.task[:, 1] >= 0).nonzero()[:, 0].tolist():
        key = names[t].removesuffix("?")
        rows.append((t + 1, key, names.index(key) + 2, int(trial.task[t, 1]), int(trial.actions[t])))
    return _first_rows(rows, ["step", "key", "value shown at", "value", "answer"])


def _steps(trial: PlayedTrial, step: str, action: str) -> str:
    rows = [(t + 1, int(a), f"{r:g}") for t, (a, r) in enumerate(zip(trial.actions, trial.rewards, strict=True))]
    return _first_rows(rows, [step, action, "reward"])


def _arms(trial: PlayedTrial) -> str:
    rows = []
    for k, chance in enumerate(trial.task.tolist()):
        own = trial.rewards[trial.actions == k]
        rows.append((k, f"{chance:.2f}", len(own), int(own.sum()), f"{(own.sum() + 1) / (len(own) + 2):.2f}"))
    return tabulate(rows, ["arm", "chance", "pulls", "successes", "posterior mean"], "simple", disable_numparse=True)


def _episodes(trial: PlayedTrial) -> str:
    ends = (trial.ended.nonzero()[:, 0] + 1).tolist()
    rows, start = [], 0
    for e, end in enumerate(ends, 1):
        rows.append((e, end - start, f"{trial.rewards[start:end].sum():.2f}"))
        start = end
    return _first_rows(rows, ["episode", "steps", "reward"])


def _first_rows(rows: Sequence[tuple[object, ...]], heads: list[str]) -> str:
    drawn = tabulate(rows[:SHOWN], heads, "simple", disable_numparse=True)
    return drawn + (f"\n... {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")

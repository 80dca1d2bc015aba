"""Figures of a trial. matplotlib is an extra."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from runs.algorithms.attention_maps import PlayedTrial
from runs.results.folder import writing
from runs.results.trial_text import optimal_values, posterior_means, seen
from runs.system.errors import RunError
from runs.tasks import BanditTask, MDPTask, RecallTask, TrialTask
from snail.actions import ActionHead, Categorical

HIT, MISS = "#009E73", "#D55E00"


def draw_trial(task: TrialTask, trial: PlayedTrial, head: ActionHead, title: str, path: Path) -> Path:
    """Draw a trial into a PNG: actions, rewards, policy, and the attention of each layer.

    Raises:
        RunError: if matplotlib is not installed or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as e:
        raise RunError("matplotlib is not installed; run: pip install 'snail-suite[plot]'") from e
    drawn: list[tuple[Any, float]] = []  # function and height of each panel
    if isinstance(task, BanditTask):
        drawn.append((lambda axes: _bandit(axes, task, trial), 0.6 + 0.25 * task.arms))
    elif isinstance(task, MDPTask):
        drawn.append((lambda axes: _mdp(axes, task, trial), 2.0))
    elif isinstance(task, RecallTask):
        drawn.append((lambda axes: _recall(axes, task, trial), 0.5))
    else:
        drawn.append((lambda axes: _returns(axes, trial), 2.0))
    if isinstance(head, Categorical):
        drawn.append((lambda axes: _policy(axes, trial), 0.6 + 0.25 * trial.parameters.shape[1]))
    else:
        drawn.append((lambda axes: _numbers(axes, trial), 2.0))
    for n, weights in enumerate(trial.layers, 1):
        drawn.append((lambda axes, n=n, weights=weights: _attention(axes, n, weights), 3.0))
    figure = Figure(figsize=(8, 0.6 + sum(0.5 + height for _, height in drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False, height_ratios=[h for _, h in drawn])[:, 0]
    for axes, (draw, _) in zip(panels, drawn, strict=True):
        draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for end in trial.ended.nonzero()[:-1, 0].tolist() if trial.ended.float().mean() < 0.5 else ():
            axes.axvline(end + 1.5, color="0.6", linewidth=0.6, linestyle=":")
    panels[-1].set(xlabel="step", xlim=(0.5, len(trial.rewards) + 0.5))
    figure.suptitle("\n".join(wrap(f"{title}: one trial, total reward {trial.rewards.sum():.2f}", 90)), fontsize=10)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"cannot write {path.parent}: {e.strerror}") from e
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def _steps(trial: PlayedTrial) -> list[int]:
    return list(range(1, len(trial.rewards) + 1))


def _image(axes: Any, values: Any, label: str, limit: float = 1.0, cmap: str = "Blues", first: int = 0) -> None:
    """Values (rows, T) under the steps; rows are numbered from ``first``."""
    rows, T = values.shape
    extent = (0.5, T + 0.5, first + rows - 0.5, first - 0.5)
    image = axes.imshow(values, cmap=cmap, vmin=0, vmax=limit, aspect="auto", interpolation="nearest", extent=extent)
    axes.figure.colorbar(image, ax=axes, label=label)


def _bandit(axes: Any, task: BanditTask, trial: PlayedTrial) -> None:
    """Arms by pulls: posterior mean of each arm before each pull, the pulled arm, and its reward."""
    _image(axes, posterior_means(task, trial)[:-1].T.numpy(), "posterior mean")
    for paid, colour in ((trial.rewards > 0, HIT), (trial.rewards <= 0, MISS)):
        steps = paid.nonzero()[:, 0]
        label = "pulled: it paid" if colour == HIT else "pulled: nothing"
        axes.scatter(steps + 1, trial.actions[steps], color=colour, edgecolor="white", linewidth=0.5, s=26, label=label)
    axes.set_yticks(range(task.arms), [f"{k}: chance {c:.2f}" for k, c in enumerate(trial.task.tolist())], fontsize=8)
    axes.set_ylabel("arm")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)


def _mdp(axes: Any, task: MDPTask, trial: PlayedTrial) -> None:
    """Return of each episode beside an optimal policy's, and its fraction of optimal actions."""
    values = optimal_values(task, trial)  # (H, S, A)
    H, steps = task.episode_length, torch.arange(len(trial.rewards))
    best = values[steps % H, trial.observations].argmax(-1) == trial.actions
    earned, right = trial.rewards.view(-1, H).sum(1).numpy(), best.float().view(-1, H).mean(1).numpy()
    middles = [H * e + (H + 1) / 2 for e in range(len(earned))]
    axes.bar(middles, earned, width=0.8 * H, color="#56B4E9", label="reward")
    axes.axhline(
        float(values[0, 0].max()), color="0.4", linestyle="--", linewidth=1, label="an optimal policy, expected"
    )
    axes.set_ylabel("reward of an episode")
    share = axes.twinx()
    share.plot(middles, right, "o-", color=MISS, markersize=4, label="optimal actions")
    share.set(ylim=(0, 1.05), ylabel="fraction optimal")
    lines = [found for a in (axes, share) for found in zip(*a.get_legend_handles_labels(), strict=True)]
    axes.legend(*zip(*lines, strict=True), loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)


def _recall(axes: Any, task: RecallTask, trial: PlayedTrial) -> None:
    """Keys and values as they were seen; a query is green if the answer was right."""
    for t, name in enumerate(seen(task, trial)):
        right = HIT if trial.rewards[t] > 0 else MISS
        colour = right if "?" in name else "black"
        axes.text(t + 1, 0, name, color=colour, rotation=90, ha="center", va="center", fontsize=8)
    axes.set(ylim=(-1, 1), yticks=(), ylabel="seen")


def _returns(axes: Any, trial: PlayedTrial) -> None:
    """Cumulative reward of each episode."""
    start = 0
    for e, end in enumerate((trial.ended.nonzero()[:, 0] + 1).tolist(), 1):
        total = trial.rewards[start:end].cumsum(0)
        axes.plot(range(start + 1, end + 1), total, label=f"episode {e}: {total[-1]:.1f}")
        start = end
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.set_ylabel("reward so far")
    axes.legend(frameon=False, fontsize=8)


def _policy(axes: Any, trial: PlayedTrial) -> None:
    """Probabilities of all actions, and those taken."""
    _image(axes, trial.parameters.softmax(-1).T.numpy(), "probability", cmap="Purples")
    axes.plot(_steps(trial), trial.actions, ".", color="black", markersize=3)
    axes.set_ylabel("action")
    axes.set_yticks(range(trial.parameters.shape[1]))


def _numbers(axes: Any, trial: PlayedTrial) -> None:
    """Means of continuous actions."""
    for d, mean in enumerate(trial.parameters.chunk(2, dim=-1)[0].T):
        axes.plot(_steps(trial), mean, linewidth=0.8, label=str(d))
    axes.set_ylabel("means of actions")
    axes.legend(ncols=8, frameon=False, fontsize=7)


def _attention(axes: Any, n: int, weights: Any) -> None:
    """Attention of steps (columns) to earlier ones (rows), averaged over heads."""
    seen = weights.mean(0).T.masked_fill(torch.ones(weights.shape[1:], dtype=torch.bool).tril(-1), float("nan"))
    limit = float(seen[~seen.isnan()].quantile(0.99))  # otherwise one large weight would leave the others white
    _image(axes, seen.numpy(), "weight", limit, first=1)
    axes.set_ylabel(f"attention layer {n}:\nattended step")

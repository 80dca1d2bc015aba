"""Draws attention maps: PNGs, and a page with all of them. matplotlib is an extra."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeGuard

import torch
from torch import Tensor

from runs.algorithms.attention_maps import AttentionMaps, EpisodeAttention, PlayedTrial
from runs.catalogue import RunConfig
from runs.results.folder import writing
from runs.system.errors import RunError

Picture = tuple[str, str, Any]
"""File name, caption and figure."""


def title(config: RunConfig) -> str:
    """The title of a run's pictures."""
    return f"{config.experiment} {config.agent}, {config.budget} budget, seed {config.seed}"


def attends(maps: AttentionMaps | None) -> TypeGuard[AttentionMaps]:
    """Whether there is anything to draw."""
    return maps is not None and bool(maps.layers or (isinstance(maps, EpisodeAttention) and maps.glimpses))


def draw(maps: AttentionMaps | None, title: str, folder: Path) -> list[Path]:
    """Draw into the folder: a PNG for each attention layer, and ``attention.html`` with all of them.

    Returns:
        The files, the page last.

    Raises:
        RunError: if the model has no attention, matplotlib is not installed or the folder cannot be written.
    """
    if not attends(maps):
        raise RunError(f"{title}: this model has no attention; try a run of snail or transformer")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise RunError("matplotlib is not installed; run: pip install 'snail-suite[plot]'") from e
    pictures = _episode(maps) if isinstance(maps, EpisodeAttention) else _trial(maps)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"cannot write {folder}: {e.strerror}") from e
    paths, sections = [], []
    for name, about, figure in pictures:
        at_most = int(14 * figure.get_figwidth())  # characters per line at this size
        figure.suptitle("\n".join(line for text in (title, about) for line in wrap(text, at_most)), fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        with writing(folder / f"{name}.png") as file:
            file.write(buffer.getvalue())
        paths.append(folder / f"{name}.png")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        sections.append(
            f'<h2>{html.escape(name)}</h2><p>{html.escape(about)}</p><img alt="{html.escape(about)}" '
            f'src="data:image/png;base64,{encoded}">'
        )
    page = folder / "attention.html"
    with writing(page) as file:
        file.write(_PAGE.format(title=html.escape(title), body="\n".join(sections)).encode())
    return [*paths, page]


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: attention</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }}</style></head>
<body><h1>{title}</h1>
<p>Darker means more weight; white is 0. Weights are averaged over heads.</p>
{body}
</body></html>
"""


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _image(axes: Any, x: Tensor) -> None:
    """Show an image (C, height, width) uint8, in colour if it has three channels."""
    axes.imshow((x[0] if len(x) == 1 else x.permute(1, 2, 0)).numpy(), cmap="gray_r", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])


def _episode(maps: EpisodeAttention) -> list[Picture]:
    S, Q = len(maps.support), len(maps.query)
    pictures: list[Picture] = []
    for n, weights in enumerate(maps.layers, 1):
        shares = weights.mean(0)  # (Q, S)
        figure = _figure(1.6 + 0.55 * S, 1.6 + 0.55 * Q)
        grid = figure.add_gridspec(Q + 1, S + 1)
        for s in range(S):
            axes = figure.add_subplot(grid[0, s + 1])
            _image(axes, maps.support[s])
            axes.set_title(f"{int(maps.support_y[s])}", fontsize=9)
        for q in range(Q):
            axes = figure.add_subplot(grid[q + 1, 0])
            _image(axes, maps.query[q])
            right = maps.predicted[q] == maps.query_y[q]
            said = f"{int(maps.query_y[q])}" if right else f"{int(maps.query_y[q])}, said {int(maps.predicted[q])}"
            axes.set_ylabel(
                said, fontsize=9, color="black" if right else "#D55E00", rotation=0, ha="right", va="center"
            )
        axes = figure.add_subplot(grid[1:, 1:])
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=max(1e-6, float(shares.max())), aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
        for q in range(Q):
            for s in range(S):
                if shares[q, s] >= 0.1:
                    colour = "white" if shares[q, s] > 0.6 * shares.max() else "black"
                    axes.text(s, q, f"{shares[q, s]:.1f}", ha="center", va="center", fontsize=8, color=colour)
        about = f"attention layer {n}: weights of each query (left) on the support (top); numbers are classes"
        pictures.append((f"layer-{n}", about, figure))
    if maps.glimpses:
        pictures.append(_glimpses(maps))
    return pictures


def _glimpses(maps: EpisodeAttention) -> Picture:
    """The images of the queries, overlaid with the weights of each glimpse."""
    S, Q, G = len(maps.support), len(maps.query), len(maps.glimpses)
    figure = _figure(1.2 * (G + 1), 0.6 + 1.2 * Q)
    grid = figure.subplots(Q, G + 1, squeeze=False)
    for q in range(Q):
        _image(grid[q][0], maps.query[q])
        size = maps.query.shape[-1]
        for g, weights in enumerate(maps.glimpses, 1):
            _image(grid[q][g], maps.query[q])
            grid[q][g].imshow(
                weights[S + q].numpy(), cmap="Reds", alpha=0.6, extent=(-0.5, size - 0.5, size - 0.5, -0.5), vmin=0
            )
    for g in range(G):
        grid[0][g + 1].set_title(f"glimpse {g + 1}", fontsize=9)
    return "glimpses", "weights of each glimpse, over the queries", figure


def _trial(maps: PlayedTrial) -> list[Picture]:
    from matplotlib.ticker import MaxNLocator

    T = len(maps.actions)
    pictures: list[Picture] = []
    for n, weights in enumerate(maps.layers, 1):
        figure = _figure(7.5, 8.5)
        top, main = figure.subplots(2, 1, sharex=True, height_ratios=[1, 4])
        # the input at step s has the outcome of the action at s - 1
        told = range(1, T)
        actions = maps.actions[:-1].reshape(T - 1, -1)  # (T - 1, D)
        points = top.scatter(
            [t for t in told for _ in range(actions.shape[1])],
            actions.flatten().numpy(),
            c=maps.rewards[:-1].repeat_interleave(actions.shape[1]).numpy(),
            cmap="cividis",
            s=max(4, min(60, 4000 / T)),
            marker="s",
        )
        figure.colorbar(points, ax=top, label="reward")
        top.set_ylabel("last action")
        shares = weights.mean(0)  # (T, T)
        seen = shares.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("nan"))
        image = main.imshow(seen.numpy(), cmap="Blues", norm="linear", vmin=0, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=main, label="weight")
        for axis in (*([] if maps.actions.is_floating_point() else [top.yaxis]), main.xaxis, main.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        main.set_xlabel("step looked at")
        main.set_ylabel("step that looks")
        pictures.append((f"layer-{n}", f"attention layer {n}: weights of each step on past steps", figure))
    return pictures

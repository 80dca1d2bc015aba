"""Draws docs/figures/snail.svg, with the shapes that the model really has: python docs/figures/draw_snail.py."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path

from snail import SNAIL

T, ARMS = 10, 5
PATH = Path(__file__).with_name("snail.svg")
TC, ATTENTION, LINEAR = "#3b82f6", "#f97316", "#10b981"

# Lines and text take the page's colour, fills are see-through: it is readable on light and on dark pages.
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 800" role="img" aria-labelledby="snail-figure"
 font-family="system-ui, sans-serif" font-size="14" color="#1f2937" style="color: var(--md-default-fg-color, #1f2937)">
<title id="snail-figure">SNAIL's policy network for 10 pulls of a 5-armed bandit</title>
"""


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 14, weight: str = "normal") -> str:
    """Words with their baseline at y."""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="currentColor">{escape(words)}</text>\n'
    )


def box(x: float, y: float, width: float, height: float, colour: str, opacity: float = 0.22) -> str:
    """A box in a see-through colour."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{colour}" '
        f'fill-opacity="{opacity:g}" stroke="{colour}" stroke-width="1.5"/>\n'
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "currentColor", width: float = 1.5) -> str:
    """A straight line."""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-linecap="round"/>\n'
    )


def arrow(x1: float, x2: float, y: float) -> str:
    """An arrow to the right."""
    return line(x1, y, x2, y) + line(x2 - 6, y - 4, x2, y) + line(x2 - 6, y + 4, x2, y)


def network(model: SNAIL) -> str:
    """The row of blocks, what flows between them, and how the channels grow."""
    first, second, attention = model.blocks
    widths = [first.input_size, first.output_size, second.output_size, attention.output_size]
    names = [
        ("linear", "stem", LINEAR),
        ("TC block", "32 filters", TC),
        ("TC block", "32 filters", TC),
        ("attention", "K = 32, V = 32", ATTENTION),
        ("linear", "read-out", LINEAR),
    ]
    channels = [model.input_size, *widths, model.output_size]
    drawn = text(20, 30, f"The network: every step of all {T} at once, (B, T, C)", "start", 16, "bold")
    for i, (name, detail, colour) in enumerate(names):
        x = 104 + 166 * i
        drawn += (
            box(x, 62, 112, 52, colour) + text(x + 56, 85, name, weight="bold") + text(x + 56, 104, detail, size=12)
        )
    for i, width in enumerate(channels):
        left, right = (20 if i == 0 else 50 + 166 * i), (104 + 166 * i if i < 5 else 980)
        drawn += text((left + right) / 2, 52, f"(B, {T}, {width})", size=13) + arrow(left + 5, right - 5, 88)
    drawn += text(62, 132, "last action and", size=12) + text(62, 147, "what came of it", size=12)
    drawn += text(925, 132, f"{ARMS} logits and", size=12) + text(925, 147, f"{ARMS} predicted rewards", size=12)

    drawn += text(20, 192, "Blocks add channels and keep the ones before:", "start", size=13)
    grown = [widths[0], *(b - a for a, b in pairwise(widths))]
    labels = ["stem", "first TC block", "second TC block", "read"]
    x, scale = 372.0, 1.88
    for count, label, colour in zip(grown, labels, [LINEAR, TC, TC, ATTENTION], strict=True):
        drawn += box(x, 174, count * scale, 26, colour) + text(x + count * scale / 2, 192, f"{count}", weight="bold")
        drawn += text(x + count * scale / 2, 217, label, size=12)
        x += count * scale
    return drawn


def tc_block(dilations: list[int]) -> str:
    """What one output of a TC block can see, through which layers."""
    left, top, dx, dy = 118.0, 292.0, 34.0, 62.0
    bottom = top + dy * len(dilations)

    def at(step: int, layer: int) -> tuple[float, float]:
        return left + dx * step, bottom - dy * layer

    drawn = text(20, 262, f"A TC block: {len(dilations)} dense blocks, each looking further", "start", 16, "bold")
    seen = {T - 1}  # of the last step's output, from the top down
    lit: list[set[int]] = [seen]
    for d in reversed(dilations):
        seen = seen | {t - d for t in seen if t >= d}
        lit.insert(0, seen)
    for layer, d in enumerate(dilations):
        for step in range(T):
            for past in (step, step - d):
                if past >= 0:
                    bright = step in lit[layer + 1]
                    drawn += line(
                        *at(past, layer), *at(step, layer + 1), TC if bright else "currentColor", 2 if bright else 0.25
                    )
        drawn += text(20, bottom - dy * (layer + 0.5) + 5, f"dilation {d}", "start", size=13)
    for layer in range(len(dilations) + 1):
        for step in range(T):
            x, y = at(step, layer)
            fill = TC if step in lit[layer] else "currentColor"
            opacity = 1 if step in lit[layer] else 0.35
            drawn += f'<circle cx="{x:g}" cy="{y:g}" r="5.5" fill="{fill}" fill-opacity="{opacity:g}"/>\n'
    drawn += text(left, bottom + 24, "step 1", size=12) + text(left + dx * (T - 1), bottom + 24, f"step {T}", size=12)
    drawn += text(20, bottom + 50, f"Step {T} sees all {T} steps through {len(dilations)} layers;", "start", size=13)
    drawn += text(20, bottom + 68, "nothing ever points back from a later step.", "start", size=13)
    return drawn


def dense_block(filters: int) -> str:
    """What one layer of a TC block does."""
    y = 722.0
    drawn = text(20, 668, "A dense block: a gated causal convolution, beside its input", "start", 16, "bold")
    drawn += text(70, y - 14, "(B, T, C)", size=13) + line(25, y, 130, y)
    for dy, name, gate in ((-22, "conv f, kernel 2", "tanh"), (22, "conv g, kernel 2", "sigmoid")):
        drawn += line(130, y, 130, y + dy) + arrow(130, 165, y + dy)
        drawn += box(165, y + dy - 16, 140, 32, TC) + text(235, y + dy + 5, name)
        drawn += arrow(305, 335, y + dy) + box(335, y + dy - 16, 80, 32, TC) + text(375, y + dy + 5, gate)
        drawn += line(415, y + dy, 440, y + dy) + line(440, y + dy, 440, y)
    drawn += arrow(440, 468, y) + box(468, y - 16, 34, 32, TC) + text(485, y + 5, "\u00d7", weight="bold")
    drawn += text(565, y - 14, f"(B, T, {filters})", size=13) + arrow(502, 630, y)
    drawn += box(630, y - 16, 110, 32, TC) + text(685, y + 5, "concatenate")
    drawn += line(130, y + 22, 130, y + 56) + line(130, y + 56, 685, y + 56) + line(685, y + 56, 685, y + 16)
    drawn += line(680, y + 23, 685, y + 16) + line(690, y + 23, 685, y + 16)
    drawn += text(407, y + 73, "the input itself", size=12)
    return drawn + arrow(740, 880, y) + text(810, y - 14, f"(B, T, C + {filters})", size=13)


def attention() -> str:
    """Which steps each step may read."""
    left, top, cell = 680.0, 306.0, 23.0
    drawn = text(540, 262, "Attention: every step reads itself and its past", "start", 16, "bold")
    for row in range(T):
        for column in range(T):
            x, y = left + cell * column, top + cell * row
            seen = column <= row
            drawn += (
                f'<rect x="{x:g}" y="{y:g}" width="{cell - 2:g}" height="{cell - 2:g}" rx="3" fill="{ATTENTION}" '
                f'fill-opacity="{0.75 if seen else 0}" stroke="currentColor" stroke-opacity="{0 if seen else 0.35}"/>\n'
            )
    middle = left + cell * T / 2
    drawn += text(middle, top - 12, "key and value: the step that is read", size=13)
    drawn += text(left - 12, top + 17, "step 1", "end", size=12)
    drawn += text(left - 12, top + cell * T / 2 - 4, "query: the step", "end", size=13)
    drawn += text(left - 12, top + cell * T / 2 + 14, "that reads", "end", size=13)
    drawn += text(left - 12, top + cell * T - 8, f"step {T}", "end", size=12)
    drawn += text(left + cell * T + 12, top + 40, "later steps:", "start", size=13)
    drawn += text(left + cell * T + 12, top + 58, "exactly 0", "start", size=13)
    below = top + cell * T + 24
    drawn += text(540, below, "Queries, keys and values are (B, T, 32) each.", "start", size=13)
    drawn += text(
        540, below + 20, "Weights (B, T, T): softmax of q · k / √32 over a row's coloured cells;", "start", size=13
    )
    drawn += text(540, below + 40, "what they read, (B, T, 32), is added as channels.", "start", size=13)
    return drawn


def draw() -> str:
    """The whole figure as SVG."""
    model = SNAIL.policy(ARMS + 2, 2 * ARMS, T)
    dilations = [conv.dilation for conv in model.blocks[0].convs]
    return HEAD + network(model) + tc_block(dilations) + attention() + dense_block(32) + "</svg>\n"


if __name__ == "__main__":
    PATH.write_text(draw(), encoding="utf-8")

"""The report's pictures, drawn by matplotlib as SVG. Colours come from the page, for its light and dark themes."""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

# matplotlib draws with these colours; `_svg` replaces each by a CSS variable of the page.
INK, MUTED, LINE, SLOW, FAST, OTHER = "#000001", "#000002", "#000003", "#000004", "#000005", "#000006"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", SLOW: "--slow", FAST: "--fast", OTHER: "--other"}
WIDTH, HEIGHT = 5.2, 3.2  # inches
CHARACTER, LINE_HEIGHT, GAP = 6.2, 12.0, 9.0  # of a label, in points: its letters' mean width, and from its place
Model = dict[str, Any]  # an entry of report.json


def _axes(x_label: str, y_label: str, height: float = HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=MUTED)
    axes.set_ylabel(y_label, color=MUTED)
    axes.tick_params(colors=MUTED, length=3)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    return figure, axes


def _svg(figure: Any, name: str, label: str) -> str:
    """The figure as one <svg> element: text as text, ids that begin with `name`, colours as CSS variables."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg", f'<svg class="figure {name}" role="img" aria-label="{escape(label)}"', 1)


def token_histogram(name: str, groups: Sequence[tuple[str, npt.NDArray[np.int64]]]) -> str:
    """Histogram of tokens for two groups, before and after (at least one value in each), over the same bins."""
    bins = np.histogram_bin_edges(np.concatenate([group for _, group in groups]), bins=36)
    figure, axes = _axes("tokens", "texts")
    for (label, values), colour in zip(groups, (SLOW, FAST), strict=True):
        axes.hist(values, bins=bins, color=colour, alpha=0.75, label=f"{label}, median {np.median(values):,.0f}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2)
    return _svg(figure, name, f"Tokens: {' and '.join(label for label, _ in groups)}")


def _place(model: Model) -> tuple[float, float]:
    return model["mean_tokens"], 100 * model["accuracy"]


def label_offsets(
    places: Sequence[tuple[float, float]], labels: Sequence[str], width: float
) -> list[tuple[float, float]]:
    """From each place, in points, to the middle of the left edge of its label, so that no label lies on another one.

    The nearest free spot is taken, to the right first where there is room for it; the last spot where none is free.
    """
    taken: list[tuple[float, float, float]] = []  # left, right and middle height of the labels so far
    offsets = []
    for (x, y), label in zip(places, labels, strict=True):
        length = CHARACTER * len(label)
        sides = sorted((GAP, -GAP - length), key=lambda dx: not 0 <= x + dx <= width - length)
        spots = [
            (dx, dy)
            for row in range(len(places) + 1)
            for dx in sides
            for dy in (-GAP - row * LINE_HEIGHT, GAP + row * LINE_HEIGHT)
        ]
        spots = [(dx, dy) for dx, dy in spots if y + dy > 0] or spots
        offset = next((spot for spot in spots if _is_free(x + spot[0], y + spot[1], length, taken)), spots[-1])
        taken.append((x + offset[0], x + offset[0] + length, y + offset[1]))
        offsets.append(offset)
    return offsets


def _is_free(left: float, middle: float, length: float, taken: list[tuple[float, float, float]]) -> bool:
    return all(
        left + length < other_left or left > other_right or abs(middle - other_middle) >= LINE_HEIGHT
        for other_left, other_right, other_middle in taken
    )


def accuracy_scatter(
    models: Sequence[Model], front: Sequence[Model], baseline: str, student: str | None, name: str = "accuracy"
) -> str:
    """Accuracy (0..1, with its interval) against mean tokens of at least one model; the line joins the Pareto front."""
    figure, axes = _axes("mean tokens of an answer", "accuracy, %")
    longest = max(m["mean_tokens"] for m in models)

    # The front, drawn up to the right edge.
    best = [(m["mean_tokens"], 100 * m["accuracy"]) for m in front]
    axes.step(
        [t for t, _ in best] + [1.12 * longest + 1],
        [a for _, a in best] + [best[-1][1]],
        where="post",
        color=MUTED,
        linewidth=1,
        linestyle=(0, (4, 3)),
    )

    for model in models:
        label, (tokens, accuracy) = model["name"], _place(model)
        colour = SLOW if label == baseline else FAST if label == student else OTHER
        if model.get("accuracy_interval"):
            low, high = (100 * bound for bound in model["accuracy_interval"])
            axes.vlines(tokens, low, high, color=colour, linewidth=2, zorder=3)
        axes.scatter([tokens], [accuracy], color=colour, s=60, zorder=4)

    # Labels where there is room, in points of the figure.
    axes.set_ylim(-5, 105)
    axes.set_xlim(0, 1.12 * longest + 1)
    width, height = (72 * inches for inches in (WIDTH, HEIGHT))
    places = [(width * t / (1.12 * longest + 1), height * (a + 5) / 110) for t, a in map(_place, models)]
    for model, offset in zip(models, label_offsets(places, [m["name"] for m in models], width), strict=True):
        axes.annotate(model["name"], _place(model), xytext=offset, textcoords="offset points", va="center", color=INK)
    return _svg(figure, name, "Accuracy against mean tokens")


def loss_curve(trained: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]) -> str:
    """Loss by optimiser step, a mean over learnt tokens: in training (at least one step) and on held-out sequences."""
    figure, axes = _axes("optimiser step", "loss")
    axes.plot(*zip(*trained, strict=True), color=FAST, linewidth=1.4, label="trained on")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=SLOW, linewidth=1.4, marker="o", markersize=4, label="held out")
        axes.legend(frameon=False, labelcolor=INK)
    losses = [loss for _, loss in [*trained, *held_out]]
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_yscale("log")
    return _svg(figure, "loss", "Training loss by step")


def reject_bars(rejects: Sequence[tuple[str, int]]) -> str:
    """Numbers of rejected rows by "stage: reason" (at least one), the largest first."""
    ordered = sorted(rejects, key=lambda entry: entry[1])
    figure, axes = _axes("rows", "", height=0.9 + 0.32 * len(ordered))
    axes.xaxis.get_major_locator().set_params(integer=True)
    bars = axes.barh([name for name, _ in ordered], [count for _, count in ordered], color=SLOW, height=0.6)
    axes.bar_label(bars, labels=[f"{count:,}" for _, count in ordered], padding=4, color=INK)
    axes.grid(visible=False)
    axes.margins(x=0.15)
    return _svg(figure, "rejects", "Rejected rows by stage and reason")

"""The report's pictures, drawn by matplotlib as SVG that takes its colours from the page, in light and in dark."""

import io
import re
from collections.abc import Sequence
from typing import Any

# Stand-ins that matplotlib draws with -> the page's CSS variables.
INK, MUTED, LINE, SLOW, FAST, OTHER = "#000001", "#000002", "#000003", "#000004", "#000005", "#000006"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", SLOW: "--slow", FAST: "--fast", OTHER: "--other"}
WIDTH, HEIGHT = 5.2, 3.2  # inches


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
    """The figure as one <svg> element: text as text, ids of its own, colours as CSS variables."""
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
    return text.replace("<svg", f'<svg class="figure {name}" role="img" aria-label="{label}"', 1)


def token_histogram(slow: Sequence[int], rewritten: Sequence[int]) -> str:
    """Lengths in tokens of the slow reasoning and of its rewrites (at least one each), over the same bins."""
    import numpy as np

    bins = np.histogram_bin_edges([*slow, *rewritten], bins=36)
    figure, axes = _axes("tokens", "responses")
    for values, colour, name in ((slow, SLOW, "slow"), (rewritten, FAST, "rewritten")):
        axes.hist(values, bins=bins, color=colour, alpha=0.75, label=f"{name}, median {np.median(values):,.0f}")
    axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, "tokens", "Tokens of slow and rewritten reasoning")


def accuracy_scatter(models: Sequence[tuple[str, float, float]], baseline: str, student: str | None) -> str:
    """Points (name, mean tokens, accuracy 0..1), at least one; better is up and to the left."""
    figure, axes = _axes("mean tokens of an answer", "accuracy, %")
    for name, tokens, accuracy in models:
        colour = SLOW if name == baseline else FAST if name == student else OTHER
        axes.scatter([tokens], [100 * accuracy], color=colour, s=60, zorder=3)
        right = tokens < 0.7 * max(t for _, t, _ in models)
        side: dict[str, Any] = {"ha": "left" if right else "right", "xytext": (9 if right else -9, 0)}
        axes.annotate(name, (tokens, 100 * accuracy), textcoords="offset points", va="center", color=INK, **side)
    axes.set_ylim(-5, 105)
    axes.set_xlim(0, 1.12 * max(t for _, t, _ in models) + 1)
    return _svg(figure, "accuracy", "Accuracy against mean tokens")


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> str:
    """Training loss, a mean over the learnt tokens, by optimiser step (at least one)."""
    figure, axes = _axes("optimiser step", "loss")
    axes.plot(steps, losses, color=FAST, linewidth=1.4)
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_yscale("log")
    return _svg(figure, "loss", "Training loss by step")


def reject_bars(rejects: Sequence[tuple[str, int]]) -> str:
    """Rejected rows by "stage: reason", at least one, the most first."""
    ordered = sorted(rejects, key=lambda entry: entry[1])
    figure, axes = _axes("rows", "", height=0.9 + 0.32 * len(ordered))
    bars = axes.barh([name for name, _ in ordered], [count for _, count in ordered], color=SLOW, height=0.6)
    axes.bar_label(bars, labels=[f"{count:,}" for _, count in ordered], padding=4, color=INK)
    axes.grid(visible=False)
    axes.margins(x=0.15)
    return _svg(figure, "rejects", "Rejected rows by stage and reason")

"""Figures as SVG text: the lengths of the paths found, and how these paths use each layer.

The background is transparent and text takes the colour of the surrounding page, so that figures
read well on light and dark pages, and stand alone in black when saved.
"""

import io
import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from cola_jax.report.statistics import LayerUse
from cola_jax.report.summary import ALL, CORRECTED, RETAINED, Summary

# Okabe and Ito's blue and orange: distinct for all types of colour vision, on white and on black
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#808080"
COLOURS = {RETAINED: BLUE, CORRECTED: ORANGE}
INK = "#010203"  # placeholder for the colour of the page's text

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep text as text: it can be searched and takes the page's font
    "svg.hashsalt": "cola",  # deterministic output
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


def length_histogram(summary: Summary) -> str:
    """Draws histograms of the lengths of the best paths, and of all correct evaluations."""
    with style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        best, correct = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for axes in (best, correct):
            axes.axvline(summary.num_layers, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=0)
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
        draw_best(best, summary)
        lengths = summary.correct_lengths
        used = np.flatnonzero(lengths)
        correct.bar(used, lengths[used], width=0.86, color=GREY)
        correct.set(title="all correct evaluations", ylabel="evaluations")
        correct.set(xlabel="layers run", xlim=length_limits(summary))
        best.annotate(
            f"L = {summary.num_layers}",
            (summary.num_layers, 1),
            xytext=(4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
        )
        return as_svg(figure, "Histogram of path lengths")


def draw_best(axes: Any, summary: Summary) -> None:
    """Draws the lengths of the best paths, stacked by group."""
    bottom = np.zeros(1)
    for name, counts in summary.best_lengths.items():
        size = max(len(counts), len(bottom))
        counts, bottom = (np.pad(x, (0, size - len(x))) for x in (counts, bottom))
        label = f"{name} ({int(counts.sum()):,})"
        used = np.flatnonzero(counts)
        axes.bar(
            used, counts[used], bottom=bottom[used], width=0.86, color=COLOURS[name], label=label
        )
        bottom = bottom + counts
    axes.set(title="shortest correct path of each question", ylabel="questions")
    axes.legend(  # beside the title, where it cannot cover a bar
        loc="lower left",
        bbox_to_anchor=(0.31, 1),
        ncols=2,
        borderaxespad=0,
        frameon=False,
        handlelength=1,
        handleheight=1,
    )


def length_limits(summary: Summary) -> tuple[float, float]:
    """Returns axis limits that include every length and L."""
    used = [np.flatnonzero(x) for x in (*summary.best_lengths.values(), summary.correct_lengths)]
    lengths = np.concatenate([*used, [summary.num_layers]])
    return float(lengths.min()) - 1, float(lengths.max()) + 1


def layer_heatmap(summary: Summary) -> str:
    """Draws how often each layer is skipped and repeated, by group of paths."""
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.4, 3.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        uses = {name: summary.layers[name] for name in (RETAINED, CORRECTED, ALL)}
        draw_heatmap(upper, uses, "skipped", BLUE, percent=True)
        upper.set_title("share of paths that skip the layer")
        draw_heatmap(lower, uses, "repeats", ORANGE, percent=False)
        lower.set_title("extra runs of the layer, per path")
        lower.set_xlabel("layer")
        return as_svg(figure, "Skips and repeats by layer")


def draw_heatmap(
    axes: Any, uses: dict[str, LayerUse], field: str, colour: str, percent: bool
) -> None:
    """Draws one heatmap, a row per group and a column per layer."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    values = np.array([getattr(use, field) for use in uses.values()])
    # from transparent to the full colour, so that zero looks like the page, light or dark
    ramp = LinearSegmentedColormap.from_list(field, [to_rgba(colour, 0.0), to_rgba(colour, 1.0)])
    top = max(float(values.max()), 0.01)
    mesh = axes.pcolormesh(values, cmap=ramp, vmin=0, vmax=top, antialiased=False)
    rows, columns = values.shape
    axes.hlines(range(rows + 1), 0, columns, color=INK, lw=0.5, alpha=0.35)
    axes.vlines(range(columns + 1), 0, rows, color=INK, lw=0.5, alpha=0.12)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    step = -(-columns // 20)
    axes.set_xticks(np.arange(0, columns, step) + 0.5, np.arange(0, columns, step))
    axes.set_yticks(np.arange(rows) + 0.5, [row_label(*item) for item in uses.items()])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.015, aspect=9, fraction=0.03)
    bar.solids.set_antialiased(False)
    bar.outline.set(linewidth=0.5, alpha=0.5)
    bar.locator = MaxNLocator(4)
    if percent:
        bar.formatter = FuncFormatter(lambda value, _: f"{100 * value:g} %")
    bar.update_ticks()


def row_label(name: str, use: LayerUse) -> str:
    """Returns the label of a group, with its number of paths."""
    return f"{'all evaluated' if name == ALL else name} ({use.paths:,})"


def style() -> AbstractContextManager[None]:
    """Applies SETTINGS within a context; raises ValueError where matplotlib is not installed."""
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ValueError(
            "figures need matplotlib, which is not installed: pip install 'cola-jax[report]'"
        ) from error
    return rc_context(SETTINGS)


def as_svg(figure: Any, title: str) -> str:
    """Renders a figure as one <svg> element that can be embedded in a page beside others."""
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # ids must be unique in a page with two figures; nothing refers to these
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # applies to the whole page
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)

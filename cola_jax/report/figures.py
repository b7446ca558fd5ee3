"""Figures as SVG text: the depth of the paths found, and how these paths use each layer.

The background is transparent and text takes the colour of the surrounding page, so that figures
read well on light and dark pages, and stand alone in black when saved.
"""

import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from cola_jax.report.layers import ALL, CONTROLS, CORRECTED, RETAINED, LayerUse
from cola_jax.report.summary import Summary

# Okabe and Ito's: distinct for all types of colour vision, on white and on black
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#808080"
COLOURS = {RETAINED: BLUE, CORRECTED: ORANGE}
INK = "#010203"  # placeholder for the colour of the page's text

TITLES = {RETAINED: "right before: still right", CORRECTED: "wrong before: made right"}


class Map(NamedTuple):
    """A map of layers: what it shows, and how."""

    title: str
    values: Callable[[LayerUse], np.ndarray]  # of each layer, [L]
    colour: str
    percent: bool


MAPS = (
    Map("runs of the layer, per path", lambda use: use.runs, GREY, percent=False),
    Map("share of paths that skip the layer", lambda use: use.skipped, BLUE, percent=True),
    Map("extra runs of the layer, per path", lambda use: use.repeats, ORANGE, percent=False),
    Map("share of paths that move the layer", lambda use: use.moved, GREEN, percent=True),
)

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


def accuracy_by_depth(summary: Summary) -> str:
    """Draws the share of searches that reach their target on at most so many layers."""
    with style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        figure = Figure(figsize=(8.4, 2.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, (RETAINED, CORRECTED), strict=True):
            axes.axvline(summary.num_layers, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=0)
            for label, colour in ((name, COLOURS[name]), (CONTROLS[name], GREY)):
                reach = summary.reach[label]
                if reach.searches:
                    axes.step(
                        range(len(reach.share)),
                        reach.share,
                        where="post",
                        color=colour,
                        label=f"{label} ({reach.searches:,})",
                    )
            axes.set(title=TITLES[name], xlabel="layers allowed", ylim=(0, 1.02))
            axes.set(xlim=length_limits(summary))
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right", frameon=False, handlelength=1)
        return as_svg(figure, "Searches that reach their target, by depth")


def layer_heatmap(summary: Summary) -> str:
    """Draws how often each layer is run, skipped, repeated and moved, by group of paths."""
    with style():
        from matplotlib.figure import Figure

        uses = {name: use for name, use in summary.layers.items() if use.paths}
        # by repeats and skips together, a few paths move a layer where there are no moves
        maps = [one for one in MAPS if max(one.values(use).max() for use in uses.values()) > 0.01]
        height = 0.6 + len(maps) * (0.55 + 0.21 * len(uses))
        figure = Figure(figsize=(8.4, height), layout="constrained")
        panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
        for axes, one in zip(panels, maps, strict=True):
            draw_heatmap(axes, uses, one)
            axes.set_title(one.title)
        panels[-1].set_xlabel("layer")
        return as_svg(figure, "Runs, skips, repeats and moves by layer")


def draw_heatmap(axes: Any, uses: dict[str, LayerUse], one: Map) -> None:
    """Draws one heatmap, a row per group and a column per layer."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    values = np.array([one.values(use) for use in uses.values()])
    # from transparent to the full colour, so that zero looks like the page, light or dark
    ramp = LinearSegmentedColormap.from_list(
        one.title, [to_rgba(one.colour, 0.0), to_rgba(one.colour, 1.0)]
    )
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
    if one.percent:
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

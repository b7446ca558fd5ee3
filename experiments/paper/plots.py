"""Figures 2 to 7 of CoLa as plots, with controls; needs matplotlib (the extra `plots`)."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.errors import InputError
from cola_jax.files import write_whole
from cola_jax.runs.estimates import BEFORE, EXPECTED, FOUND
from cola_jax.runs.layer_use import (
    ALL,
    COLUMNS,
    CONTROLS,
    CORRECTED,
    RETAINED,
    depth_of,
    group_searches,
    layer_use,
    reaches,
)
from cola_jax.runs.search_results import SHORTENED
from cola_jax.storage import AnyPath, path_of
from experiments.paper.ceiling import PUBLISHED, TRAINED, Reached
from experiments.paper.figures import (
    SHORTEST,
    edited_layers,
    group_paths,
    shortest_depth,
    shortest_paths,
)
from experiments.paper.results import Result

OWN = "#1f5fa8"  # searches for the correct answer
CONTROL = "#d9822b"  # control searches
GREY = "#8a8f98"
OUTCOMES = {"stays the best": GREY, "C→C": OWN, "W→C": "#7fb3e6", "W→W": "#e4e6ea"}
SPACES = ("#1f5fa8", "#2f9e6e", "#b0448c", "#8a6d1d")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "cola",  # equal plots are equal files
    "legend.frameon": False,
}
MOST_PATHS = 200  # of a search of the paper
LABEL = 26  # characters of a search in a plot


class Plot(NamedTuple):
    """A plot: its file's name, title and caption, and the function that draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[Any, Any], None]  # takes the searches, or what `CEILING_PLOT` shows
    height: float = 3.2  # inches


def check_matplotlib() -> None:
    """Raise InputError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'cola-jax[plots]'.") from None


def write_plots(
    results: Sequence[Result], ceiling: Mapping[str, Reached], folder: AnyPath
) -> Iterator[Plot]:
    """Write an SVG of each figure that has something to show, and yield its facts."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    every = [(plot, results) for plot in PLOTS]
    for plot, shown in ((CEILING_PLOT, ceiling), *every):
        if shown:
            with rc_context(STYLE):
                figure = Figure(figsize=(8, plot.height), layout="constrained")
                plot.draw(figure, shown)
                content = io.BytesIO()
                figure.savefig(content, format="svg", metadata={"Date": None})
            write_whole(path_of(folder) / plot.name, content.getvalue())
            yield plot


def label_of(result: Result) -> str:
    """Name a search in a plot."""
    cell = result.cell
    parts = [cell.data.name, *([cell.preset] if cell.preset != "cola" else []), cell.space]
    if cell.second:
        parts.insert(0, result.model[:LABEL])
    return "\n".join(parts)


def bars(axes: Any, results: Sequence[Result]) -> np.ndarray:
    """Label one place on the x axis for each search; returns the places."""
    places = np.arange(len(results))
    axes.set_xticks(places, list(map(label_of, results)), rotation=60, ha="right", fontsize=7)
    return places


def draw_depths(figure: Any, results: Sequence[Result]) -> None:
    """Figure 2: layers, and distinct layers, of the shortest paths as shares of the model's."""
    axes = figure.subplots()
    places = bars(axes, results)
    for number, (group, colour) in enumerate(((RETAINED, OWN), (CORRECTED, "#7fb3e6"))):
        for name, shade, shift in ((group, colour, 0.0), (CONTROLS[group], CONTROL, 0.2)):
            depths = []
            for result in results:
                paths = group_searches(result.run.questions(COLUMNS))[name].drop_null()
                depth = depth_of(paths, result.num_layers)
                depths.append(np.array([depth.layers, depth.distinct]) / result.num_layers)
            layers, distinct = np.array(depths).T
            at = places + 0.4 * number - 0.3 + shift
            axes.bar(at, layers, 0.18, color=shade, label=name, alpha=1 - 0.35 * number)
            axes.plot(at, distinct, "_", color="black", markersize=7)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.5)
    axes.margins(y=0.2)
    axes.set_ylabel("layers run, of the model's")
    axes.legend(ncols=4, fontsize=7)


def draw_accuracy(figure: Any, results: Sequence[Result]) -> None:
    """Figure 3: the share of wrong questions reached on paths of at most so many layers."""
    by_data: dict[str, list[Result]] = {}
    for each in results:
        if not (each.cell.second or each.cell.data.level) and each.cell.preset == "cola":
            by_data.setdefault(each.cell.data.name, []).append(each)
    panels = figure.subplots(1, len(by_data), sharey=True, squeeze=False)[0]
    for axes, (name, members) in zip(panels, by_data.items(), strict=True):
        for each, colour in zip(members, SPACES, strict=False):
            every = reaches(group_searches(each.run.questions(COLUMNS)), each.num_layers)
            for group, style in ((CORRECTED, "-"), (CONTROLS[CORRECTED], ":")):
                reach = every[group]
                share = reach.hits / max(reach.searches, 1)
                x = np.arange(len(share)) / each.num_layers
                label = each.cell.space if style == "-" else None
                axes.step(x, share, style, color=colour, where="post", label=label)
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.set_title(name, fontsize=9)
        axes.set_xlim(0.4, 1.6)
        axes.set_xlabel("layers allowed, of the model's")
        axes.legend(fontsize=7, loc="upper left")
    panels[0].set_ylabel("wrong questions reached")


def draw_outcomes(figure: Any, results: Sequence[Result]) -> None:
    """Figure 4: the share of questions with each outcome."""
    axes = figure.subplots()
    places = bars(axes, results)
    bottom = np.zeros(len(results))
    for (name, colour), shares in zip(OUTCOMES.items(), outcome_shares(results), strict=True):
        axes.bar(places, shares, 0.6, bottom=bottom, color=colour, label=name)
        bottom += shares
    expected = []
    for each in results:
        wrong = each.find(FOUND).n or 0
        share = each.find(EXPECTED).value * wrong / (each.find(BEFORE).n or 1)
        expected.append(each.find(BEFORE).value + share)
    axes.plot(places, expected, "D", color=CONTROL, markersize=5, label="W→C expected, from below")
    axes.set_ylim(0, 1.0)
    axes.set_ylabel("questions")
    figure.legend(ncols=5, fontsize=7, loc="outside upper center")


def outcome_shares(results: Sequence[Result]) -> np.ndarray:
    """Return the share of each outcome [4, n]."""
    columns = []
    for each in results:
        n = each.find(BEFORE).n or 1
        stays = each.find("right before, on no path with fewer layers").value
        never = each.find("W→W: right on no path that was tried").value
        columns.append([stays, each.find(SHORTENED).hits / n, each.find(FOUND).hits / n, never])
    return np.nan_to_num(np.array(columns)).T


def draw_layers(figure: Any, results: Sequence[Result]) -> None:
    """Figure 5: the mean runs of each layer by the shortest paths, of right and wrong answers."""
    axes = figure.subplots(2, 1, sharex=True)
    depth = max(each.num_layers for each in results)
    groups = {
        "right answers": (RETAINED, CORRECTED),
        "wrong answers (control)": tuple(CONTROLS.values()),
    }
    images = []
    for panel, (name, members) in zip(axes, groups.items(), strict=True):
        rows = np.full((len(results), depth), np.nan)
        for row, each in zip(rows, results, strict=True):
            use = layer_use(shortest_paths(each, members), each.num_layers)
            row[: each.num_layers] = use.runs if use.paths else np.nan
        images.append(panel.imshow(rows, aspect="auto", cmap="RdBu", vmin=0.5, vmax=1.5))
        labels = [label_of(each).replace("\n", " ") for each in results]
        panel.set_yticks(range(len(results)), labels, fontsize=6)
        panel.set_title(name, fontsize=9)
    axes[1].set_xlabel("layer")
    figure.colorbar(images[0], ax=axes, label="mean runs")


def draw_edits(figure: Any, results: Sequence[Result]) -> None:
    """Figure 6: the share of paths that skip each layer, and its extra runs."""
    result = results[0]
    axes = figure.subplots(1, 2, sharex=True)
    shades = {RETAINED: OWN, CORRECTED: "#7fb3e6", CONTROLS[CORRECTED]: CONTROL, ALL: GREY}
    for name, paths in group_paths(result):
        if name in shades and len(paths):
            skips, repeats, _ = edited_layers(paths, result.num_layers)
            label = {ALL: "all paths tried"}.get(name, name)
            axes[0].plot(skips, color=shades[name], label=f"{label} ({len(paths):,})")
            axes[1].plot(repeats, color=shades[name])
    titles = "paths that skip a layer", "extra runs of a layer"
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("layer")
    axes[0].legend(fontsize=7)
    figure.suptitle(result.name, fontsize=9)


def draw_shortest(figure: Any, results: Sequence[Result]) -> None:
    """Figure 7: the mean depth of the shortest right paths, and of those to wrong answers."""
    axes = figure.subplots()
    places = bars(axes, results)
    for number, share in enumerate(SHORTEST):
        for is_control, colour in ((False, OWN), (True, CONTROL)):
            depths = [shortest_depth(each, share, control=is_control) for each in results]
            shift = 0.18 * number - 0.3 + 0.07 * is_control
            label = ("control" if is_control else "correct") if not number else None
            axes.plot(places + shift, depths, "o", color=colour, markersize=3 + number, label=label)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_ylabel("layers run, of the model's")
    axes.legend(fontsize=7, title="shortest 5, 10, 20, 100 % (left to right)", title_fontsize=7)


def draw_ceiling(figure: Any, networks: Mapping[str, Reached]) -> None:
    """Draw the share of questions whose letter some network says, by the paths tried."""
    axes = figure.subplots()
    for name, reached in networks.items():
        hits = [
            first if graded else None
            for first, graded in zip(reached.first, reached.graded, strict=True)
        ]
        tried = np.arange(MOST_PATHS + 1)
        share = [sum(hit is not None and hit <= x for hit in hits) / len(hits) for x in tried]
        trained = name.startswith(TRAINED)
        colour = OWN if trained else CONTROL
        axes.step(tried + 1, share, color=colour, where="post", alpha=0.9, label=name)
    published = PUBLISHED["arc_easy"]
    axes.axhline(published, color="black", linewidth=0.8, linestyle="--")
    axes.text(1.05, published + 0.01, "95.8 %, all models of the paper", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1, MOST_PATHS + 1)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("paths tried, the model as it is among them")
    axes.set_ylabel("questions right on one of them")
    axes.legend(fontsize=7, loc="lower right")


CEILING_PLOT = Plot(
    "ceiling.svg",
    "The ceiling: networks of random weights",
    "The share of questions of ARC-Easy whose correct letter a network says on one of the paths "
    "that were tried, where labels A to D alone can be right. Networks of random weights (orange) "
    "know nothing, and reach every question whose label is a letter. Dashed: the paper's 95.8 %.",
    draw_ceiling,
)
PLOTS = (
    Plot(
        "figure-2.svg",
        "Figure 2: depth of the shortest paths",
        "Layers run (bars) and distinct layers (strokes) of the shortest paths, as shares of the "
        "model's, of answers that were right before (C→C) and of those that became right (W→C), "
        "each beside its control: the model's own wrong answers that were kept, and other wrong "
        "answers that were reached.",
        draw_depths,
        4.0,
    ),
    Plot(
        "figure-3.svg",
        "Figure 3: what is reached, by depth and space",
        "The share of wrong questions with a path to the correct answer of at most so many layers "
        "(solid), and of control searches to a wrong answer (dotted).",
        draw_accuracy,
    ),
    Plot(
        "figure-4.svg",
        "Figure 4: outcomes",
        "The share of questions of which the model as it is stays the best path, that are right on "
        "fewer layers too (C→C), that become right (W→C), and that stay wrong. The diamond shows "
        "where W→C would end if the searches did not favour the correct answer.",
        draw_outcomes,
        4.0,
    ),
    Plot(
        "figure-5.svg",
        "Figure 5: runs of each layer",
        "The mean runs of each layer by the shortest paths: red layers are skipped, blue ones "
        "repeated. Below, the paths to wrong answers.",
        draw_layers,
        4.6,
    ),
    Plot(
        "figure-6.svg",
        "Figure 6: skipped and repeated layers",
        "The share of the shortest paths that skip a layer, and its runs beyond the first, beside "
        "paths to wrong answers and all paths that were tried.",
        draw_edits,
    ),
    Plot(
        "figure-7.svg",
        "Figure 7: the shortest paths",
        "The mean layers of the shortest 5, 10, 20 and 100 % of all paths that give the correct "
        "answer, and of those that give the wrong answer of a control search.",
        draw_shortest,
        4.0,
    ),
)

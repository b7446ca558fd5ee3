"""Figures 2 to 7 of CoLa as tables, with controls: `python -m experiments.paper.figures RUN...`.

Each function returns the head and the rows of one figure, of finished searches. The map of every
layer is on the page of a run (`cola report RUN`).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tyro
from tyro.conf import Positional

from cola_jax.report.layers import SHORTEST
from cola_jax.report.tables import format_mean, format_percent
from cola_jax.scoring.statistics import Share, mean
from experiments.paper.results import GROUPS, Result, depth, layer_uses, points, read, show

DEPTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25)  # multiples of L
FIELDS = ("skipped", "repeats", "moved")
Table = tuple[Sequence[str], list[list[str]]]


def depths(results: Sequence[Result]) -> Table:
    """Figure 2: mean layers, and mean number of distinct layers, of the shortest paths."""
    head = ("model, task", "L", *(f"{name}: layers (distinct)" for name in GROUPS))
    rows = [
        [
            result.name,
            f"{result.summary.num_layers}",
            *(depth(result.summary.depths[group]) for group in GROUPS),
        ]
        for result in results
    ]
    return head, rows


def accuracy_by_depth(results: Sequence[Result]) -> Table:
    """Figure 3: the share of questions with a path to the target of at most so many layers."""
    rows = []
    for result in results:
        allowed = [round(result.summary.num_layers * depth) for depth in DEPTHS]
        for group in GROUPS:
            share = result.summary.reach[group].share
            reached = [share[min(layers, len(share) - 1)] for layers in allowed]
            rows.append([result.name, group, *(format_percent(float(value)) for value in reached)])
    return ("model, task", "group", *(f"{depth:g} L" for depth in DEPTHS)), rows


def outcomes(results: Sequence[Result]) -> Table:
    """Figure 4: the share of questions with each outcome, and of controls that are reached."""
    head = ("model, task", "identity stays the best", "C→C", "W→C", "W→W", "control of W→C", "net")
    rows = []
    for result in results:
        summary = result.summary
        n = summary.before.n
        counts = (summary.unchanged.hits, summary.shortened.hits, summary.corrected.hits)
        shares = [Share(hits, n).value for hits in (*counts, summary.unsolved.hits)]
        cells = [format_percent(value) for value in (*shares, summary.control.value)]
        rows.append([result.name, *cells, points(summary.net)])
    return head, rows


def layer_runs(results: Sequence[Result]) -> Table:
    """Figure 5: mean runs of a layer in each third of the model, and how evenly layers run."""
    head = ("model, task", "paths", "early", "middle", "late", "entropy", "at most", "most, share")
    rows = []
    for result, group, use in layer_uses(results):
        thirds = [format_mean(third, 2) for third in use.thirds]
        most = use.runs.max() / use.runs.sum()
        even = [use.entropy, math.log(result.summary.num_layers), most]
        rows.append([result.name, group, *thirds, *(format_mean(x, 3) for x in even)])
    return head, rows


def edits(results: Sequence[Result]) -> Table:
    """Figure 6: the share of paths that skip, repeat or move a layer, by thirds of the model."""
    rows = []
    for result, group, use in layer_uses(results):
        thirds = [np.array_split(getattr(use, field), 3) for field in FIELDS]
        cells = [" / ".join(format_mean(mean(x), 2) for x in parts) for parts in thirds]
        rows.append([result.name, group, *cells])
    return ("model, task", "paths", *(f"{field}, early / middle / late" for field in FIELDS)), rows


def shortest(results: Sequence[Result]) -> Table:
    """Figure 7: depth of the shortest 5, 10, 20 and 100 % of the paths that give the target."""
    head = ("model, task", "paths", *(f"shortest {100 * share:g} %" for share in SHORTEST))
    rows = []
    for result in results:
        for name, depths_of in (
            ("correct", result.summary.shortest),
            ("control", result.summary.shortest_control),
        ):
            rows.append([result.name, name, *(depth(each) for each in depths_of)])
    return head, rows


FIGURES: dict[str, Callable[[Sequence[Result]], Table]] = {
    "Figure 2": depths,
    "Figure 3": accuracy_by_depth,
    "Figure 4": outcomes,
    "Figure 5": layer_runs,
    "Figure 6": edits,
    "Figure 7": shortest,
}


def main(runs: Positional[tuple[str, ...]]) -> None:
    """Print Figures 2 to 7 of CoLa for some runs of `cola search`, with controls."""
    results = read(runs)
    for name, figure in FIGURES.items():
        print(f"{name}\n")
        show(*figure(results))
        print()


if __name__ == "__main__":
    tyro.cli(main)

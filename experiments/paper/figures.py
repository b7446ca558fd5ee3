"""Figures 2 to 7 of CoLa as tables, with controls.

Each function returns the head and the rows of one figure, of finished searches; `plots` draws them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cola_jax.runs.estimates import BEFORE, BEYOND, FOUND, number_text
from cola_jax.runs.layer_use import (
    ALL,
    COLUMNS,
    CONTROLS,
    CORRECTED,
    RETAINED,
    depth_of,
    group_searches,
    is_true,
    layer_use,
    list_lengths,
    reaches,
)
from cola_jax.runs.search_results import SHORTENED
from cola_jax.scoring.statistics import mean
from experiments.paper.results import GROUPS, Result, depth

DEPTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25)  # multiples of L
EDITS = ("skipped", "repeats", "moved")
SHORTEST = (0.05, 0.1, 0.2, 1.0)  # shares of the correct paths
Table = tuple[Sequence[str], list[list[str]]]


def percent(value: float) -> str:
    """Write a share."""
    return number_text(float(value), "share")


def depths(results: Sequence[Result]) -> Table:
    """Figure 2: mean layers, and mean number of distinct layers, of the shortest paths."""
    head = ("search", "L", *(f"{name}: layers (distinct)" for name in GROUPS))
    rows = []
    for result in results:
        searches = group_searches(result.run.questions(COLUMNS))
        every = [depth_of(searches[group].drop_null(), result.num_layers) for group in GROUPS]
        rows.append([result.name, f"{result.num_layers}", *map(depth, every)])
    return head, rows


def accuracy_by_depth(results: Sequence[Result]) -> Table:
    """Figure 3: the share of questions with a path to the target of at most so many layers."""
    rows = []
    for result in results:
        allowed = [round(result.num_layers * depth) for depth in DEPTHS]
        every = reaches(group_searches(result.run.questions(COLUMNS)), result.num_layers)
        for group in GROUPS:
            reach = every[group]
            share = reach.hits / max(reach.searches, 1)
            reached = [share[min(layers, len(share) - 1)] for layers in allowed]
            rows.append([result.name, group, *map(percent, reached)])
    return ("search", "group", *(f"{depth:g} L" for depth in DEPTHS)), rows


def outcomes(results: Sequence[Result]) -> Table:
    """Figure 4: the share of questions with each outcome, and of controls that are reached."""
    head = ("search", "identity stays the best", "C→C", "W→C", "W→W", "control of W→C", "net")
    rows = []
    for result in results:
        found = {each.name: each for each in result.results}
        n = found[BEFORE].n or 1
        shares = [
            found["right before, on no path with fewer layers"].value,
            found[SHORTENED].hits / n,
            found[FOUND].hits / n,
            found["W→W: right on no path that was tried"].value,
            found["wrong answers that searches reached"].value,
        ]
        net = f"{found[BEYOND].result} {found[BEYOND].interval_text}" if BEYOND in found else "–"
        rows.append([result.name, *map(percent, shares), net.strip()])
    return head, rows


def layer_runs(results: Sequence[Result]) -> Table:
    """Figure 5: mean runs of a layer in each third of the model, and how evenly layers run."""
    head = ("search", "paths", "early", "middle", "late", "entropy", "at most", "most, share")
    rows = []
    for result in results:
        for group, paths in group_paths(result):
            use = layer_use(paths, result.num_layers)
            if use.paths:
                third = [f"{mean(part):.2f}" for part in np.array_split(use.runs, 3)]
                share = use.runs / use.runs.sum()
                even = [entropy(share), math.log(len(share)), share.max()]
                rows.append([result.name, group, *third, *(f"{x:.3f}" for x in even)])
    return head, rows


def entropy(share: np.ndarray) -> float:
    """Return the natural entropy of shares: ln L if all layers run alike."""
    return float(-(share * np.log(share, where=share > 0, out=np.zeros_like(share))).sum())


def edits(results: Sequence[Result]) -> Table:
    """Figure 6: the share of paths that skip, repeat or move a layer, by thirds of the model."""
    rows = []
    for result in results:
        for group, paths in group_paths(result):
            if len(paths):
                uses = edited_layers(paths, result.num_layers)
                thirds = [[mean(part) for part in np.array_split(use, 3)] for use in uses]
                cells = [" / ".join(f"{third:.2f}" for third in use) for use in thirds]
                rows.append([result.name, group, *cells])
    return ("search", "paths", *(f"{edit}, early / middle / late" for edit in EDITS)), rows


class Use(NamedTuple):
    """How evenly the shortest right paths run layers: ln L if all layers run alike."""

    paths: int
    entropy: float
    control: float  # of all paths that were tried


class SkipRates(NamedTuple):
    """The share of shortest right paths, kept and corrected, that skip a layer."""

    n: int  # paths
    first: float  # of layer 0
    thirds: tuple[float, ...]  # early, middle and late
    control: tuple[float, ...]  # the same, of paths to wrong answers


def shortest_paths(result: Result, groups: Sequence[str]) -> pa.ChunkedArray:
    """Return the shortest paths of some groups of searches."""
    every = group_searches(result.run.questions(COLUMNS))
    chunks = [chunk for group in groups for chunk in every[group].drop_null().chunks]
    return pa.chunked_array(chunks, type=every[groups[0]].type)


def use_of(result: Result) -> Use:
    """Measure how evenly layers run."""
    own = layer_use(shortest_paths(result, (RETAINED, CORRECTED)), result.num_layers)
    rows = result.run.evaluations(["path", "control"])
    tried = layer_use(rows.filter(pa.array(~is_true(rows["control"])))["path"], result.num_layers)
    shares = [use.runs / max(use.runs.sum(), 1e-9) for use in (own, tried)]
    return Use(own.paths, *map(entropy, shares))


def skip_rates(result: Result) -> SkipRates:
    """Measure which layers the shortest paths skip."""
    groups = (RETAINED, CORRECTED), (CONTROLS[RETAINED], CONTROLS[CORRECTED])
    own, control = (shortest_paths(result, each) for each in groups)
    skipped, of_control = (edited_layers(paths, result.num_layers)[0] for paths in (own, control))
    parts = (tuple(map(mean, np.array_split(each, 3))) for each in (skipped, of_control))
    return SkipRates(len(own), float(skipped[0]), *parts)


def group_paths(result: Result) -> Iterator[tuple[str, pa.Array]]:
    """Yield the shortest paths of every group of a search, and all paths tried."""
    for group, paths in group_searches(result.run.questions(COLUMNS)).items():
        yield group, paths.drop_null()
    rows = result.run.evaluations(["path", "control"])
    yield ALL, rows["path"].filter(pa.array(~is_true(rows["control"])))


def edited_layers(paths: pa.Array, num_layers: int) -> np.ndarray:
    """Return the means over paths of `EDITS` for each layer, [3, L].

    Skips and moves are shares of the paths, repeats are runs beyond the first. A moved layer first
    runs after a later one.
    """
    totals = np.zeros((3, num_layers))
    for path in paths.to_pylist():
        counts = np.bincount(path, minlength=num_layers)
        first = np.array([path.index(i) if n else len(path) for i, n in enumerate(counts)])
        later = np.minimum.accumulate(first[::-1])[::-1]  # first run from there on
        totals += [counts == 0, np.maximum(counts - 1, 0), (counts > 0) & (first > later)]
    return totals / max(len(paths), 1)


def shortest_depth(result: Result, share: float, *, control: bool) -> float:
    """Return the mean depth, of the model's, of the shortest paths that give their target."""
    tried = result.run.evaluations(["path", "verdict", "control"])
    mask = is_true(tried["verdict"]) & (is_true(tried["control"]) == control)
    lengths = np.sort(list_lengths(tried["path"].filter(pa.array(mask))))
    count = min(len(lengths), max(1, round(share * len(lengths))))
    return float(lengths[:count].mean()) / result.num_layers if count else np.nan


def shortest(results: Sequence[Result]) -> Table:
    """Figure 7: depth of the shortest 5, 10, 20 and 100 % of the paths that give the target."""
    head = ("search", "paths", *(f"shortest {100 * share:g} %" for share in SHORTEST))
    rows = []
    for result in results:
        tried = result.run.evaluations(["path", "verdict", "control"])
        tried = tried.filter(pa.array(is_true(tried["verdict"])))
        for name in ("correct", "control"):
            mask = is_true(tried["control"]) == (name == "control")
            paths = tried["path"].filter(pa.array(mask))
            order = np.argsort(list_lengths(paths), kind="stable")
            counts = [min(len(order), max(1, round(share * len(order)))) for share in SHORTEST]
            parts = [paths.take(pa.array(order[:count])) for count in counts]
            cells = [depth(depth_of(part, result.num_layers)) for part in parts]
            rows.append([result.name, name, *cells])
    return head, rows


FIGURES: dict[str, Callable[[Sequence[Result]], Table]] = {
    "Figure 2": depths,
    "Figure 3": accuracy_by_depth,
    "Figure 4": outcomes,
    "Figure 5": layer_runs,
    "Figure 6": edits,
    "Figure 7": shortest,
}

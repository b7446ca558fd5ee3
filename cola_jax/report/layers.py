"""How paths use layers: how deep they are, and which layers they skip, repeat and move."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cola_jax.report.columns import is_false, is_null, is_true, list_lengths
from cola_jax.report.controls import control_searches
from cola_jax.scoring.statistics import mean

RETAINED, CORRECTED, ALL = "C→C", "W→C", "all"  # groups of paths
# what is compared with each: the model's own wrong answers, kept, and wrong answers reached
CONTROLS = {RETAINED: "control of C→C", CORRECTED: "control of W→C"}
SHORTEST = (0.05, 0.1, 0.2, 1.0)  # shares of the correct paths
ROWS, CELLS = 1 << 16, 1 << 21  # paths, and paths times layers, that are counted at once


@dataclasses.dataclass(frozen=True, eq=False)
class LayerUse:
    """How a set of paths uses each layer, [L]; zeros for an empty set."""

    paths: int
    skipped: np.ndarray  # share of the paths that never run the layer
    repeats: np.ndarray  # runs beyond the first, mean over all paths
    moved: np.ndarray  # share of the paths that first run the layer after a later one

    @property
    def runs(self) -> np.ndarray:
        """Runs of each layer, mean over all paths, [L]."""
        return 1 - self.skipped + self.repeats if self.paths else self.repeats

    @property
    def thirds(self) -> tuple[float, float, float]:
        """Runs of a layer of the early, the middle and the late third, mean over all paths."""
        early, middle, late = (mean(part) for part in np.array_split(self.runs, 3))
        return early, middle, late

    @property
    def entropy(self) -> float:
        """Of the runs over the layers, natural; ln L where all run alike, NaN for no paths."""
        if not self.runs.any():
            return math.nan
        share = self.runs / self.runs.sum()
        return float(-(share * np.log(share, where=share > 0, out=np.zeros_like(share))).sum())


class Depth(NamedTuple):
    """The depth of a set of paths; means of nothing are NaN."""

    paths: int
    layers: float  # run, mean
    distinct: float  # different layers, mean


class Reach(NamedTuple):
    """The share of searches that reached their target on at most d layers, index d."""

    searches: int
    share: np.ndarray


def layer_use(paths: pa.ChunkedArray, num_layers: int) -> LayerUse:
    """Counts how a column of paths (lists) uses each layer."""
    totals = np.zeros((3, num_layers), np.int64)  # absent, runs beyond the first, moved
    for runs, first in layer_counts(paths, num_layers):
        later = np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1]
        moved = (runs[:, :-1] > 0) & (first[:, :-1] > later[:, 1:])
        totals[0] += (runs == 0).sum(axis=0)
        totals[1] += np.maximum(runs - 1, 0).sum(axis=0)
        totals[2, :-1] += moved.sum(axis=0)
    return LayerUse(len(paths), *(totals / max(len(paths), 1)))


def depth_of(paths: pa.ChunkedArray, num_layers: int) -> Depth:
    """Measures the depth of a column of paths."""
    distinct = sum(int((runs > 0).sum()) for runs, _ in layer_counts(paths, num_layers))
    count = len(paths)
    if not count:
        return Depth(0, math.nan, math.nan)
    return Depth(count, mean(list_lengths(paths)), distinct / count)


def shortest_depths(paths: pa.ChunkedArray, num_layers: int) -> tuple[Depth, ...]:
    """Measures the shortest 5, 10, 20 and 100 % of a column of paths, at least one path each."""
    order = np.argsort(list_lengths(paths), kind="stable")
    counts = [min(len(order), max(1, round(share * len(order)))) for share in SHORTEST]
    return tuple(depth_of(paths.take(pa.array(order[:count])), num_layers) for count in counts)


def layer_counts(
    paths: pa.ChunkedArray, num_layers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for some paths at a time, the runs of each layer [n, L] and its first position."""
    rows = max(1, min(ROWS, CELLS // num_layers))
    for chunk in paths.chunks:
        for start in range(0, len(chunk), rows):
            batch = chunk.slice(start, rows)
            lengths = batch.value_lengths().to_numpy()
            row = np.repeat(np.arange(len(batch)), lengths)
            position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            cell = row * num_layers + batch.flatten().to_numpy()
            shape, size = (len(batch), num_layers), len(batch) * num_layers
            first = np.full(size, np.iinfo(np.int32).max)
            np.minimum.at(first, cell, position)
            yield np.bincount(cell, minlength=size).reshape(shape), first.reshape(shape)


def best_paths(questions: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Returns the shortest correct paths by group, and those of their control searches."""
    masks = {RETAINED: is_true(questions["baseline"]), CORRECTED: is_false(questions["baseline"])}
    found = ~is_null(questions["best"])
    groups = {}
    for name, mask in masks.items():
        groups[name] = questions["best"].filter(pa.array(mask & found))
        groups[CONTROLS[name]] = control_paths(questions, name).drop_null()
    return groups


def control_paths(questions: pa.Table, group: str) -> pa.ChunkedArray:
    """Returns the shortest path of every control search of a group, null where there is none."""
    wrong = questions.filter(pa.array(is_false(questions["baseline"])))
    question, searches = control_searches(wrong)
    own = wrong["baseline_answer"].fill_null(-1).to_numpy()[question]
    kept = searches["target"].to_numpy() == own
    return searches["best"].filter(pa.array(kept == (group == RETAINED)))


def reaches(
    questions: pa.Table, paths: dict[str, pa.ChunkedArray], num_layers: int
) -> dict[str, Reach]:
    """Says for every depth how many searches reach their target on it, by group of `best_paths`."""
    groups = {}
    top = max((int(list_lengths(x).max(initial=0)) for x in paths.values()), default=0)
    top = max(top, num_layers)
    for name, flag in ((RETAINED, is_true), (CORRECTED, is_false)):
        some = questions.filter(pa.array(flag(questions["baseline"])))
        others = len(control_paths(questions, name))
        for label, count in ((name, some.num_rows), (CONTROLS[name], others)):
            lengths = np.bincount(list_lengths(paths[label]), minlength=top + 1)
            groups[label] = Reach(count, np.cumsum(lengths) / max(count, 1))
    return groups


def summarise_layers(questions: pa.Table, rows: pa.Table, num_layers: int) -> dict[str, Any]:
    """Computes the fields of a summary about depth and layers.

    `rows` are all evaluations, with `path`, `verdict` and `control`.
    """
    groups = best_paths(questions)
    control, right = is_true(rows["control"]), is_true(rows["verdict"])
    own = rows["path"].filter(pa.array(~control))
    uses = {name: layer_use(paths, num_layers) for name, paths in groups.items()}
    return {
        "layers": uses | {ALL: layer_use(own, num_layers)},
        "depths": {name: depth_of(paths, num_layers) for name, paths in groups.items()},
        "reach": reaches(questions, groups, num_layers),
        "shortest": shortest_depths(rows["path"].filter(pa.array(right & ~control)), num_layers),
        "shortest_control": shortest_depths(
            rows["path"].filter(pa.array(right & control)), num_layers
        ),
    }

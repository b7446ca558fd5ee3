"""How paths use layers: how many positions they have, and which layers they skip and repeat."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.scoring.statistics import mean

RETAINED, CORRECTED, ALL = "C→C", "W→C", "all"  # groups of paths
# the control of each: the model's own wrong answers, kept, and other wrong answers, reached
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
    variance: np.ndarray  # of the runs over the paths

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
        """Natural entropy of the runs over the layers: ln L if all run alike, NaN for no paths."""
        if not self.runs.any():
            return math.nan
        share = self.runs / self.runs.sum()
        return float(-(share * np.log(share, where=share > 0, out=np.zeros_like(share))).sum())


class Depth(NamedTuple):
    """The depth of a set of paths; means of nothing are NaN."""

    paths: int
    layers: float  # positions, mean
    distinct: float  # different layers, mean


class Reach(NamedTuple):
    """The share of searches that reached their target on at most d positions, index d."""

    searches: int
    share: np.ndarray


def layer_use(paths: pa.ChunkedArray, num_layers: int) -> LayerUse:
    """Count how a column of paths (lists) uses each layer."""
    totals = np.zeros((5, num_layers))
    for runs, first in layer_counts(paths, num_layers):
        later = np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1]  # first run from there on
        moved = (runs > 0) & (first > later)
        columns = runs == 0, np.maximum(runs - 1, 0), moved, runs, runs**2
        totals += [column.sum(axis=0) for column in columns]
    skipped, repeats, moved, runs, squares = totals / max(len(paths), 1)
    return LayerUse(len(paths), skipped, repeats, moved, np.maximum(squares - runs**2, 0))


def depth_of(paths: pa.ChunkedArray, num_layers: int) -> Depth:
    """Measure the depth of a column of paths."""
    if not len(paths):
        return Depth(0, math.nan, math.nan)
    distinct = sum(int((runs > 0).sum()) for runs, _ in layer_counts(paths, num_layers))
    return Depth(len(paths), mean(list_lengths(paths)), distinct / len(paths))


def shortest_depths(paths: pa.ChunkedArray, num_layers: int) -> tuple[Depth, ...]:
    """Measure the shortest 5, 10, 20 and 100 % of a column of paths, at least one path each."""
    order = np.argsort(list_lengths(paths), kind="stable")
    counts = [min(len(order), max(1, round(share * len(order)))) for share in SHORTEST]
    return tuple(depth_of(paths.take(pa.array(order[:count])), num_layers) for count in counts)


def layer_counts(
    paths: pa.ChunkedArray, num_layers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the runs of each layer [n, L] and its first position, for n paths at a time."""
    rows = max(1, min(ROWS, CELLS // num_layers))
    for chunk in paths.chunks:
        for start in range(0, len(chunk), rows):
            batch = chunk.slice(start, rows)
            lengths = batch.value_lengths().to_numpy()
            row = np.repeat(np.arange(len(batch)), lengths)
            position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            cell, shape = row * num_layers + batch.flatten().to_numpy(), (len(batch), num_layers)
            first = np.full(len(batch) * num_layers, np.iinfo(np.int32).max)
            np.minimum.at(first, cell, position)
            yield np.bincount(cell, minlength=first.size).reshape(shape), first.reshape(shape)


def best_paths(questions: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the shortest correct paths by group, and those of their control searches."""
    best, groups = questions["best"], {}
    for name, mask in baseline_groups(questions).items():
        groups[name] = best.filter(pa.array(mask & ~is_null(best)))
        groups[CONTROLS[name]] = control_paths(questions, name).drop_null()
    return groups


def baseline_groups(questions: pa.Table) -> dict[str, np.ndarray]:
    """Return which questions are right and which are wrong on the identity path."""
    baseline = questions["baseline"]
    return {RETAINED: is_true(baseline), CORRECTED: is_false(baseline)}


def control_paths(questions: pa.Table, group: str) -> pa.ChunkedArray:
    """Return the shortest path of every control search of a group, null where there is none."""
    wrong = questions.filter(pa.array(is_false(questions["baseline"])))
    question, searches = control_searches(wrong)
    answer = wrong["baseline_answer"].fill_null(-1).to_numpy()[question]
    kept = searches["target"].to_numpy() == answer
    return searches["best"].filter(pa.array(kept == (group == RETAINED)))


def control_searches(questions: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Return the control searches of all questions, and the question [S] of each.

    Those for the model's own answer are among them.
    """
    searches = questions["controls"].combine_chunks()
    question = np.repeat(np.arange(len(searches)), list_lengths(questions["controls"]))
    return question, pa.Table.from_struct_array(searches.flatten())


def reaches(
    questions: pa.Table, paths: dict[str, pa.ChunkedArray], num_layers: int
) -> dict[str, Reach]:
    """Return the share of searches that reach their target by depth, for each of `best_paths`."""
    groups = {}
    top = max(num_layers, *(int(list_lengths(column).max(initial=0)) for column in paths.values()))
    for name, mask in baseline_groups(questions).items():
        counts = int(mask.sum()), len(control_paths(questions, name))
        for label, count in zip((name, CONTROLS[name]), counts, strict=True):
            lengths = np.bincount(list_lengths(paths[label]), minlength=top + 1)
            groups[label] = Reach(count, np.cumsum(lengths) / max(count, 1))
    return groups


def summarise_layers(questions: pa.Table, rows: pa.Table, num_layers: int) -> dict[str, Any]:
    """Compute the fields of a summary about depth and layers.

    `rows` are all evaluations, with `path`, `verdict` and `control`.
    """
    groups = best_paths(questions)
    control, right = is_true(rows["control"]), is_true(rows["verdict"])

    def shortest(mask: np.ndarray) -> tuple[Depth, ...]:
        return shortest_depths(rows["path"].filter(pa.array(mask)), num_layers)

    tried = rows["path"].filter(pa.array(~control))
    return {
        "layers": {name: layer_use(paths, num_layers) for name, paths in groups.items()}
        | {ALL: layer_use(tried, num_layers)},
        "depths": {name: depth_of(paths, num_layers) for name, paths in groups.items()},
        "reach": reaches(questions, groups, num_layers),
        "shortest": shortest(right & ~control),
        "shortest_control": shortest(right & control),
    }


def is_true(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a boolean column is true."""
    return column.fill_null(False).to_numpy()


def is_false(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a boolean column is false, which null is not."""
    return ~column.fill_null(True).to_numpy()


def is_null(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a column is null."""
    return column.is_null().to_numpy()


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of every list, 0 for null."""
    return pc.call_function("list_value_length", [column]).fill_null(0).to_numpy()

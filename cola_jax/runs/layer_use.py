"""How long paths are and how often they run each layer, by groups of searches."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.layer_costs import LayerCosts
from cola_jax.scoring.statistics import mean
from cola_jax.steps import layer_of

RETAINED = "C→C"  # groups of paths
CORRECTED = "W→C"
ALL = "all"
# the control of each: the model's own wrong answers, kept, and other wrong answers, reached
CONTROLS = {RETAINED: "control of C→C", CORRECTED: "control of W→C"}
COLUMNS = ["baseline", "best", "baseline_answer", "controls"]  # of questions
ROWS = 1 << 16  # paths counted at once
CELLS = 1 << 21  # paths times layers counted at once


class LayerUse(NamedTuple):
    """The runs of each layer over a set of paths, [L]; zeros for an empty set."""

    paths: int
    runs: np.ndarray  # mean over the paths
    variance: np.ndarray


class Depth(NamedTuple):
    """The depth of a set of paths; means of nothing are NaN."""

    paths: int
    layers: float  # mean length in layers
    distinct: float  # different layers, mean


class Reach(NamedTuple):
    """The searches that reached their target on at most d layers, index d."""

    searches: int  # in all
    hits: np.ndarray


def layer_use(paths: pa.ChunkedArray, num_layers: int) -> LayerUse:
    """Count how often a column of paths (lists) runs each layer, whole or in part."""
    totals = np.zeros((2, num_layers))
    for counts in layer_counts(paths, num_layers):
        totals += [counts.sum(axis=0), (counts**2).sum(axis=0)]
    runs, squares = totals / max(len(paths), 1)
    return LayerUse(len(paths), runs, np.maximum(squares - runs**2, 0))


def depth_of(paths: pa.ChunkedArray, num_layers: int, costs: LayerCosts | None = None) -> Depth:
    """Measure the depth of a column of paths; costs tell the length of paths of parts."""
    distinct = sum(int((counts > 0).sum()) for counts in layer_counts(paths, num_layers))
    average = distinct / len(paths) if len(paths) else math.nan
    return Depth(len(paths), mean(path_lengths(paths, costs)), average)


def layer_counts(paths: pa.ChunkedArray, num_layers: int) -> Iterator[np.ndarray]:
    """Yield the runs of each layer [n, L], for n paths at a time."""
    rows = max(1, min(ROWS, CELLS // num_layers))
    for chunk in paths.chunks:
        for start in range(0, len(chunk), rows):
            batch = chunk.slice(start, rows)
            row = np.repeat(np.arange(len(batch)), batch.value_lengths().to_numpy())
            cell = row * num_layers + layer_of(batch.flatten().to_numpy())
            counts = np.bincount(cell, minlength=len(batch) * num_layers)
            yield counts.reshape(len(batch), num_layers)


def group_searches(questions: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the shortest path of every search by group, null where there is none.

    A group are the questions right, or wrong, on the identity path, or its control searches.
    """
    best = questions["best"]
    baseline = questions["baseline"]
    wrong = questions.filter(pa.array(is_false(baseline)))
    question, controls = control_searches(wrong)
    answer = wrong["baseline_answer"].fill_null(-1).to_numpy()[question]
    kept = controls["target"].to_numpy() == answer
    return {
        RETAINED: best.filter(pa.array(is_true(baseline))),
        CONTROLS[RETAINED]: controls["best"].filter(pa.array(kept)),
        CORRECTED: wrong["best"],
        CONTROLS[CORRECTED]: controls["best"].filter(pa.array(~kept)),
    }


def control_searches(questions: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Return the question [S] of each control search, and all of these searches.

    Those for the model's own answer are among them.
    """
    searches = questions["controls"].combine_chunks()
    question = np.repeat(np.arange(len(searches)), list_lengths(questions["controls"]))
    return question, pa.Table.from_struct_array(searches.flatten())


def reaches(
    searches: Mapping[str, pa.ChunkedArray], num_layers: int, costs: LayerCosts | None = None
) -> dict[str, Reach]:
    """Count the searches of each group that reach their target, by depth.

    Costs tell the length of paths of parts, which is rounded up.
    """
    lengths = {
        name: np.ceil(path_lengths(paths.drop_null(), costs)).astype(int)
        for name, paths in searches.items()
    }
    top = max(num_layers, *(int(each.max(initial=0)) for each in lengths.values()))
    return {
        name: Reach(len(paths), np.cumsum(np.bincount(lengths[name], minlength=top + 1)))
        for name, paths in searches.items()
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


def path_lengths(column: pa.ChunkedArray, costs: LayerCosts | None) -> np.ndarray:
    """Return the length of every path in layers, 0 for null."""
    if costs is None or costs.parts is None:
        return list_lengths(column)
    return np.array([costs.layers(path or ()) for path in column.to_pylist()], float)


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of every list, 0 for null."""
    return pc.call_function("list_value_length", [column]).fill_null(0).to_numpy()

"""How often paths run each layer, as a ratio to what their search tried."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cola_jax.report.layers import layer_counts
from cola_jax.scoring.statistics import Z

THIRDS = ("early third", "middle third", "late third")


class Runs(NamedTuple):
    """Runs of each layer, and means over the layers of each third, [L + 3], over n paths."""

    n: int
    mean: np.ndarray
    variance: np.ndarray


def count_runs(paths: pa.ChunkedArray, num_layers: int) -> Runs:
    """Measures a column of paths (lists); zeros for no paths."""
    totals = np.zeros((2, num_layers + len(THIRDS)))
    for runs, _ in layer_counts(paths, num_layers):
        parts = np.array_split(runs, len(THIRDS), axis=1)
        thirds = [part.sum(axis=1) / max(part.shape[1], 1) for part in parts]
        values = np.column_stack([runs, *thirds])
        totals += values.sum(axis=0), (values**2).sum(axis=0)
    mean, square = totals / max(len(paths), 1)
    return Runs(len(paths), mean, np.maximum(square - mean**2, 0))


def ratio_rows(
    groups: Mapping[str, pa.ChunkedArray], tried: pa.ChunkedArray, num_layers: int
) -> list[tuple[Any, ...]]:
    """Lists, for each group of paths and each layer or third, the runs over those of all tried."""
    everything = count_runs(tried, num_layers)
    names = [*map(str, range(num_layers)), *THIRDS]
    return [
        (group, *row)
        for group, paths in groups.items()
        for row in zip(names, *ratios(count_runs(paths, num_layers), everything), strict=True)
    ]


def ratios(runs: Runs, tried: Runs) -> Iterator[list[float]]:
    """Yields columns: runs, those of all tried, their ratio, its 95 % interval, and n.

    What was tried counts as known. The variance is the larger of the group's own and that of what
    was tried, or the interval of a few paths that agree would be empty. NaN where nothing tried
    runs a layer.
    """
    reach = Z * np.sqrt(np.maximum(runs.variance, tried.variance) / max(runs.n, 1))
    base = np.where(tried.mean > 0, tried.mean, math.nan)
    bounds = np.maximum(runs.mean - reach, 0) / base, (runs.mean + reach) / base
    for column in (runs.mean, tried.mean, runs.mean / base, *bounds):
        yield column.tolist()
    yield [runs.n] * len(base)

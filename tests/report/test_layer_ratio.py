import math

import pyarrow as pa
import pytest

from cola_jax.report.layer_ratio import count_runs, ratio_rows
from cola_jax.scoring.statistics import Z


def paths(*rows: tuple[int, ...]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(list(rows), pa.list_(pa.int16()))])


def test_count_runs_of_layers_and_thirds():
    runs = count_runs(paths((0, 1, 2, 3), (0, 3, 3)), 4)
    assert runs.n == 2
    # the early third of four layers has two
    assert runs.mean.tolist() == [1, 0.5, 0.5, 1.5, 0.75, 0.5, 1.5]
    assert runs.variance[:4].tolist() == [0, 0.25, 0.25, 0.25]


def test_ratio_of_found_to_tried_with_its_interval():
    tried = paths((0, 1, 2), (0, 2), (0, 1, 1, 2), (0, 1, 2))
    rows = ratio_rows({"W→C": paths((0, 1, 1, 2))}, tried, 3)
    by_layer = {row[1]: row[2:] for row in rows}
    runs, base, ratio, low, high, n = by_layer["1"]
    assert (runs, base, ratio, n) == (2, 1, 2, 1)
    # one path has no variance of its own: that of 1, 0, 2 and 1 runs is 1/2
    assert high == pytest.approx(2 + Z * math.sqrt(1 / 2))
    assert low == pytest.approx(2 - Z * math.sqrt(1 / 2))
    assert by_layer["0"][2:5] == (1, 1, 1)  # nothing that was tried differs there
    assert by_layer["late third"][0] == 1


def test_ratio_has_no_value_where_nothing_runs_a_layer():
    [ratio] = [row[4] for row in ratio_rows({"C→C": paths((0,))}, paths((0,), (0,)), 2)[1:2]]
    assert math.isnan(ratio)

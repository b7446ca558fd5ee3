"""Depth of paths, and their use of layers, on a few paths counted by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from cola_jax.report.layers import (
    CONTROLS,
    CORRECTED,
    RETAINED,
    Depth,
    best_paths,
    depth_of,
    layer_use,
    reaches,
    shortest_depths,
)

PATHS = [(0, 1, 2, 3), (0, 2, 2, 2), (1, 0, 1, 3), (3, 0)]


def column(*paths, chunks=1):
    parts = np.array_split(np.arange(len(paths)), chunks)
    return pa.chunked_array(
        [pa.array([paths[i] for i in part], pa.list_(pa.int16())) for part in parts]
    )


@pytest.mark.parametrize("chunks", [1, 3])
def test_layer_use_counts_skips_repeats_and_moves(chunks: int):
    use = layer_use(column(*PATHS, chunks=chunks), 4)
    assert use.paths == 4
    np.testing.assert_allclose(use.skipped, np.array([0, 2, 2, 1]) / 4)
    np.testing.assert_allclose(use.repeats, np.array([0, 1, 2, 0]) / 4)
    # 0 runs after 1 in the third path, and after 3 in the fourth
    np.testing.assert_allclose(use.moved, np.array([2, 0, 0, 0]) / 4)
    np.testing.assert_allclose(use.variance[1:], np.array([0.6875, 1.5, 0.1875]))
    np.testing.assert_allclose(use.runs, np.array([4, 3, 4, 3]) / 4)


def test_thirds_and_entropy():
    use = layer_use(column((0, 1, 2, 3, 4, 5), (0, 1, 1, 1, 4, 4)), 6)
    assert use.thirds == ((1 + 2) / 2, (0.5 + 0.5) / 2, (1.5 + 0.5) / 2)
    share = np.array([2, 4, 1, 1, 3, 1]) / 12
    assert use.entropy == pytest.approx(-(share * np.log(share)).sum())
    assert layer_use(column((0, 1, 2)), 3).entropy == pytest.approx(math.log(3))


def test_no_paths_have_no_use():
    use = layer_use(column(), 3)
    assert use.paths == 0
    assert not use.runs.any()
    assert math.isnan(use.entropy)
    assert math.isnan(depth_of(column(), 3).layers)


def test_depth_counts_distinct_layers():
    assert depth_of(column(*PATHS, chunks=2), 4) == Depth(4, 14 / 4, (4 + 2 + 3 + 2) / 4)


def test_shortest_shares_have_at_least_one_path():
    paths = [(0,) * n for n in range(20, 0, -1)]
    depths = shortest_depths(column(*paths), 4)
    assert [depth.paths for depth in depths] == [1, 2, 4, 20]
    assert [depth.layers for depth in depths] == [1, 1.5, 2.5, 10.5]


def test_reach_counts_searches_by_depth():
    own = [{"target": 1, "best": [0, 2]}]  # the model's own wrong answer, which is kept
    # a run of an older version searched right questions for wrong options as well
    controls = [
        [{"target": 2, "best": [0]}],
        [{"target": 2, "best": [0, 0, 1, 1, 2, 2]}, *own],
        own,
    ]
    search = pa.struct({"target": pa.int16(), "best": pa.list_(pa.int16())})
    questions = pa.table(
        {
            "baseline": [True, False, False],
            "best": pa.array([[0, 1], None, [0, 1, 2, 2]], pa.list_(pa.int16())),
            "baseline_answer": [0, 1, 1],
            "controls": pa.array(controls, pa.list_(search)),
        }
    )
    reach = reaches(questions, best_paths(questions), 3)
    assert reach[RETAINED].searches == 1
    assert reach[RETAINED].share.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert reach[CORRECTED].share.tolist() == [0, 0, 0, 0, 0.5, 0.5, 0.5]
    assert reach[CONTROLS[RETAINED]].searches == 2
    assert reach[CONTROLS[RETAINED]].share.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert reach[CONTROLS[CORRECTED]].share.tolist() == [0, 0, 0, 0, 0, 0, 1]

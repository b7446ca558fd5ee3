"""Depth of paths, and their use of layers, on a few paths counted by hand."""

import numpy as np
import pyarrow as pa

from cola_jax.runs.layer_use import (
    CONTROLS,
    CORRECTED,
    RETAINED,
    Depth,
    depth_of,
    group_searches,
    layer_use,
    reaches,
)

PATHS = [(0, 1, 2, 3), (0, 2, 2, 2), (1, 0, 1, 3), (3, 0)]


def test_layer_use_and_depth_count_runs():
    parts = PATHS[:2], PATHS[2:3], PATHS[3:]
    paths = pa.chunked_array([pa.array(part, pa.list_(pa.int16())) for part in parts])
    use = layer_use(paths, 4)
    assert use.paths == 4
    np.testing.assert_allclose(use.runs, np.array([4, 3, 4, 3]) / 4)
    np.testing.assert_allclose(use.variance[1:], np.array([0.6875, 1.5, 0.1875]))
    assert depth_of(paths, 4) == Depth(4, 14 / 4, (4 + 2 + 3 + 2) / 4)


def test_reach_counts_searches_by_depth():
    own = [{"target": 1, "best": [0, 2]}]  # the model's own wrong answer, which is kept
    controls = [[], [{"target": 2, "best": [0, 0, 1, 1, 2, 2]}, *own], own]
    search = pa.struct({"target": pa.int16(), "best": pa.list_(pa.int16())})
    questions = pa.table(
        {
            "baseline": [True, False, False],
            "best": pa.array([[0, 1], None, [0, 1, 2, 2]], pa.list_(pa.int16())),
            "baseline_answer": [0, 1, 1],
            "controls": pa.array(controls, pa.list_(search)),
        }
    )
    reach = reaches(group_searches(questions), 3)
    assert {name: (each.searches, each.hits.tolist()) for name, each in reach.items()} == {
        RETAINED: (1, [0, 0, 1, 1, 1, 1, 1]),
        CORRECTED: (2, [0, 0, 0, 0, 1, 1, 1]),
        CONTROLS[RETAINED]: (2, [0, 0, 2, 2, 2, 2, 2]),
        CONTROLS[CORRECTED]: (1, [0, 0, 0, 0, 0, 0, 1]),
    }

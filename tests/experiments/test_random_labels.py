"""Random labels of a scan: scores are read back, and labels are drawn among the options."""

import numpy as np
import pyarrow as pa

from cola_jax.deploy.scan import scan_paths
from cola_jax.report.scan import summarise_map
from experiments.random_labels import read_scores, relabelled, results

PATHS = scan_paths(3)


def test_scores_are_read_by_question_and_path() -> None:
    rows = pa.table(
        {
            "question": ["a", "a", "b", "b"],
            "node": [0, 1, 1, 0],
            "verdict": [True] * 4,
            "margin": [0.0] * 4,
            "scores": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0, 7.0], [8.0, 9.0, 10.0]],
        }
    )
    ids, scores = read_scores(rows, 2)
    assert ids == ["a", "b"]
    assert scores[1].tolist() == [[8, 9, 10], [5, 6, 7]]
    assert np.isnan(scores[0, :, 2]).all()


def test_labels_are_drawn_among_the_options_a_question_has() -> None:
    scores = np.random.default_rng(0).normal(size=(400, len(PATHS), 4))
    scores[:200, :, 3] = np.nan
    verdict, margin = relabelled(scores, np.random.default_rng(1))
    assert abs(verdict[:200].mean() - 1 / 3) < 0.05
    assert abs(verdict[200:].mean() - 1 / 4) < 0.05
    assert (verdict == (margin > 0)).all()
    ids = [str(i) for i in range(400)]
    rows = results([summarise_map(PATHS, ids, verdict, margin, 3)])
    assert rows[0][1].startswith("0.0 %")

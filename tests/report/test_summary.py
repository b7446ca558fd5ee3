import math
from pathlib import Path

import numpy as np
import pytest

from cola_jax.report import summarise
from cola_jax.report.layers import ALL, CORRECTED, RETAINED, Depth
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share
from tests.report.conftest import UNGRADED, make_run, part


def shares(summary: Summary) -> dict[str, tuple[int, int]]:
    """Return the shares of questions and of evaluations that are not 0 of 0."""
    fields = {name: value for name, value in vars(summary).items() if isinstance(value, Share)}
    return {name: (share.hits, share.n) for name, share in fields.items() if share.n}


def test_summarise_counts_shares_and_means(run: Run):
    summary = summarise(run)
    assert (summary.done, summary.planned, summary.num_layers) == (5, 6, 4)
    assert shares(summary) == {
        "before": (2, 5), "after": (4, 5), "unchanged": (1, 5), "unsolved": (1, 5),
        "shortened": (1, 2),  # q1 of q1 and q4
        "corrected": (2, 3),  # q2 and q5 of q2, q3 and q5
        "control": (1, 2),  # q3 of q2 and q3
        "confirmed": (3, 4), "ungraded": (0, 13), "not_finite": (1, 13),
        "broken": (2, 3), "fixed": (2, 5),  # q1 and q4: a path of each; q2, q3 and q5: two paths
    }  # fmt: skip
    # q2 reached gold alone, q3 the control alone
    assert (summary.net.value, summary.net.n, summary.net.p) == (pytest.approx(0), 2, 1)
    assert (summary.net.reached, summary.net.informative) == (1, 2)
    assert (summary.evaluations, summary.gold_evaluations) == (15, 13)
    assert (summary.control_evaluations, summary.again_evaluations) == (2, 0)
    assert summary.length == pytest.approx((3 + 5 + 4 + 4 + 3) / 5)


def test_summarise_layer_use(run: Run):
    summary = summarise(run)
    layers = summary.layers
    assert [layers[name].paths for name in (RETAINED, CORRECTED, ALL)] == [2, 2, 13]
    np.testing.assert_allclose(layers[RETAINED].runs, [1, 1, 0.5, 1])
    np.testing.assert_allclose(layers[CORRECTED].runs, [0.5, 1.5, 1, 1])
    np.testing.assert_allclose(layers[ALL].runs, 1 + np.array([-1, -1, -4, 0]) / 13)
    assert summary.depths[RETAINED] == Depth(2, (3 + 4) / 2, (3 + 4) / 2)
    assert summary.depths[CORRECTED] == Depth(2, (5 + 3) / 2, (4 + 3) / 2)


def test_summarise_few_questions(tmp_path: Path):
    right = summarise(make_run(tmp_path / "right", part("q4")))
    assert (right.before, right.corrected, right.control) == (Share(1, 1), Share(0, 0), Share(0, 0))
    assert right.net.n == right.kept["once"].n_wrong == right.depths[CORRECTED].paths == 0
    assert math.isnan(right.net.p)
    assert math.isnan(right.depths[CORRECTED].layers)
    wrong = summarise(make_run(tmp_path / "wrong", part("q3")))
    assert (wrong.after, wrong.confirmed, wrong.broken) == (Share(0, 1), Share(0, 0), Share(0, 0))
    assert wrong.length == 4  # of the identity, as no path is correct
    assert wrong.layers[CORRECTED].paths == 0
    ungraded = summarise(make_run(tmp_path / "ungraded", UNGRADED, scorer="generation"))
    assert (ungraded.before, ungraded.after, ungraded.corrected) == (Share(0, 0),) * 3
    assert math.isnan(ungraded.length)


def test_summarise_without_scores(tmp_path: Path):
    """Of a user's metric, or of a model whose logits are not finite."""
    parts = part("q2", baseline_scores=None), part("q3", baseline_scores=[[0, 1, math.nan]])
    summary = summarise(make_run(tmp_path, *parts))
    assert (summary.control, summary.unscored) == (Share(1, 2), 2)
    assert (summary.net.n, summary.preference) == (0, None)


def test_summarise_rejects_other_runs(tmp_path: Path):
    with pytest.raises(ValueError, match="made by 'generate', not by a search"):
        summarise(make_run(tmp_path / "other", command="generate", paths=[[0]]))
    with pytest.raises(ValueError, match="has no question done yet"):
        summarise(make_run(tmp_path / "new"))


def test_summarise_excludes_ungraded(open_run: Run):
    summary = summarise(open_run)
    assert (summary.done, summary.excluded) == (4, 1)
    assert shares(summary) == {
        "before": (1, 3), "after": (2, 3), "unchanged": (0, 3), "unsolved": (1, 3),
        "shortened": (1, 1),
        "corrected": (1, 2),  # g2 of g2 and g4
        "control": (0, 2),  # without g3
        "confirmed": (2, 3), "ungraded": (3, 11), "not_finite": (0, 11), "truncated": (1, 11),
        "broken": (1, 2), "fixed": (1, 1),
    }  # fmt: skip
    assert (summary.net.value, summary.net.n) == (0.5, 2)
    assert summary.length == pytest.approx((3 + 5 + 4) / 3)
    assert [summary.layers[name].paths for name in (RETAINED, CORRECTED, ALL)] == [1, 1, 11]
    assert summary.tokens == pytest.approx((10 * 4 + 12) / 11)

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cola_jax.report import summarise
from cola_jax.report.layers import ALL, CORRECTED, RETAINED, Depth
from cola_jax.report.summary import Summary
from cola_jax.scoring.statistics import Share
from tests.report.conftest import (
    E1,
    E2,
    E3,
    ONLY_RETAINED,
    ONLY_WRONG,
    Q1,
    Q2,
    Q3,
    SCORERS,
    UNGRADED,
    make_run,
)


def test_summarise_counts_shares_and_means(summary: Summary):
    assert (summary.done, summary.planned, summary.num_layers) == (5, 6, 4)
    assert summary.before == Share(2, 5)
    assert summary.after == Share(4, 5)
    assert summary.shortened == Share(1, 2)  # q1 of q1 and q4
    assert summary.corrected == Share(2, 3)  # q2 and q5 of q2, q3 and q5
    assert summary.control == Share(1, 2)  # q3 of q2 and q3
    assert (summary.unchanged, summary.unsolved) == (Share(1, 5), Share(1, 5))
    # q2 reached gold alone, q3 the control alone
    assert (summary.net.value, summary.net.n, summary.net.p) == (pytest.approx(0), 2, 1)
    assert (summary.net.reached, summary.net.informative) == (1, 2)
    assert (summary.evaluations, summary.control_evaluations) == (13, 2)
    assert summary.confirmed == Share(3, 4)
    assert summary.not_finite == Share(1, 13)
    # q1 and q4 are right before: one path of each is wrong; q2, q3 and q5: two paths are right
    assert (summary.broken, summary.fixed) == (Share(2, 3), Share(2, 5))
    assert summary.length == pytest.approx((3 + 5 + 4 + 4 + 3) / 5)


def test_summarise_layer_use(summary: Summary):
    layers = summary.layers
    assert [layers[name].paths for name in (RETAINED, CORRECTED, ALL)] == [2, 2, 13]
    np.testing.assert_allclose(layers[RETAINED].runs, [1, 1, 0.5, 1])
    np.testing.assert_allclose(layers[CORRECTED].runs, [0.5, 1.5, 1, 1])
    np.testing.assert_allclose(layers[ALL].runs, 1 + np.array([-1, -1, -4, 0]) / 13)
    assert summary.depths[RETAINED] == Depth(2, (3 + 4) / 2, (3 + 4) / 2)
    assert summary.depths[CORRECTED] == Depth(2, (5 + 3) / 2, (4 + 3) / 2)


def test_summarise_without_wrong_questions_or_controls(tmp_path: Path):
    summary = summarise(make_run(tmp_path, ONLY_RETAINED))
    assert (summary.before, summary.corrected) == (Share(1, 1), Share(0, 0))
    assert summary.control == Share(0, 0)
    assert summary.net.n == summary.kept["once"].n_wrong == 0
    assert math.isnan(summary.net.p)
    assert summary.depths[CORRECTED].paths == 0
    assert math.isnan(summary.depths[CORRECTED].layers)


def test_summarise_without_scores(tmp_path: Path):
    """Of a user's metric, or of a model whose logits are not finite."""
    unscored = [
        {**one, "baseline_scores": scores} for one, scores in ((Q2, None), (Q3, [[0, 1, math.nan]]))
    ]
    summary = summarise(make_run(tmp_path, (E2 + E3, unscored)))
    assert (summary.control, summary.unscored) == (Share(1, 2), 2)
    assert (summary.net.n, summary.preference) == (0, None)


def test_summarise_without_correct_paths(tmp_path: Path):
    summary = summarise(make_run(tmp_path, ONLY_WRONG))
    assert (summary.after, summary.confirmed) == (Share(0, 1), Share(0, 0))
    assert summary.length == 4  # of the identity, as no path is correct
    assert summary.layers[CORRECTED].paths == 0
    assert summary.broken == Share(0, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": "generate", "paths": [[0]]}, "made by 'generate', not by a search"),
        ({}, "has no question done yet"),
    ],
)
def test_summarise_rejects_other_runs(tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        summarise(make_run(tmp_path, **settings))


@pytest.mark.parametrize("scorer", [None, *SCORERS])
def test_summarise_reads_flags_of_scorer(tmp_path: Path, scorer: str | None):
    summary = summarise(make_run(tmp_path, (E1, [Q1]), scorer=scorer))
    flags = {"open": summary.open, "decodes": summary.decodes}
    assert flags == (SCORERS[scorer] if scorer else {"open": False, "decodes": False})
    assert summary.answer_noun == ("answer" if summary.open else "option")


def test_summarise_excludes_ungraded(open_summary: Summary):
    summary = open_summary
    assert (summary.done, summary.excluded) == (4, 1)
    assert summary.before == Share(1, 3)
    assert summary.after == Share(2, 3)
    assert summary.corrected == Share(1, 2)  # g2 of g2 and g4
    assert summary.shortened == Share(1, 1)
    assert summary.control == Share(0, 2)  # without g3
    assert (summary.net.value, summary.net.n) == (0.5, 2)
    assert summary.confirmed == Share(2, 3)
    assert summary.ungraded == Share(3, 11)
    assert summary.length == pytest.approx((3 + 5 + 4) / 3)
    assert [summary.layers[name].paths for name in (RETAINED, CORRECTED, ALL)] == [1, 1, 11]
    assert summary.truncated == Share(1, 11)
    assert summary.tokens == pytest.approx((10 * 4 + 12) / 11)


def test_summarise_without_graded_questions(tmp_path: Path):
    summary = summarise(make_run(tmp_path, UNGRADED, scorer="generation"))
    assert (summary.before, summary.after, summary.corrected) == (Share(0, 0),) * 3
    assert math.isnan(summary.length)

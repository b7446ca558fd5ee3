import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cola_jax.report import search_report, summarise
from cola_jax.report.layers import ALL, CORRECTED, RETAINED, Depth
from cola_jax.report.summary import Summary
from cola_jax.report.tables import terminal_report
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
    WHOLE,
    decoded,
    evaluation,
    make_run,
    named,
    open_question,
    printed,
    question,
)


def test_summarise_shares(summary: Summary):
    assert summary.before == Share(2, 5)
    assert summary.after == Share(4, 5)
    assert summary.shortened == Share(1, 2)  # q1 of q1 and q4
    assert summary.corrected == Share(2, 3)  # q2 and q5 of q2, q3 and q5
    assert summary.control == Share(1, 2)  # q3 of q2 and q3
    # q2 reached gold alone, q3 the control alone
    assert (summary.net.value, summary.net.n, summary.net.p) == (pytest.approx(0), 2, 1)
    assert (summary.net.reached, summary.net.informative) == (1, 2)
    assert summary.control_evaluations == 2
    assert summary.confirmed == Share(3, 4)
    assert summary.not_finite == Share(1, 13)
    # q1 and q4 are right before: one path of each is wrong; q2, q3 and q5: two paths are right
    assert (summary.broken, summary.fixed) == (Share(2, 3), Share(2, 5))


def test_summarise_counts_and_means(summary: Summary):
    assert (summary.done, summary.planned, summary.num_layers) == (5, 6, 4)
    assert (summary.evaluations, summary.per_question) == (13, 2.6)
    assert summary.length == pytest.approx((3 + 5 + 4 + 4 + 3) / 5)
    assert summary.depths[RETAINED] == Depth(2, (3 + 4) / 2, (3 + 4) / 2)
    assert summary.depths[CORRECTED] == Depth(2, (5 + 3) / 2, (4 + 3) / 2)
    assert (summary.unchanged, summary.unsolved) == (Share(1, 5), Share(1, 5))
    assert summary.answers == pytest.approx((2 + 2 + 3 + 2 + 2) / 5)
    assert summary.options == pytest.approx((3 + 3 + 3 + 2 + 2) / 5)


def test_summarise_layer_use(summary: Summary):
    layers = summary.layers
    assert [layers[name].paths for name in (RETAINED, CORRECTED, ALL)] == [2, 2, 13]
    np.testing.assert_allclose(layers[RETAINED].skipped, [0, 0, 0.5, 0])
    np.testing.assert_allclose(layers[RETAINED].repeats, [0, 0, 0, 0])
    np.testing.assert_allclose(layers[CORRECTED].skipped, [0.5, 0, 0, 0])
    np.testing.assert_allclose(layers[CORRECTED].repeats, [0, 0.5, 0, 0])
    np.testing.assert_allclose(layers[ALL].skipped, np.array([1, 2, 4, 2]) / 13)
    np.testing.assert_allclose(layers[ALL].repeats, np.array([0, 1, 0, 2]) / 13)


def test_summarise_without_wrong_questions_or_controls(tmp_path: Path):
    summary = summarise(make_run(tmp_path, ONLY_RETAINED))
    assert (summary.before, summary.corrected) == (Share(1, 1), Share(0, 0))
    assert summary.control == Share(0, 0)
    assert summary.net.n == summary.kept["once"].n_wrong == 0
    assert math.isnan(summary.net.p)
    assert summary.depths[CORRECTED].paths == 0
    assert math.isnan(summary.depths[CORRECTED].layers)


def test_summarise_without_scores(tmp_path: Path):
    """Of an older run, or of a model whose logits are not finite."""
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
        ({"command": "evaluate", "paths": [[0]]}, "use path_results"),
        ({"command": "generate", "paths": [[0]]}, "made by 'generate'"),
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


# Open questions


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


def test_summarise_completions(open_summary: Summary):
    assert open_summary.truncated == Share(1, 11)
    assert open_summary.tokens == pytest.approx((10 * 4 + 12) / 11)
    assert open_summary.answers == pytest.approx((3 + 1 + 3 + 2) / 4)  # None is not an answer


def test_summarise_levels_are_sorted_and_exclude_ungraded(open_summary: Summary):
    levels = open_summary.levels
    assert [level[:2] for level in levels] == [("math_level", "2"), ("math_level", "10")]
    assert [level.before for level in levels] == [Share(1, 1), Share(0, 2)]
    assert [level.after for level in levels] == [Share(1, 1), Share(1, 2)]


def test_summarise_lists_each_kind_of_level(tmp_path: Path):
    both = [named(math_level="1", fail_rate_level="4"), named(math_level="1"), None]
    more = [named(math_level="1", fail_rate_level="2")]
    parts = [
        ([decoded(f"q{i}", 0, WHOLE, "8", False)], [open_question(f"q{i}", 0, metadata=known)])
        for i, known in enumerate([*both, *more])
    ]
    summary = summarise(make_run(tmp_path, *parts, scorer="generation"))
    # all are of one math level; two have no other level, or none at all
    assert [level[:2] for level in summary.levels] == [
        ("fail_rate_level", "2"),
        ("fail_rate_level", "4"),
    ]


def test_summarise_without_graded_questions(tmp_path: Path):
    summary = summarise(make_run(tmp_path, UNGRADED, scorer="generation"))
    assert (summary.before, summary.after, summary.corrected) == (Share(0, 0),) * 3
    assert math.isnan(summary.length)


# Asked again


def asked_again(name: str, plain: list[int], searches: list[Any], **fields: Any) -> dict[str, Any]:
    """Make a question of three options asked in two more variants, the model's answers there.

    A search is its target, and each path asked again with what held in the two variants.
    """

    def columns(target: int, *asked: tuple[tuple[int, ...], list[bool]]) -> dict[str, Any]:
        again = [{"path": path, "holds": holds} for path, holds in asked]
        best = min((path for path, _ in asked if path != WHOLE), key=len, default=None)
        robust = [path for path, holds in asked if all(holds) and path != WHOLE]
        return {"target": target, "best": best, "again": again, "robust": min(robust, default=None)}

    gold, *controls = [columns(*search) for search in searches]
    gold.pop("target")
    counts = {"evaluations": 2, "shared": 1}
    scores = [[-1.0 if j == answer else -2.0 for j in range(3)] for answer in (1, *plain)]
    return question(
        name, controls=[one | counts for one in controls], variant_answers=plain,
        baseline_scores=scores, **gold | fields,
    )  # fmt: skip


def test_summarise_what_was_asked_again(tmp_path: Path):
    no, yes, half = [False, False], [True, True], [True, False]
    asked = [
        # wrong in all before, gold holds, the control does not
        asked_again("a", [1, 1], [(0, (WHOLE, no), ((0, 1), yes)), (2, (WHOLE, no), ((0,), half)),
                                  (1, (WHOLE, yes), ((0, 1, 2), yes))]),
        # wrong in all before, gold does not hold, the control does
        asked_again("b", [1, 2], [(0, (WHOLE, no), ((0, 1), half)), (2, (WHOLE, no), ((0,), yes))]),
        # right in one variant before
        asked_again("c", [0, 1], [(0, (WHOLE, half), ((0, 1), yes)), (2, (WHOLE, no))]),
        # right in all before, and on two layers fewer
        asked_again("d", [0, 0], [(0, (WHOLE, yes), ((0, 1), yes))],
                    baseline=True, baseline_answer=0),
    ]  # fmt: skip
    rows = [evaluation(row["question"], 0, WHOLE, 1, False) for row in asked]
    summary = summarise(make_run(tmp_path, (rows, asked)))
    again = summary.again
    assert again is not None
    assert again.agreement == Share(6, 8)
    assert again.before == Share(1, 4)
    assert again.held == Share(1, 2)  # a of a and b
    assert again.held_control == Share(0, 1)  # of a, as b's is the model's answer in a variant
    assert again.corrected == Share(1, 2)  # a of a and b
    assert again.mixed == Share(1, 1)  # c
    assert again.shortened == Share(1, 1)
    robust = summary.nets["robust"]
    assert (robust.value, robust.n, robust.reached) == (1.0, 1, 1)
    # a and b of a, b and c, which has no control where its second answer is right
    assert (summary.nets["once"].n, summary.nets["asked again"].n) == (3, 1)
    kept = summary.kept["robust"]
    assert (kept.right, kept.n_right, kept.wrong, kept.n_wrong) == (2, 1, 1, 1)
    run = make_run(tmp_path / "2", (rows, asked))
    text = printed(terminal_report(search_report(run, summary), whole=True))
    assert "robust, beyond control (W→C)" in text
    assert max(map(len, text.splitlines())) <= 80

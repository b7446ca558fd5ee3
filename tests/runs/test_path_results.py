"""Estimates of given paths."""

import math
from pathlib import Path

import pytest

from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL
from cola_jax.runs.run import Run
from tests.small_runs import PATHS, WHOLE, letters, make_run


def test_paths_are_ordered_by_accuracy_and_length(evaluated_run: Run):
    results = evaluated_run.summary()
    assert results.groups == ["0,3", "0-1,2,2,3", MODEL]
    assert [results.value(CORRECT, group) for group in results.groups] == [1, 1, 0.5]
    assert [results.value("margin", group) for group in results.groups] == [4, 2, 0.5]
    change = results.find(CHANGE, "0,3")
    assert change is not None
    assert (change.value, change.corrected, change.n) == (0.5, 1, 2)
    assert results.find(CHANGE, MODEL) is None
    assert results.value("evaluations") == 6
    assert results.value("evaluations, not finite") == pytest.approx(1 / 6)
    assert results.sentences[0].startswith("Nothing shown: none differs from the model beyond")


def test_p_of_a_path_is_that_of_mcnemar(tmp_path: Path):
    """12 questions, of which the path corrects 8 and breaks 1."""
    rows = [[(WHOLE, 0, i > 7), ((0, 3), 0, i != 11)] for i in range(12)]
    parts = [letters(f"q{i}", pair) for i, pair in enumerate(rows)]
    run = make_run(tmp_path, *parts, command="evaluate", paths=[list(WHOLE), [0, 3]])
    [sentence] = run.summary().sentences
    assert sentence.startswith(
        "Shown: 0,3 answers more questions correctly than the model, in this prompt, by +58"
    )
    assert "p 0.039" in sentence
    assert "corrected" not in sentence


def test_ungraded_paths_come_last(open_evaluated: Run):
    results = open_evaluated.summary()
    assert results.groups == ["0-1,2,2,3", MODEL, "0,3"]
    assert math.isnan(results.value(CORRECT, "0,3"))
    assert [results.value("tokens", group) for group in results.groups] == [4, 8, 4]
    assert results.value("evaluations, ungraded") == pytest.approx(3 / 6)
    assert results.value("evaluations, truncated") == pytest.approx(1 / 6)


def test_margin_of_no_finite_evaluation(tmp_path: Path):
    part = letters("q1", [(WHOLE, -1, False, {"margin": -math.inf, "finite": False})])
    run = make_run(tmp_path, part, command="evaluate", paths=[list(PATHS[0])])
    assert math.isnan(run.summary().value("margin", MODEL))

"""Evaluations of given paths, as numbers and as a report."""

import math
import re
from pathlib import Path

import pytest

from cola_jax.report.evaluation import evaluation_report, path_results
from cola_jax.runs.run import Run
from tests.report.conftest import EVALUATE, PATHS, WHOLE, letters, make_run, text_of, words_of


def test_path_results_reject_other_runs(run: Run, tmp_path: Path):
    with pytest.raises(ValueError, match="use summarise for a search"):
        path_results(run)
    with pytest.raises(ValueError, match="no question done yet"):
        path_results(make_run(tmp_path, **EVALUATE))


def test_report_lists_paths(evaluated: Run):
    text = text_of(evaluation_report(evaluated))
    more = r" +34\.2 to 100\.0 +−\d+\.\d to \+\d+\.\d *\n"
    assert re.search(rf"0, 3 +2 +100\.0 % +\+50\.0 +1\.000 +4\.00 *\n{more}", text)
    assert re.search(rf"0-1, 2, 2, 3 +5 +100\.0 % +\+50\.0 +1\.000 +2\.00 *\n{more}", text)
    assert re.search(r"0-3 \(identity\) +4 +50\.0 % +0\.50 *\n +9\.5 to 90\.5 *\n", text)
    assert text.count("(identity)") == 1
    # the best first; of equal ones the shorter
    assert [result.path for result in path_results(evaluated)] == [PATHS[i] for i in (2, 1, 0)]
    assert text.startswith("Nothing shown: no path differs from the model beyond chance")
    text = " ".join(text.split())
    assert "6 evaluations on 2 of 2 questions, for this prompt alone. " in text
    assert "1 evaluations not finite" in text
    assert "two-sided, corrected (Holm) for 2 paths" in text
    assert "selected on these same questions" in text
    assert not re.search("token|trun|ngraded", text)


def test_report_of_a_claim_has_no_selection_and_a_p(tmp_path: Path):
    """12 questions, of which the path corrects 8 and breaks 1: p of McNemar's exact test."""
    rows = [[(WHOLE, 0, i > 7), ((0, 3), 0, i != 11)] for i in range(12)]
    parts = [letters(f"q{i}", pair) for i, pair in enumerate(rows)]
    both = {"command": "evaluate", "paths": [list(WHOLE), [0, 3]]}
    text = words_of(evaluation_report(make_run(tmp_path / "1", *parts, **both)))
    assert text.startswith("Shown: path 0,3 answers more questions correctly than the model (+58.3")
    assert "+58.3 0.039" in text
    assert "p: exact, two-sided." in text
    assert "selected" not in text
    assert "Holm" not in text
    alone = [letters(f"q{i}", pair[1:]) for i, pair in enumerate(rows)]
    run = make_run(tmp_path / "2", *alone, command="evaluate", paths=[[0, 3]])
    text = words_of(evaluation_report(run))
    assert text.startswith("Path 0,3 answers 11 of 12 questions correctly, 91.7 % (95 % interval ")
    assert "The identity path was not evaluated" in text
    assert "add --paths 0-3" in text


def test_report_of_the_model_alone_states_its_accuracy(tmp_path: Path):
    parts = [letters(f"q{i}", [(WHOLE, 0, i > 0)]) for i in range(4)]
    run = make_run(tmp_path, *parts, command="evaluate", paths=[list(WHOLE)])
    text = words_of(evaluation_report(run))
    assert text.startswith("The model answers 3 of 4 questions correctly, 75.0 % (95 % interval ")
    assert "Nothing shown" not in text
    ungraded = [letters("q0", [(WHOLE, 0, None)])]
    run = make_run(tmp_path / "2", *ungraded, command="evaluate", paths=[list(WHOLE)])
    assert words_of(evaluation_report(run)).startswith("The model was not graded on any question.")


def test_report_without_finite_margin(tmp_path: Path):
    part = letters("q1", [(WHOLE, -1, False, {"margin": -math.inf, "finite": False})])
    run = make_run(tmp_path, part, command="evaluate", paths=[list(WHOLE)])
    assert math.isnan(path_results(run)[0].margin)
    assert "–" in text_of(evaluation_report(run))


def test_report_of_completions(open_evaluated: Run):
    text = text_of(evaluation_report(open_evaluated))
    assert re.search(r"0-1, 2, 2, 3 +5 +100\.0 % +\+0\.0 +1\.000 +4\.0 *\n +20\.7 to 100\.0 ", text)
    assert re.search(r"4 +50\.0 % +8\.0 *\n +9\.5 to 90\.5 *\n", text)
    assert re.search(r"0, 3 +2 +– +– +– +4\.0", text)
    results = path_results(open_evaluated)
    assert [result.path for result in results] == [PATHS[i] for i in (1, 0, 2)]
    assert [result.margin for result in results[:2]] == [2.0, 2.0]  # ungraded ones have none
    assert math.isnan(results[2].margin)
    text = " ".join(text.split())
    assert "3 evaluations ungraded" in text
    assert "Truncated by the token limit: 16.7 %; tokens decoded per evaluation, mean: 5.3." in text

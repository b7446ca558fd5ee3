"""`Run.summary`: the same sentence as that of the report, of searches and of given paths."""

import pytest

from cola_jax.report import summarise
from cola_jax.report.evaluation import evaluation_verdict, path_results
from tests.report.conftest import EVALUATE, PATHS, WHOLE, answers, letters, make_run, part


def test_summary_of_a_search_is_that_of_its_report(tmp_path):
    run = make_run(tmp_path, *map(part, ("q1", "q2", "q3", "q4")))
    assert run.summary().sentence == summarise(run).sentence
    assert repr(run.summary()).startswith(run.summary().sentence + "\n")
    assert run.summary()._repr_html_().count("<tr>") == 6


def test_summary_of_an_evaluation_is_that_of_its_report(tmp_path):
    rows = [[(WHOLE, 0, i > 7), ((0, 3), 0, i != 11)] for i in range(12)]
    parts = [letters(f"q{i}", pair) for i, pair in enumerate(rows)]
    both = {"command": "evaluate", "paths": [list(WHOLE), [0, 3]]}
    run = make_run(tmp_path / "both", *parts, **both)
    summary = run.summary()
    assert summary.sentence == evaluation_verdict(path_results(run))
    assert summary.sentence.startswith("Shown: path 0,3 answers more questions ")
    assert summary.to_pandas()["correct"].tolist() == [pytest.approx(1 / 3), pytest.approx(11 / 12)]
    ungraded = [answers("q0", [(path, "x", None) for path in PATHS])]
    ungraded = make_run(tmp_path / "none", *ungraded, **EVALUATE)
    assert [share.correct.n for share in ungraded.summary().paths] == [0] * len(PATHS)


def test_summary_refuses_other_commands(tmp_path):
    with pytest.raises(ValueError, match=r"made by 'static', not by a search .* see `cola report"):
        make_run(tmp_path, command="static").summary()

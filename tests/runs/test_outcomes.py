"""`Outcomes`: a short repr, a summary with the control, and a row for each question."""

import numpy as np
import pytest

import cola_jax
from cola_jax.runs.estimates import BEFORE, FOUND, REACHED
from cola_jax.runs.outcomes import Outcomes, case_of
from cola_jax.runs.schema import search_question_row
from cola_jax.strategies.reached import Case, Ways
from tests.runs.conftest import encode
from tests.strategies.formula import checksum, formula, questions


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Searches whose answers depend on the question and on the path."""
    evaluate = formula(lambda b, path: checksum(b, *path) % 4)
    return cola_jax.search(evaluate, questions(8), simulations=30, num_layers=6)


def test_repr_has_a_few_lines_and_the_control(outcomes: Outcomes):
    text = repr(outcomes)
    assert len(text) < 2000
    assert len(text.splitlines()) < 16
    assert text.startswith(f"Outcomes of 8 questions, {outcomes.evaluations} evaluations")
    assert "expected by chance and preference" in text
    assert outcomes.summary().sentences[0] in text
    html = outcomes._repr_html_()
    assert "expected by chance and preference" in html


def test_no_outcomes_have_a_repr(outcomes: Outcomes):
    none = Outcomes([], outcomes.settings)
    assert repr(none).startswith("Outcomes of 0 questions, 0 evaluations\nNothing shown: ")
    assert none.to_pandas().empty


def test_cases_are_those_of_the_rows_of_a_run(outcomes: Outcomes):
    for outcome in outcomes:
        row = search_question_row(encode(outcome.question), outcome)
        ours, stored = case_of(outcome), Case.of(row)
        np.testing.assert_allclose(ours.scores, stored.scores, rtol=1e-6)
        np.testing.assert_allclose(ours.chance, stored.chance, rtol=1e-6)
        assert ours._replace(scores=stored.scores, chance=stored.chance) == stored


def test_summary_counts_every_question(outcomes: Outcomes):
    summary = outcomes.summary()
    wrong = [outcome for outcome in outcomes if not outcome.baseline]
    before = summary.find(BEFORE)
    reached = summary.find(REACHED)
    found = summary.find(FOUND)
    assert before is not None
    assert reached is not None
    assert found is not None
    assert before.hits == len(outcomes) - len(wrong)
    assert reached.n == found.n == len(wrong)
    assert reached.hits == sum(outcome.best is not None for outcome in wrong)
    assert Ways.of([case_of(o) for o in outcomes], open=False).names == ("once",)


def test_to_pandas_has_the_control_and_texts_of_paths(outcomes: Outcomes):
    table = outcomes.to_pandas().set_index("question")
    assert list(table.columns) == [
        "baseline", "best", "length", "confirmed", "controls", "controls_reached", "control_best",
        "evaluations",
    ]  # fmt: skip
    for outcome in outcomes:
        row = table.loc[outcome.question.id]
        reached = [each for each in outcome.controls if each.best is not None]
        if outcome.baseline:
            assert row["controls"] == 0
        else:  # two other wrong options, and a search for the model's own answer
            assert (row["controls"], len(outcome.controls)) == (2, 3)
            assert row["controls_reached"] == len(reached) - 1
        paths = {path for each in (outcome, *outcome.controls) for path in each.paths}
        assert row["evaluations"] == len(paths)
    assert isinstance(table["best"].dropna().iloc[0], str)
    assert isinstance(table["control_best"].dropna().iloc[0], str)

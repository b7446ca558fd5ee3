"""A search made in Python, saved as a run."""

import cola_jax
from cola_jax.report import summarise
from tests import tiny


def test_saved_search_is_a_run_with_a_report(checkpoint, tmp_path):
    questions = tiny.questions(5)
    model = cola_jax.load(checkpoint)
    evaluate = cola_jax.evaluator(model, questions, "options")
    outcomes = cola_jax.search(evaluate, questions, simulations=8, leaves=4)
    outcomes = cola_jax.confirm(evaluate, outcomes)
    run = cola_jax.save_run(tmp_path / "run", outcomes, evaluate)
    assert run.settings()["simulations"] == 8
    rows = run.questions().to_pylist()
    assert [row["question"] for row in rows] == [question.id for question in questions]
    assert [row["confirmed"] for row in rows] == [outcome.confirmed for outcome in outcomes]
    assert summarise(run).before.n == 5

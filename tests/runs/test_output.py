"""Runs of `search` and `evaluate` in Python: reports, interruptions, and questions that fail."""

import numpy as np
import pytest

import cola_jax
from cola_jax.checkpoint import digest_of
from cola_jax.cli.main import main
from cola_jax.errors import InputError, Unfinished
from cola_jax.metrics import Metrics
from cola_jax.runs.run import Run
from cola_jax.scoring import Options
from tests import tiny
from tests.runs.conftest import evaluated, failing_after, written

QUESTIONS = tiny.questions(5)
SEARCH = {"simulations": 8, "leaves": 4, "scorer": "options", "batch_size": 2, "control": "one"}
EVALUATE = {"scorer": "options", "batch_size": 2}
PATHS = ["0-4", "0,2,4", "0-1,1,2-4"]


@pytest.fixture(scope="module")
def searched(model, tmp_path_factory):
    """The folder of a run, and the outcomes that were returned with it."""
    folder = tmp_path_factory.mktemp("search") / "run"
    return folder, cola_jax.search(model, QUESTIONS, output=folder, **SEARCH)


def check_equal(outcomes, others):
    """Check that outcomes have the same paths, verdicts and margins."""
    assert len(outcomes) == len(others)
    for one, other in zip(outcomes, others, strict=True):
        assert (one.question, one.paths, one.best) == (other.question, other.paths, other.best)
        assert (one.baseline, one.confirmed) == (other.baseline, other.confirmed)
        np.testing.assert_allclose(one.verdicts.margin, other.verdicts.margin, atol=1e-5)
        assert [each.best for each in one.controls] == [each.best for each in other.controls]


def test_search_writes_a_run_with_a_report(searched, model, capsys):
    folder, outcomes = searched
    run = Run(folder)
    assert [o.question for o in outcomes] == QUESTIONS
    assert sorted(run.questions().column("question").to_pylist()) == [f"q{i}" for i in range(5)]
    # up to the p-value, whose draws depend on the order of the questions
    ours, theirs = (each.summary().sentences[0].partition(", p ") for each in (run, outcomes))
    assert ours[:2] == theirs[:2]
    best = {row["question"]: row["best"] for row in run.questions().to_pylist()}
    assert best == {o.question.id: None if o.best is None else list(o.best) for o in outcomes}
    main(["report", str(folder)])
    assert "5 questions" in " ".join(capsys.readouterr().out.split())
    alone = cola_jax.confirm(cola_jax.search(model, QUESTIONS, **SEARCH))
    check_equal(outcomes, alone)


def test_search_resumes_without_evaluations(searched, model):
    folder, outcomes = searched
    metrics, before = Metrics(), Run(folder).parts()
    again = cola_jax.search(model, QUESTIONS, output=folder, metrics=metrics, **SEARCH)
    assert metrics.evaluations == 0
    assert Run(folder).parts() == before
    check_equal(again, outcomes)


def test_interrupted_search_returns_what_an_unbroken_one_does(
    searched, model, tmp_path, monkeypatch
):
    run, metrics = Run(tmp_path / "run"), Metrics()
    with failing_after(3, monkeypatch):
        cola_jax.search(model, QUESTIONS, output=run.directory, **SEARCH)
    kept = evaluated(run) + written(run)
    assert kept > 0
    outcomes = cola_jax.search(model, QUESTIONS, output=run.directory, metrics=metrics, **SEARCH)
    check_equal(outcomes, searched[1])
    again = run.summary().value("added by other wordings")
    assert metrics.evaluations == evaluated(run) - kept + again


def test_a_model_that_was_edited_runs_as_it_is(model, tmp_path):
    """The file in its place would give other verdicts, and its digest."""
    (stack,) = model.layers
    edited = model.replace(layers=(stack.replace(down=stack.down.at[1].set(np.nan)),))
    folder = str(tmp_path / "run")
    for options in ({}, {"output": folder}):
        verdicts = cola_jax.evaluate(edited, QUESTIONS, PATHS, **EVALUATE, **options).verdicts
        np.testing.assert_array_equal(verdicts.finite, [[False, True, False]] * 5)
    outcomes = cola_jax.search(edited, QUESTIONS, output=tmp_path / "search", **SEARCH)
    assert not any(outcome.baseline for outcome in outcomes)
    assert all(1 not in outcome.best for outcome in outcomes if outcome.best is not None)
    runs = Run(folder), Run(tmp_path / "search")
    assert {run.settings()["model"] for run in runs} == {digest_of(edited)}
    with pytest.raises(InputError, match=r"created with different settings .*--model"):
        cola_jax.evaluate(model, QUESTIONS, PATHS, output=folder, **EVALUATE)


@pytest.fixture
def poison():
    """Let the question q3 fail with the scorer `options`; returns what ends that."""
    patch, evaluator = pytest.MonkeyPatch(), Options.evaluator

    def fail(self, worker, encoded, workload):
        if any(each.question.id == "q3" for each in encoded):
            raise RuntimeError("q3 is poisoned")
        return evaluator(self, worker, encoded, workload)

    patch.setattr(Options, "evaluator", fail)
    yield patch.undo
    patch.undo()


@pytest.mark.parametrize("command", ["search", "evaluate"])
def test_a_question_that_always_fails_is_set_aside(model, tmp_path, poison, command):
    run, options = Run(tmp_path / "run"), {"output": str(tmp_path / "run"), "batch_size": 4}

    def fill():
        if command == "evaluate":
            return cola_jax.evaluate(model, QUESTIONS, PATHS, **(EVALUATE | options)).questions
        outcomes = cola_jax.search(model, QUESTIONS, **(SEARCH | options))
        return [outcome.question for outcome in outcomes]

    for _ in range(2):
        with pytest.raises(Unfinished, match=r"lacks 1 question .*\(q3\).*a smaller --batch-size"):
            fill()
        assert sorted(run.questions().column("question").to_pylist()) == ["q0", "q1", "q2", "q4"]
        (failure,) = run.failures()  # of the last start
        assert (failure["questions"], failure["reason"]) == (["q3"], "q3 is poisoned")
    poison()
    assert fill() == QUESTIONS
    assert run.questions().num_rows == len(QUESTIONS)
    assert len(run.read_starts()[1]) == 3


def test_a_command_with_a_question_set_aside_ends_with_status_1(
    checkpoint, task, tmp_path, poison, capsys
):
    out = str(tmp_path / "run")
    command = ["evaluate", "--model", checkpoint, "--task", task, "--data", "1", "--output", out]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "lacks 1 question that failed again and again (q3)" in error
    assert Run(out).questions().num_rows == 5
    poison()
    main(command)
    assert Run(out).questions().num_rows == 6

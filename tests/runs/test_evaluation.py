"""`Evaluation`: its tables, and what a notebook shows of it."""

import numpy as np
import pytest

import cola_jax
from cola_jax.path import STOP, identity, random_paths
from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL
from cola_jax.runs.evaluation import Evaluation
from cola_jax.scoring import Completion, Grade, Verdicts
from tests import tiny

QUESTIONS = tiny.questions(8)


def lengths(paths):
    """Judge by length: a path is right where it has fewer than five layers."""
    return 4.5 - (paths != STOP).sum(axis=-1)


def test_to_pandas_has_a_row_per_evaluation():
    paths = [(0, 1, 1, 2), (4, 0, 1, 2, 3)]
    evaluation = cola_jax.evaluate(lengths, QUESTIONS[:2], paths, num_layers=5)
    assert evaluation.to_pandas().to_dict("list") == {
        "question": ["q0", "q0", "q1", "q1"],
        "path": ["0,1,1,2", "4,0-3"] * 2,
        "length": [4, 5] * 2,
        "correct": [True, False] * 2,
        "margin": [0.5, -0.5] * 2,
        "answer": [0, -1, 1, -1],
    }


def test_summary_compares_each_path_with_the_identity_path():
    """On the questions that both have, without answers that were not graded."""
    paths = [[identity(5), (0, 1)]] * 3 + [[identity(5)]] * 4 + [[(0, 1)]]
    evaluation = cola_jax.evaluate(lengths, QUESTIONS, paths, num_layers=5)
    ungraded = Completion("x", "x", "stop", False, Grade.UNGRADED, (1,), -1.0)
    evaluation.verdicts.completion[2, 1] = ungraded
    summary = evaluation.summary()
    assert summary.groups == [MODEL, "0-1"]
    plain = summary.find(CORRECT, MODEL)
    short = summary.find(CORRECT, "0-1")
    change = summary.find(CHANGE, "0-1")
    assert plain is not None
    assert short is not None
    assert change is not None
    assert (plain.n, plain.value) == (7, 0)
    assert (short.n, short.value) == (3, 1)
    assert short.low < 1 == short.high
    assert (change.value, change.p, change.n) == (1, 0.5, 2)
    alone = cola_jax.evaluate(lengths, QUESTIONS, [(0, 1)], num_layers=5).summary()
    assert [each.name for each in alone] == ["layers", CORRECT]


@pytest.mark.parametrize("count", [1, 2, 60])
def test_repr_is_a_short_table(count):
    paths = [identity(5), *random_paths(5, 59, seed=0)][:count]
    evaluation = cola_jax.evaluate(lengths, QUESTIONS, paths, num_layers=5)
    text, page = repr(evaluation), evaluation._repr_html_()
    title, sentence, head, *_ = text.splitlines()
    assert title == f"Evaluation of 8 questions, {8 * count} evaluations"
    assert [sentence] == evaluation.summary().sentences
    assert "correct" in head
    assert len(text) < 2000
    assert len(page) < 3000
    assert len(text.splitlines()) == 3 + min(count, 10) + (count > 10)
    assert ("and 50 groups more" in text) == ("and 50 groups more" in page) == (count == 60)
    long = np.array([[[0] * 300]])
    verdicts = Verdicts.of_margins(np.ones((1, 1)))
    assert len(repr(Evaluation(QUESTIONS[:1], long, verdicts, 5))) < 1300

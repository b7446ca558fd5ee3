"""Tests of identities."""

import pytest

from cola_jax.errors import InputError
from cola_jax.identity import check_belongs, path_digest, question_digest, set_digest
from cola_jax.question import Question

QUESTION = Question("q", "Which?", ("a", "b", "c"), 1)


def test_question_digest_tells_text_options_and_gold_but_not_ids():
    others = [
        Question("q", "What?", ("a", "b", "c"), 1),
        Question("q", "Which?", ("a", "b", "d"), 1),
        Question("q", "Which?", ("b", "a", "c"), 0),
        Question("q", "Which?", ("a", "b", "c"), 0),
    ]
    assert question_digest(Question("r", "Which?", ("a", "b", "c"), 1)) == question_digest(QUESTION)
    assert len({question_digest(question) for question in [QUESTION, *others]}) == 5
    unordered = [question_digest(question, ordered=False) for question in [QUESTION, *others]]
    assert unordered[0] == unordered[3]
    assert len(set(unordered)) == 4


def test_set_digest_ignores_order():
    assert set_digest(["a", "b"]) == set_digest(["b", "a"]) != set_digest(["a"])


def test_path_digest_tells_order():
    assert path_digest([0, 1, 1]) != path_digest([1, 0, 1])


def test_check_belongs_names_what_differs_and_ignores_what_one_side_does_not_know():
    theirs = {"model": "a" * 64, "path": None, "questions": {"q": "1", "r": "2", "s": "3"}}
    check_belongs("f", theirs, "this model", {"path": "x", "questions": {"q": "1"}}, "stop")
    ours = {"model": "b" * 64, "questions": {"q": "1", "r": "9"}}
    with pytest.raises(InputError) as error:
        check_belongs("menu.json", theirs, "this model", ours, "make it again")
    assert "menu.json does not belong to this model" in str(error.value)
    assert "model is aaaaaaaaaaaa, here it is bbbbbbbbbbbb" in str(error.value)
    assert "1 of 3 questions have changed ('r')" in str(error.value)
    assert "Make it again." in str(error.value)

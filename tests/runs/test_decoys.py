"""Decoys that a model itself answers on other paths: which is chosen, and what cannot serve."""

import pytest

from cola_jax.question import open_question
from cola_jax.runs.decoys import Answers
from cola_jax.runs.directory import RunDirectory

PLAIN, OTHERS = (0, 1, 2), [(0, 1), (1, 2), (0, 2), (2, 1), (2,), (0, 0)]
SETTINGS = {"command": "evaluate", "model": "abc", "paths": [PLAIN, *OTHERS], "questions": 1}
START = {"num_layers": 3, "scorer": {"open": True, "decodes": True}}


def a_run(folder, own, others, settings=SETTINGS, start=START, cut=()):
    """Makes a run of one question q, whose gold is 8."""
    rows = [
        {
            "question": "q",
            "path": path,
            "node": i,
            "answer_text": answer,
            "grade": "right" if answer == "8" else "wrong",
            "truncated": answer in cut,
        }
        for i, (path, answer) in enumerate(
            zip([PLAIN, *OTHERS[: len(others)]], [own, *others], strict=True)
        )
    ]
    with RunDirectory(folder).open(settings, start) as run:
        run.write(rows, [{"question": "q"}])
    return folder


@pytest.mark.parametrize(
    ("own", "others", "decoy"),
    [
        ("7", ["8", "8", "5", "5", "6", "9"], "5"),
        ("5", ["8", "8", "5", "5", "6", "6"], "6"),  # not the model's own answer
        ("7", ["8", "8", "x", "x", "6", "y"], "6"),  # a number for a number
        ("7", ["8", "8", "07", "07", "6", ""], "6"),
    ],
)
def test_decoy_is_answered_as_often_as_gold(tmp_path, own, others, decoy):
    answers = Answers(a_run(tmp_path / "run", own, others))
    assert answers.decoy(open_question("q", "3 + 5", "8")) == decoy


def test_decoy_of_a_gold_that_no_path_gives_is_one_that_none_gives(tmp_path):
    question = open_question("q", "3 + 5", "8")
    answers = Answers(a_run(tmp_path / "run", "1", ["2", "3", "3", "1", "1", "1"]))
    assert answers.decoy(question) == question.options[1]  # close to gold


def test_decoy_may_be_any_text_where_gold_is_no_integer(tmp_path):
    folder = a_run(tmp_path / "run", "x", ["8", "y", "z", "z", "z", "w"], cut={"y"})
    answers = Answers(folder)
    assert answers.decoy(open_question("q", "Which?", "1/2")) == "w"
    folder = a_run(tmp_path / "other", "x", ["x"] * 6)
    assert Answers(folder).decoy(open_question("q", "Which?", "1/2")) is None


def test_questions_must_have_been_answered(tmp_path):
    answers = Answers(a_run(tmp_path / "run", "1", ["2"] * 6))
    with pytest.raises(ValueError, match=r"question other is not among those answered in .*run"):
        answers.decoy(open_question("other", "1 + 1", "2"))


@pytest.mark.parametrize(
    ("settings", "start", "message"),
    [
        ({"command": "search"}, {}, "decoded answers of given paths"),
        ({}, {"scorer": {"open": True, "decodes": False}}, "scorer generation"),
        ({"model": "xyz"}, {}, "another checkpoint"),
        ({"paths": OTHERS}, {}, "add --paths 0-2 and --random 50"),
        ({"paths": [PLAIN]}, {}, "add --paths 0-2"),
    ],
)
def test_other_runs_cannot_serve(tmp_path, settings, start, message):
    folder = a_run(tmp_path / "run", "1", ["2"] * 6, SETTINGS | settings, START | start)
    with pytest.raises(ValueError, match=message):
        Answers(folder, "abc")

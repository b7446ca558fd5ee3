"""Stored runs: labels, samples for PoLar, and decoys."""

import json
from typing import Any

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.formats.peers import read_paths
from cola_jax.path import parse_path
from cola_jax.question import open_question
from cola_jax.runs import stored
from cola_jax.runs.run import Run
from cola_jax.runs.schema import Part, evaluation_rows, question_row
from cola_jax.scoring import Options, Verdicts
from tests.runs.conftest import asking

LABELLED = {(0, 1, 2): False, (0, 1, 1, 2): True, (0, 2): True, (1, 2): None, (2, 1): False}
QUESTION = {"text": "1 + 1?", "options": ["2", "3"], "gold": 0, "prompt_hash": "x"}
DONE = {"num_layers": 3, "model": "someone/model", "task": "sums"}


def write_run(folder, labelled=LABELLED, start=DONE, settings=None, **changes) -> Run:
    """Write a run of a question `a`, with a control search of one path."""
    rows = [{"path": path, "verdict": right, "control": False} for path, right in labelled.items()]
    rows.append({"path": (2,), "verdict": True, "control": True})
    with Run(folder).open({"simulations": 4} | (settings or {}), start) as run:
        questions = [{"question": "a"} | QUESTION | changes]
        run.write(Part([{"question": "a"} | row for row in rows], questions))
    return run


def test_labels_leave_out_control_searches_and_ungraded_paths(tmp_path):
    (labels,) = stored.read_labels(write_run(tmp_path / "once"))
    assert [*labels.verdicts] == [*LABELLED]
    assert labels.correct == [(0, 2), (0, 1, 1, 2)]
    assert labels.gold == 0
    with Run(tmp_path / "new").open({"simulations": 4}, DONE) as run:
        pass
    with pytest.raises(ValueError, match="no question done yet"):
        stored.read_labels(run)


def test_write_polar_shows_options_but_for_open_questions(tmp_path):
    run, file = write_run(tmp_path / "choice"), tmp_path / "new" / "samples.json"
    sample = {
        "question": "1 + 1?\nA. 2\nB. 3",
        "gt_ans": "A",
        "initial_score": 0.0,
        "final_valid_transitions": [[0, 2], [0, 1, 1, 2]],
        "final_invalid_transitions": [[0, 1, 2], [1, 2], [2, 1]],
    }
    assert stored.write_polar(run, file) == f"PoLar: {file}, 1 question with 5 paths"
    assert json.loads(file.read_text()) == {"num_layers": 3, "samples": [sample]}
    assert {*read_paths(file, 3)} == {*LABELLED}
    with pytest.raises(ValueError, match="exists already: remove it"):
        stored.write_polar(run, file)
    is_open = write_run(tmp_path / "open", {(0, 2): True}, DONE | {"scorer": {"open": True}})
    (sample,) = stored.polar_samples(is_open)["samples"]
    assert (sample["question"], sample["gt_ans"]) == ("1 + 1?", "2")
    assert "initial_score" not in sample  # not known
    with pytest.raises(ValueError, match="question 'a' has no correct answer"):
        stored.polar_samples(write_run(tmp_path / "completed", gold=None, options=[]))


def test_polar_samples_refuses_steps(tmp_path):
    run = write_run(tmp_path, {parse_path("0,1a", 3): True}, settings={"steps": True})
    with pytest.raises(InputError, match="parts or shares of layers, such as 0,1a, and PoLar's"):
        stored.polar_samples(run)


SETTINGS = {"model": "abc", "dtype": "float32", "scorer": "options", "questions": 2}
PATHS = [(0, 1, 2), (0, 1, 1, 2), (2,)]
SCORES = np.array([[-1.0, -2], [-3, -2], [-1, -1.5]])


@pytest.fixture
def run(tmp_path):
    """A run of two questions; the scores of the second are those of the first less 1."""
    with Run(tmp_path / "run").open(SETTINGS, {"num_layers": 3}) as run:
        for i, encoded in enumerate((asking("a"), asking("b"))):
            rows = evaluation_rows(encoded, PATHS, Verdicts.of_scores(SCORES - i, 0))
            run.write(Part(rows, [question_row(encoded, len(PATHS))]))
    return run


def test_stored_verdicts_are_in_the_order_of_questions(run):
    verdicts = stored.stored_verdicts(
        run, [asking(x).question for x in "ba"], Options(None), len(PATHS)
    )
    np.testing.assert_array_equal(verdicts.scores, np.stack([SCORES - 1, SCORES]))
    np.testing.assert_array_equal(verdicts.verdict, [[True, False, True]] * 2)
    with pytest.raises(InputError, match="lacks 1 question: run the command again"):
        stored.stored_verdicts(run, [asking(x).question for x in "bac"], Options(None), len(PATHS))


PLAIN, OTHERS = (0, 1, 2), [(0, 1), (1, 2), (0, 2), (2, 1), (2,), (0, 0)]
ANSWERED = {"command": "evaluate", "model": "abc", "paths": [PLAIN, *OTHERS], "questions": 1}
START: dict[str, Any] = {"num_layers": 3, "scorer": {"open": True, "decodes": True}}


def answered(folder, own, others, settings=ANSWERED, start=START, cut=()):
    """Write a run of one question q, whose gold is 8."""
    rows = []
    for path, answer in zip([PLAIN, *OTHERS], [own, *others], strict=True):
        grade = {"answer_text": answer, "grade": "right" if answer == "8" else "wrong"}
        rows.append({"question": "q", "path": path, "truncated": answer in cut} | grade)
    with Run(folder).open(settings, start) as run:
        run.write(Part(rows, [{"question": "q"}]))
    return run


@pytest.mark.parametrize(
    ("gold", "own", "others", "decoy"),
    [
        ("8", "7", ["8", "8", "5", "5", "6", "9"], "5"),
        ("8", "5", ["8", "8", "5", "5", "6", "6"], "6"),  # not the model's own answer
        ("8", "7", ["8", "8", "x", "x", "6", "y"], "6"),  # a number for a number
        ("8", "7", ["8", "8", "07", "07", "6", ""], "6"),
        ("1/2", "x", ["8", "y", "z", "z", "z", "w"], "w"),  # any text for other gold, complete
        ("1/2", "x", ["x"] * 6, None),
    ],
)
def test_decoy_is_answered_as_often_as_gold(tmp_path, gold, own, others, decoy):
    answers = stored.Answers(answered(tmp_path / "run", own, others, cut={"y"}))
    assert answers.decoy(open_question("q", "3 + 5", gold)) == decoy


def test_decoy_of_a_gold_that_no_path_gives_is_close_to_it(tmp_path):
    question = open_question("q", "3 + 5", "8")
    answers = stored.Answers(answered(tmp_path / "run", "1", ["2", "3", "3", "1", "1", "1"]))
    assert answers.decoy(question) == question.options[1]
    with pytest.raises(ValueError, match=r"question other is not among those answered in .*run"):
        answers.decoy(open_question("other", "1 + 1", "2"))


def test_other_runs_cannot_serve(tmp_path):
    for number, (settings, start, message) in enumerate(
        (
            ({"command": "search"}, {}, "decoded answers of given paths"),
            ({}, {"scorer": {"open": True, "decodes": False}}, "scorer generation"),
            ({"paths": OTHERS}, {}, "add --paths 0-2 and --random 50"),
            ({"paths": [PLAIN]}, {}, "add --paths 0-2"),
        )
    ):
        folder = tmp_path / str(number)
        run = answered(folder, "1", ["2"] * 6, ANSWERED | settings, START | start)
        with pytest.raises(ValueError, match=message):
            stored.Answers(run)

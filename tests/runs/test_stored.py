"""Results of finished runs: labels, samples for PoLar, reused verdicts, and decoys."""

import json
from typing import Any

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.formats.peers import Searched, polar_samples, read_paths
from cola_jax.prompts import Prompts
from cola_jax.question import Question, open_question
from cola_jax.runs.run import Run
from cola_jax.runs.schema import evaluation_rows, question_row
from cola_jax.runs.stored import (
    Answers,
    Reuse,
    read_labels,
    read_searched,
    stored_verdicts,
    write_polar,
)
from cola_jax.scoring import Encoded, Verdicts

ROWS = [
    ((0, 1, 2), False),
    ((0, 1, 1, 2), True),
    ((0, 2), True),
    ((1, 2), None),
    ((2, 1), False),
]
QUESTION = {"text": "1 + 1?", "options": ["2", "3"], "gold": 0, "prompt_hash": "x"}
DONE = {"num_layers": 3, "model": "someone/model", "task": "sums"}


def write_run(folder, rows=ROWS, start=DONE, **changes) -> Run:
    """Write a run of a question `a`, with a control search of one path."""
    searched = [(path, verdict, False) for path, verdict in rows] + [((2,), True, True)]
    evaluations = [
        {"question": "a", "path": path, "verdict": verdict, "control": control}
        for path, verdict, control in searched
    ]
    with Run(folder).open({"simulations": 4}, start) as run:
        run.write(evaluations, [{"question": "a"} | QUESTION | changes] if rows else [])
    return run


def test_labels_leave_out_control_searches_and_ungraded_paths(tmp_path):
    (labels,) = read_labels(write_run(tmp_path))
    assert [*labels.verdicts] == [path for path, _ in ROWS]
    assert labels.correct == labels.held == [(0, 2), (0, 1, 1, 2)]
    assert (labels.gold, labels.robust) == (0, None)


def test_held_paths_are_right_in_all_variants(tmp_path):
    again = [
        {"node": 1, "path": [0, 1, 1, 2], "holds": [True, True]},
        {"node": 2, "path": [0, 2], "holds": [True, False]},
    ]
    (labels,) = read_labels(write_run(tmp_path, again=again))
    assert labels.held == [(0, 1, 1, 2)]


def test_a_run_without_questions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no question done yet"):
        read_labels(write_run(tmp_path, []))


def test_read_searched_shows_options_but_for_open_questions(tmp_path):
    right, wrong = ((0, 2), (0, 1, 1, 2)), ((0, 1, 2), (1, 2), (2, 1))
    expected = Searched("1 + 1?\nA. 2\nB. 3", "A", right, wrong, False)
    assert read_searched(write_run(tmp_path / "choice")) == [expected]
    is_open = write_run(tmp_path / "open", start=DONE | {"scorer": {"open": True}})
    assert read_searched(is_open) == [Searched("1 + 1?", "2", right, wrong, False)]


def test_write_polar_is_read_back(tmp_path):
    run, file = write_run(tmp_path / "run"), tmp_path / "new" / "samples.json"
    assert write_polar(run, file) == f"PoLar: {file}, 1 question with 5 paths"
    assert json.loads(file.read_text()) == polar_samples(read_searched(run), 3)
    assert {*read_paths(file, 3)} == {path for path, _ in ROWS}
    with pytest.raises(ValueError, match="exists already: remove it"):
        write_polar(run, file)


def test_write_polar_refuses_a_run_without_correct_answers(tmp_path):
    with pytest.raises(ValueError, match="question 'a' has no correct answer"):
        write_polar(write_run(tmp_path / "completed", gold=None, options=[]), tmp_path / "file")
    assert not (tmp_path / "file").exists()


# reused verdicts


SETTINGS = {"model": "abc", "dtype": "float32", "scorer": "options", "questions": 2}
PATHS = [(0, 1, 2), (0, 1, 1, 2), (2,)]
SCORES = np.array([[-1.0, -2], [-3, -2], [-1, -1.5]])


def encode(name, text="?"):
    zeros = np.zeros(2, np.int32)
    prompts = Prompts(ids=zeros, positions=zeros, branch=zeros)
    return Encoded(Question(name, text, ("x", "y"), 0), prompts, np.zeros(0, np.int32), text)


@pytest.fixture
def run(tmp_path):
    """A run of two questions; the scores of the second are those of the first less 1."""
    with Run(tmp_path / "run").open(SETTINGS, {"num_layers": 3}) as run:
        for i, encoded in enumerate((encode("a"), encode("b"))):
            rows = evaluation_rows(encoded, PATHS, Verdicts.of_scores(SCORES - i, 0))
            run.write(rows, [question_row(encoded, len(PATHS))])
    return run


def test_known_are_the_paths_that_fit(run):
    reuse = Reuse([str(run.directory)], SETTINGS, [encode("a"), encode("c")])
    known = reuse.known(encode("a"), 3)
    assert list(known) == [(0, 1, 2), (2,)]
    assert known[2,].margin.tolist() == [0.5]
    assert known[2,].scores.tolist() == [[-1, -1.5]]
    assert reuse.known(encode("c"), 3) == {}


def test_reuse_refuses_other_models_and_words(run):
    directory = str(run.directory)
    with pytest.raises(InputError, match="its model is abc, here it is xyz"):
        Reuse([directory], SETTINGS | {"model": "xyz"}, [encode("a")])
    with pytest.raises(InputError, match="none of these questions in the same words"):
        Reuse([directory], SETTINGS, [encode("a", "which?")])


def test_stored_verdicts_are_in_the_order_of_questions(run):
    verdicts = stored_verdicts(run, [encode("b"), encode("a")], len(PATHS))
    np.testing.assert_array_equal(verdicts.scores, np.stack([SCORES - 1, SCORES]))
    np.testing.assert_array_equal(verdicts.verdict, [[True, False, True]] * 2)


# decoys


PLAIN, OTHERS = (0, 1, 2), [(0, 1), (1, 2), (0, 2), (2, 1), (2,), (0, 0)]
ANSWERED = {"command": "evaluate", "model": "abc", "paths": [PLAIN, *OTHERS], "questions": 1}
START: dict[str, Any] = {"num_layers": 3, "scorer": {"open": True, "decodes": True}}


def answered(folder, own, others, settings=ANSWERED, start=START, cut=()):
    """Write a run of one question q, whose gold is 8, and return its directory."""
    rows = [
        {
            **{"question": "q", "path": path, "answer_text": answer, "truncated": answer in cut},
            "grade": "right" if answer == "8" else "wrong",
        }
        for path, answer in zip([PLAIN, *OTHERS], [own, *others], strict=True)
    ]
    with Run(folder).open(settings, start) as run:
        run.write(rows, [{"question": "q"}])
    return folder


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
    answers = Answers(answered(tmp_path / "run", own, others, cut={"y"}))
    assert answers.decoy(open_question("q", "3 + 5", gold)) == decoy


def test_decoy_of_a_gold_that_no_path_gives_is_close_to_it(tmp_path):
    question = open_question("q", "3 + 5", "8")
    answers = Answers(answered(tmp_path / "run", "1", ["2", "3", "3", "1", "1", "1"]))
    assert answers.decoy(question) == question.options[1]
    with pytest.raises(ValueError, match=r"question other is not among those answered in .*run"):
        answers.decoy(open_question("other", "1 + 1", "2"))


@pytest.mark.parametrize(
    ("settings", "start", "message"),
    [
        ({"command": "search"}, {}, "decoded answers of given paths"),
        ({}, {"scorer": {"open": True, "decodes": False}}, "scorer generation"),
        ({"paths": OTHERS}, {}, "add --paths 0-2 and --random 50"),
        ({"paths": [PLAIN]}, {}, "add --paths 0-2"),
    ],
)
def test_other_runs_cannot_serve(tmp_path, settings, start, message):
    folder = answered(tmp_path / "run", "1", ["2"] * 6, ANSWERED | settings, START | start)
    with pytest.raises(ValueError, match=message):
        Answers(folder)

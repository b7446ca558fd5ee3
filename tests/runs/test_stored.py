"""What other runs know: labels, verdicts that are reused, and decoys."""

from typing import Any

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.prompts import Prompts
from cola_jax.question import Question, open_question
from cola_jax.runs.run import Run
from cola_jax.runs.schema import evaluation_rows, question_row
from cola_jax.runs.stored import Answers, Reuse, read_labels, stored_verdicts
from cola_jax.scoring import Encoded, Verdicts


def evaluation(path: list[int], verdict: bool | None, control: bool = False) -> dict[str, Any]:
    return {
        **{"question": "a", "path": path, "length": len(path), "verdict": verdict},
        **{
            "margin": 0.5 if verdict else -0.5,
            "answer": 0,
            "finite": True,
            "node": 0,
            "control": control,
        },
    }


def write_parts(
    folder: Any, evaluations: list[dict[str, Any]], questions: list[dict[str, Any]]
) -> Run:
    with Run(folder).open({}, {}) as run:
        run.write(evaluations, questions)
    return run


QUESTION = {"question": "a", "text": "1 + 1", "options": [], "prompt_hash": "x", "metadata": []}
QUESTION |= {"evaluations": 4}
ASKED = {"variant_answers": [0, 0], "baseline_answer": 0}
ROWS = [
    evaluation([0, 1, 2], False),
    evaluation([0, 1, 1, 2], True),
    evaluation([0, 2], True),
    evaluation([1, 2], None),
    evaluation([2], True, control=True),
]


def test_labels_leave_out_control_searches_and_ungraded_paths(tmp_path: Any) -> None:
    (labels,) = read_labels(write_parts(tmp_path, ROWS, [QUESTION]))
    assert labels.paths == ((0, 1, 2), (0, 1, 1, 2), (0, 2), (1, 2))
    assert labels.correct == labels.held == [(0, 2), (0, 1, 1, 2)]
    assert labels.gold is None
    assert labels.robust is None


def test_held_paths_are_right_in_all_variants(tmp_path: Any) -> None:
    again = [
        {"node": 1, "path": [0, 1, 1, 2], "holds": [True, True]},
        {"node": 2, "path": [0, 2], "holds": [True, False]},
    ]
    (labels,) = read_labels(write_parts(tmp_path, ROWS, [QUESTION | ASKED | {"again": again}]))
    assert labels.held == [(0, 1, 1, 2)]


def test_a_run_without_questions_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="no question done yet"):
        read_labels(write_parts(tmp_path, [], []))


SETTINGS = {"model": "abc", "dtype": "float32", "scorer": "options", "questions": 2}
PATHS = [(0, 1, 2), (0, 1, 1, 2), (2,)]
SCORES = np.array([[-1.0, -2], [-3, -2], [-1, -1.5]])


def encode(name, text="?"):
    zeros = np.zeros(2, np.int32)
    prompts = Prompts(ids=zeros, positions=zeros, branch=zeros)
    return Encoded(Question(name, text, ("x", "y"), 0), prompts, np.zeros(0, np.int32), text)


@pytest.fixture
def run(tmp_path):
    """A run of two questions, of which the scores of the second are those of the first less 1."""
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


PLAIN, OTHERS = (0, 1, 2), [(0, 1), (1, 2), (0, 2), (2, 1), (2,), (0, 0)]
ANSWERED = {"command": "evaluate", "model": "abc", "paths": [PLAIN, *OTHERS], "questions": 1}
START = {"num_layers": 3, "scorer": {"open": True, "decodes": True}}


def a_run(folder, own, others, settings=ANSWERED, start=START, cut=()):
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
    with Run(folder).open(settings, start) as run:
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
        ({"paths": OTHERS}, {}, "add --paths 0-2 and --random 50"),
        ({"paths": [PLAIN]}, {}, "add --paths 0-2"),
    ],
)
def test_other_runs_cannot_serve(tmp_path, settings, start, message):
    folder = a_run(tmp_path / "run", "1", ["2"] * 6, ANSWERED | settings, START | start)
    with pytest.raises(ValueError, match=message):
        Answers(folder)

"""Readers: the question in a row of each kind, and the errors for broken rows and files."""

import json
from pathlib import Path

import pytest

from cola_jax.question import Question
from cola_jax.tasks import load_questions
from cola_jax.tasks.load import find_task
from tests.tasks.rows import ARC, DART, GSM8K, MATH, MATH500, PLAIN, changed


def only(file, **arguments):
    (question,) = load_questions(file, **arguments)
    return question


@pytest.mark.parametrize("labels", ["ABCD", "1234", "ABCDE", "DCBA"])
def test_arc_maps_labels_by_position(write, labels):
    texts = [f"option {i}" for i in range(len(labels))]
    choices = {"text": texts, "label": list(labels)}
    question = only(write(changed(ARC, choices=choices, answerKey=labels[2])))
    assert question == Question("q1", "What melts?", tuple(texts), 2)
    assert question.letters == "ABCDE"[: len(labels)]


def test_gsm8k_takes_number_after_hashes(write):
    file = write(GSM8K)
    question = only(file)
    assert question.gold == "1400"
    assert question.solution == "She has 3 + 4 = 7 apples.\nSold for $1400."
    assert (question.open, question.text) == (True, GSM8K["question"])


def test_math_takes_last_box_or_answer(write):
    question = only(write(MATH))
    assert question.gold == r"\frac{3}{2}"
    assert question.options == (r"\frac{3}{2}",)  # no decoy, since gold is not an integer
    assert question.metadata == (("math_level", "3"), ("subject", "Prealgebra"))
    assert only(write(changed(MATH, level="Level ?"))).get("math_level") is None
    question = only(write(MATH500))
    assert (question.id, question.gold) == ("test/algebra/170.json", "11")
    assert question.metadata == (("math_level", "3"), ("subject", "Algebra"))


def test_dart_takes_metadata_of_query(write):
    question = only(write(DART))
    assert (question.id, question.gold) == (DART["query_id"], "32")
    assert dict(question.metadata) == {
        "math_level": "2",
        "fail_rate_level": "1",
        "subject": "Algebra",
    }
    assert only(write(changed(DART, query_metadata={"level": "Level 5"}))).get("math_level") == "5"
    assert only(write(changed(DART, query_metadata=None))).get("math_level") is None
    assert only(write(changed(DART, gt_ans=None, answer=32))).gold == "32"


def test_rank_fail_rates_makes_levels_of_equal_size(write):
    rates = [1.0, 0.98, 0.97, 0.97, 0.9, 0.5, 0.2, 0.1, 0.0, 0.0]
    rows = [
        changed(DART, query_id=f"q{i}", query=f"What is {i}?", pass_rate=rate)
        for i, rate in enumerate(rates)
    ]
    unrated = changed(DART, query_id="unrated", pass_rate=None)
    questions = load_questions(write(*rows[::-1], unrated))
    levels = {q.id: q.get("fail_rate_level") for q in questions}
    assert levels == {f"q{i}": str(1 + i // 2) for i in range(10)} | {"unrated": None}
    assert not any(q.get("fail_rate") for q in questions)
    # ties are broken by id
    assert [levels["q2"], levels["q3"]] == ["2", "2"]
    assert {q.id for q in load_questions(write(*rows), fail_rate_level=5)} == {"q8", "q9"}


def test_open_accepts_prompt_or_question(write):
    file = write(PLAIN, {"prompt": "2 + 2 =", "answer": 4, "id": 7})
    paris, four = load_questions(file)
    assert find_task(file).kind == "prompt"
    assert (paris.text, paris.gold, paris.options) == (PLAIN["prompt"], "Paris", ("Paris",))
    assert (four.id, four.gold) == ("7", "4")
    file = write({"question": "Capital of France?", "target": "Paris"})
    assert find_task(file).kind == "question"
    assert only(file).gold == "Paris"


QUESTION = {"question": "Where is the Louvre?"}
OPTIONS = ["Lyon", "Nice", "Paris"]


@pytest.mark.parametrize(
    "fields",
    [
        {"options": OPTIONS, "answer": 2},
        {"options": OPTIONS, "answer": 2.0},
        {"options": OPTIONS, "answer": "2"},
        {"options": OPTIONS, "gold": "c"},
        {"options": OPTIONS, "label": "Paris"},
        {"choices": OPTIONS, "target": "Paris "},
        {"options": {"A": "Lyon", "B": "Nice", "C": "Paris"}, "answer": "C"},
        {"option_a": "Lyon", "option_b": "Nice", "option_c": "Paris", "answer": "C"},
        {"option_1": "Lyon", "option_2": "Nice", "option_3": "Paris", "answer": 3},
        {"optionA": "Lyon", "optionB": "Nice", "optionC": "Paris", "optionD": None, "gold": 2},
    ],
    ids=str,
)
def test_choice_takes_options_and_answer_in_many_forms(write, fields):
    question = only(write(QUESTION | fields))
    assert (question.options, question.answer, question.open) == (tuple(OPTIONS), 2, False)
    assert question.text == QUESTION["question"]


def test_choice_prefers_the_text_of_a_number(write):
    row = {"question": "2 + 2?", "options": [3, 4, 5], "answer": 4}
    question = only(write(row))
    assert (question.options, question.gold) == (("3", "4", "5"), "4")
    assert only(write(changed(row, answer=1))).gold == "4"  # an index


LINES = Path(__file__).with_name("broken.jsonl").read_text().splitlines()
BROKEN = [json.loads(line) for line in LINES]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["name"])
def test_readers_name_the_line_of_a_broken_row(write, case):
    with pytest.raises(ValueError, match=r"task\.jsonl:2(: | cannot be read )") as error:
        load_questions(write("", case["row"]))
    assert case["message"] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (QUESTION | {"answer": "Paris"}, GSM8K, "a gsm8k question"),
        (QUESTION | {"answer": "1"}, QUESTION | {"options": OPTIONS, "answer": 2}, "a choice"),
        (GSM8K, changed(GSM8K, answer="seven"), "no ####"),
    ],
)
def test_read_row_refuses_rows_of_another_kind_than_the_first(write, first, second, message):
    with pytest.raises(ValueError, match=rf"task\.jsonl:2.* {message}"):
        load_questions(write(first, second))

"""Readers: the question in a row of each kind, sources of rows, and errors of broken ones."""

import json
from pathlib import Path

import datasets
import pandas
import pytest

from cola_jax.question import Question
from cola_jax.tasks import load_questions
from cola_jax.tasks.registry import find_task
from tests.tasks.rows import ARC, DART, GSM8K, MATH, MATH500, PLAIN, changed


def lines(name):
    return Path(__file__).with_name(name).read_text().splitlines()


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
    question = only(write(GSM8K))
    assert question.gold == "1400"
    assert question.solution == "She has 3 + 4 = 7 apples.\nSold for $1400."
    assert (question.open, question.text) == (True, GSM8K["question"])


def test_math_takes_last_box_or_answer(write):
    question = only(write(MATH))
    assert question.options == (r"\frac{3}{2}",)  # no decoy, since gold is not an integer
    assert question.metadata == (("math_level", "3"), ("subject", "Prealgebra"))
    for row, id, gold, level in (
        (MATH500, "test/algebra/170.json", "11", "3"),
        (DART, DART["query_id"], "32", "2"),
        (changed(DART, gt_ans=None, answer=32), DART["query_id"], "32", "2"),
    ):
        question = only(write(row))
        assert (question.id, question.gold) == (id, gold)
        assert question.metadata == (("math_level", level), ("subject", "Algebra"))
    for row in (changed(MATH, level="Level ?"), changed(DART, query_metadata={"level": None})):
        assert only(write(row)).get("math_level") is None


def test_open_accepts_prompt_or_question(write):
    file = write(PLAIN, {"prompt": "2 + 2 =", "answer": 4, "id": 7})
    paris, four = load_questions(file)
    assert find_task(file).kind == "prompt"
    assert (paris.text, paris.gold, paris.options) == (PLAIN["prompt"], "Paris", ("Paris",))
    assert (four.id, four.gold) == ("7", "4")
    file = write({"question": "Capital of France?", "target": "Paris"})
    assert find_task(file).kind == "question"
    assert only(file).gold == "Paris"


@pytest.mark.parametrize("row", lines("choices.jsonl"))
def test_choice_takes_options_and_answer_in_many_forms(write, row):
    fields = json.loads(row)
    question = only(write(fields), answers_from=fields.pop("from", None))
    assert (question.options, question.answer) == (("Lyon", "Nice", "Paris"), 2)
    assert (question.text, question.open) == ("Where is the Louvre?", False)


def test_choice_prefers_the_text_of_a_number(write):
    row = {"question": "2 + 2?", "options": [3, 4, 5], "answer": 4}
    question = only(write(row))
    assert (question.options, question.gold) == (("3", "4", "5"), "4")
    assert only(write(changed(row, answer=1)), answers_from=0).gold == "4"  # an index


BROKEN = [json.loads(line) for line in lines("broken.jsonl")]


@pytest.mark.parametrize("case", BROKEN, ids=lambda x: x["name"])
def test_readers_name_the_line_of_a_broken_row(write, case):
    with pytest.raises(ValueError, match=r"task\.jsonl(:2)?(: | cannot be read )") as error:
        load_questions(write(case.get("first", ""), case["row"]))
    assert case["message"] in str(error.value)
    assert "\n" not in str(error.value)


ROWS = [
    {"id": "a", "question": "Where is the Louvre?", "options": ["Lyon", "Paris"], "answer": 1},
    {"id": "b", "question": "Where is the Prado?", "options": ["Madrid", "Rome"], "answer": 0},
]


def to_parquet(folder):
    pandas.DataFrame(ROWS).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


SOURCES = {
    "csv": lambda _: str(Path(__file__).with_name("rows.csv")),
    "parquet": to_parquet,
    "list": lambda _: ROWS,
    "generator": lambda _: (row for row in ROWS),
    "frame": lambda _: pandas.DataFrame(ROWS),
    "frame of parquet": lambda folder: pandas.read_parquet(to_parquet(folder)),
    "data set": lambda _: datasets.Dataset.from_list(ROWS),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_load_questions_reads_files_and_rows_alike(write, tmp_path, source):
    questions = load_questions(source(tmp_path))
    assert questions == load_questions(write("\ufeff" + json.dumps(ROWS[0]), ROWS[1]))
    assert [question.gold for question in questions] == ["Paris", "Madrid"]


@pytest.mark.parametrize(
    ("source", "message"),
    [([], "there are no questions"), (["a"], "row 0: a dict"), (3, "a table, not 3")],
)
def test_load_questions_refuses_other_sources(source, message):
    with pytest.raises(ValueError, match=message):
        load_questions(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"question,answer\n1?,2,3\n", r"a\.csv:2: the line has more cells"),
        ("a.csv", b"question,answer\n1?,\xff\n", r"a\.csv:2 cannot be read as utf-8"),
        ("a.parquet", b"PAR1 or not", r"a\.parquet'? cannot be read"),
        ("a.jsonl", b"\xff\xfe\n", "cannot be read as utf-16"),
        ("a.jsonl", b'{"prompt": "a\\ud800", "answer": "x"}', r"a\.jsonl:1 .*hex escape"),
    ],
)
def test_load_questions_names_a_broken_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_questions(str(tmp_path / name))

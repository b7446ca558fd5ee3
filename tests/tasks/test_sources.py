"""Files and rows in memory; data sets in the layout of the Hub: subsets, order, ids, pools."""

import json

import datasets
import pandas
import pytest

from cola_jax.tasks import load_questions, load_shots
from cola_jax.tasks.registry import MATH_SUBJECTS
from tests.tasks.rows import ARC, GSM8K, MATH, MATH500, MMLU, changed

LAYOUTS = {  # task: config, split, rows
    "gsm8k": [("main", "test", [GSM8K, changed(GSM8K, question="Again?")])],
    "math": [
        (subject, "test", [changed(MATH, problem=f"{subject} {i}?") for i in range(2)])
        for subject in MATH_SUBJECTS
    ],
    "math-500": [("default", "test", [MATH500])],
    "arc-challenge": [
        (config, "test", [changed(ARC, id=f"{config} {i}") for i in range(2)])
        for config in ("ARC-Easy", "ARC-Challenge")
    ],
    "mmlu": [
        ("all", "test", [MMLU, MMLU, MMLU, changed(MMLU, subject="law")]),
        ("all", "dev", [MMLU]),
    ],
}
IDS = {
    "gsm8k": ["main/test/1", "main/test/2"],
    "math": [f"{subject}/test/{i}" for i in (1, 2) for subject in MATH_SUBJECTS],
    "math-500": ["test/algebra/170.json"],
    "arc-challenge": ["ARC-Challenge 0", "ARC-Challenge 1"],
    "mmlu": ["all/test/1", "all/test/4", "all/test/2", "all/test/3"],  # subjects interleaved
}
GOLD = {"gsm8k": "1400", "math": r"\frac{3}{2}", "math-500": "11", "mmlu": "7"}
GOLD["arc-challenge"] = "iron ore"


@pytest.mark.parametrize("task", LAYOUTS)
def test_load_questions_reads_layout_of_hub(hub, task):
    questions = load_questions(task, hub=hub(*LAYOUTS[task]))
    assert [question.id for question in questions] == IDS[task]
    assert {question.gold for question in questions} == {GOLD[task]}


def test_load_hub_names_what_is_missing(hub):
    folder = hub(*LAYOUTS["gsm8k"])
    for place in ({"split": "train"}, {"hub": f"{folder}/missing"}):
        with pytest.raises(ValueError, match=r"could not be loaded.*JSONL"):
            load_questions("gsm8k", **{"hub": folder} | place)


def test_pool_rows_join_pool_and_statistics(hub):
    pool, table = [], []  # with the columns that the two have on the Hub
    for i in range(6):
        id = f"MATH/train/algebra/{i}.json"
        metadata = {"level": 1 + i % 2}
        query = {"query_id": id, "query": f"What is {i}?", "gt_ans": str(i), "domain": "Algebra"}
        pool += [query | {"query_metadata": metadata, "resp": f"{i}, {j}"} for j in range(i + 1)]
        statistics = {"tot_n_samples": 10, "tot_n_corrects": 9 - i, "pass_rate": (9 - i) / 10}
        table.append({"query_id": id, "level": 1 + i % 2, "domain": "Algebra"} | statistics)
    folder = hub(("default", "train", pool[::-1]))
    with pytest.raises(ValueError, match=r"hub-query-info.*could not be loaded"):
        load_questions("dart-math", hub=folder)
    hub(("default", "train", table[:5]), name="hub-query-info")  # one query has no statistics
    questions = load_questions("dart-math", hub=folder)
    assert [q.gold for q in questions] == ["5", "4", "3", "2", "1", "0"]
    assert [q.get("fail_rate_level") for q in questions] == [None, "5", "4", "3", "2", "1"]
    assert [q.get("math_level") for q in questions] == ["2", "1"] * 3
    (question,) = load_questions("dart-math", hub=folder, level=1, fail_rate_level=3)
    assert (question.id, question.text) == ("MATH/train/algebra/2.json", "What is 2?")


def test_one_subject_of_mmlu_needs_its_own_subset_alone(hub):
    law = [changed(MMLU, subject="law", question=f"{i}?") for i in range(3)]
    folder = hub(("law", "test", law), ("law", "dev", law[:2]))
    questions = load_questions("mmlu", hub=folder, subject="law", limit=2)
    assert [question.id for question in questions] == ["law/test/1", "law/test/2"]
    shots = load_shots("mmlu", 2, hub=folder, subject="law")(questions[0])
    assert [shot.id for shot in shots] == ["law/dev/1", "law/dev/2"]
    with pytest.raises(ValueError, match=r"all \(split test\) could not be loaded"):
        load_questions("mmlu", hub=folder, subject="anatomy")


ROWS = [
    {"id": "a", "question": "Where is the Louvre?", "options": ["Lyon", "Paris"], "answer": 1},
    {"id": "b", "question": "Where is the Prado?", "options": ["Madrid", "Rome"], "answer": 0},
]
FLAT = [
    {"id": "a", "question": ROWS[0]["question"], "option_a": "Lyon", "option_b": "Paris"},
    {"id": "b", "question": ROWS[1]["question"], "option_a": "Madrid", "option_b": "Rome"},
]


def to_csv(folder):
    pandas.DataFrame(FLAT).assign(answer=["B", "A"]).to_csv(
        folder / "rows.csv", index=False, encoding="utf-8-sig"
    )
    return str(folder / "rows.csv")


def to_parquet(folder):
    pandas.DataFrame(ROWS).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


SOURCES = {
    "csv": to_csv,
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
    assert questions == load_questions(write(*ROWS))
    assert [question.gold for question in questions] == ["Paris", "Madrid"]


@pytest.mark.parametrize(
    ("source", "message"),
    [([], "the rows yield no questions"), (["a"], "row 0: a dict"), (3, "a table, not 3")],
)
def test_load_questions_refuses_other_sources(source, message):
    with pytest.raises(ValueError, match=message):
        load_questions(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"question,answer\n1?,2,3\n", r"a\.csv'?: line 2 has more cells than the first"),
        ("a.csv", b"question,answer\n1?,\xff\n", r"a\.csv'? cannot be read"),
        ("a.parquet", b"PAR1 or not", r"a\.parquet'? cannot be read"),
        ("a.jsonl", b"\xff\xfe\n", "cannot be read .*utf-8"),
        ("a.jsonl", b'{"prompt": "a\\ud800", "answer": "x"}', r"a\.jsonl:1 .*surrogates"),
    ],
)
def test_load_questions_names_a_broken_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_questions(str(tmp_path / name))


def test_read_lines_skips_a_byte_order_mark(tmp_path):
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode())
    assert [question.id for question in load_questions(str(tmp_path / "bom.jsonl"))] == ["a"]

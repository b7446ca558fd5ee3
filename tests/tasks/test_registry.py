"""Tasks by name; limits, levels, subjects and duplicates; data sets in the layout of the Hub."""

import functools
import json
from pathlib import Path

import datasets
import pytest
import tyro

from cola_jax.tasks import harness, load_questions
from cola_jax.tasks.registry import (
    MATH_SUBJECTS,
    MMLU_SUBJECTS,
    canonical,
    find_task,
    library_name,
    read_limit,
    warn_of_file,
)
from cola_jax.tasks.task import TaskConfig
from tests.tasks.rows import ARC, DART, GSM8K, MATH500, MATH_ROWS, MMLU, PLAIN, changed


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ARC_Easy", ("arc-easy", None)),
        ("mmlu_abstract_algebra", ("mmlu", "abstract_algebra")),
        ("hendrycks_math500", ("math-500", None)),
        ("my_own.jsonl", ("my_own.jsonl", None)),
        ("LM-eval: CHOICE", ("lm_eval:CHOICE", None)),
    ],
)
def test_canonical(task, expected):
    assert canonical(task) == expected
    config = TaskConfig(task)
    assert (config.task, config.subject) == expected
    if expected[0] == "mmlu":
        assert TaskConfig(task, subject=expected[1]).subject == expected[1]
        with pytest.raises(ValueError, match="has one subject, and 'law' is another"):
            TaskConfig(task, subject="law")


def test_load_questions_knows_those_of_the_demo():
    questions = load_questions("demo")
    assert len(questions) == len({question.text for question in questions}) == 24
    assert all(len(set(question.options)) == 4 for question in questions)
    golds = [sum(question.answer == option for question in questions) for option in range(4)]
    assert min(golds) >= 3, golds


def test_load_questions_prefers_a_local_file_named_demo(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text(json.dumps({"prompt": "1 + 1 =", "answer": "2"}))
    warn_of_file.cache_clear()
    (question,) = load_questions("demo")
    assert (question.text, find_task("demo").kind) == ("1 + 1 =", "prompt")
    # a test before may have turned on other lines
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert str(tmp_path / "demo") in warning.getMessage()


def test_library_name_folds_names(library):
    library(plain_task={}, Quoted={}, **{"single-task": {}})
    for name in ("plain_task", "Plain-Task", "lm_eval:plain_task"):
        assert library_name(name) == "plain_task"
    assert (library_name("single_task"), library_name("quoted")) == ("single-task", "Quoted")
    with pytest.raises(ValueError, match=r"'arc_eazy' is neither one of .*did you mean arc-easy"):
        library_name("arc_eazy")


def test_names_are_those_of_the_librarys_index(monkeypatch):
    """Of some of its folders alone: that of all takes many seconds."""
    from lm_eval import tasks

    folders = [f"{Path(tasks.__file__).parent}/{name}" for name in ("mmlu", "mmlu_pro", "piqa")]
    few = functools.partial(tasks.TaskManager, include_path=folders, include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", few)
    monkeypatch.setattr(harness, "manager", functools.cache(harness.manager.__wrapped__))
    names = set(harness.task_names())
    assert {"piqa", "mmlu_pro_biology"} <= names
    assert {f"mmlu_{subject}" for subject in MMLU_SUBJECTS} <= names
    assert canonical("mmlu_pro_biology") == ("mmlu_pro_biology", None)
    with pytest.raises(ValueError, match="mmlu_stem is a group of tasks"):
        library_name("mmlu_stem")


def test_find_task_names_a_file_beside_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "task_names", lambda: pytest.fail("the library is loaded"))
    (tmp_path / "task.jsonl").touch()
    with pytest.raises(ValueError, match=r"existing file .*\(did you mean .*task\.jsonl\?\)"):
        find_task(str(tmp_path / "tsk.jsonl"))


def test_find_task_refuses_a_folder_of_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "task_names", list)
    with pytest.raises(ValueError, match=r"is a folder, and none that Dataset\.save_to_disk"):
        find_task(str(tmp_path))


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(harness, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"for which: pip install 'cola-jax\[lm-eval\]'"):
        find_task("hellaswag")
    with pytest.raises(ValueError, match=r"\(did you mean mmlu_anatomy\?\)"):
        find_task("mmlu_anatmy")


def ids(file, **options):
    return [question.id for question in load_questions(file, **options)]


def test_load_questions_skips_blank_lines_and_stops_at_limit(write):
    rows = [changed(ARC, id=f"q{i}", question=f"What melts {i}?") for i in range(3)]
    assert ids(write("", rows[0], "   ", rows[1], rows[2])) == ["q0", "q1", "q2"]
    assert ids(write(*rows, changed(ARC, answerKey="E")), limit=2) == ["q0", "q1"]
    for limit, count in ((0.5, 2), (0.01, 1)):
        assert len(ids(write(*rows), limit=limit)) == count
    for lines, limit in ((rows, 0), (rows, -1), (["", "  "], None)):
        with pytest.raises(ValueError, match="no questions"):
            load_questions(write(*lines), limit=limit)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("12.5 %", 0.125), ("100%", None), ("7", 7), ("0.1", 0.1), (None, None), (3, 3)],
)
def test_read_limit(text, limit):
    assert read_limit(text) == TaskConfig("arithmetic", limit=text).limit == limit
    if isinstance(text, str):
        assert tyro.cli(TaskConfig, args=["--task", "arithmetic", "-l", text]).limit == limit


def test_read_limit_refuses_other_texts():
    for text in ("half", "150%", "0%", "1.5", "nan", "", 1.5, 0.0):
        with pytest.raises(ValueError, match="neither a whole number nor a share below 1"):
            read_limit(text)


def test_load_questions_refuses_duplicate_id(write):
    for row, other, message in (
        (PLAIN | {"id": 7}, PLAIN | {"id": 7, "prompt": "Rome is"}, "the id '7' is already used"),
        (DART, DART | {"query": "Which?", "gt_ans": "2"}, "the id .* is already used in .*:1"),
    ):
        with pytest.raises(ValueError, match=rf"task\.jsonl:2: {message}"):
            load_questions(write(row, other))


def test_load_questions_reads_each_query_of_dart_once(write):
    rows = [
        changed(DART, query_id=f"q{i}", query=f"{i}?", query_metadata={"level": i})
        for i in (1, 1, 2, 3, 3, 4)
    ]
    assert ids(write(*rows)) == ["q1", "q2", "q3", "q4"]
    assert ids(write(*rows), limit=2) == ["q1", "q2"]
    assert ids(write(*rows), level=4) == ["q4"]


def test_load_questions_selects_levels_and_subjects(write):
    rows = [
        changed(MATH500, unique_id=str(i), problem=f"How many {i}?", level=level)
        for i, level in enumerate((1, 2, 4, 2))
    ]
    file = write(*rows)
    assert ids(file, level=2) == ["1", "3"]
    assert ids(file, level=2, limit=1) == ["1"]
    legal = changed(MMLU, subject="law", id="legal", question="Which is odd?")
    laws = write(MMLU, legal, name="mmlu")
    assert ids(laws, subject="law", answers_from=0) == ["legal"]
    for task, options, message in (
        (file, {"level": 3}, r"no questions \(limit None, level 3\)"),
        ("gsm8k", {"level": 1}, r"gsm8k has no level, .*math, math-500, dart-math, arithm"),
        ("arithmetic", {"subject": "art"}, "arithmetic has no subject, but subject is 'art'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_questions(task, **options)


def test_load_questions_says_what_each_column_is_taken_for(write, caplog):
    row = {"prompt": "1 + 1 =", "answer": "2"}
    file = write(row | {"topic": "sums"}, row | {"prompt": "1 + 2 =", "unit": "cm", "note": None})
    with caplog.at_level("INFO", "cola_jax"):
        assert len(load_questions(file)) == 2
        (message,) = caplog.messages
        parts = "prompt from 'prompt'; answer from 'answer'; not used: 'topic', 'unit'."
        assert message == f"{file}: {parts}"
        assert caplog.records[0].levelname == "WARNING"
        for row in (ARC, GSM8K, MATH500, PLAIN):
            caplog.clear()
            load_questions(write(row))
            (record,) = caplog.records
            assert record.levelname == "INFO"
            assert all(repr(name) in record.message for name in row if name != "choices")
        caplog.clear()
        load_questions(write(MMLU), answers_from=0)
        assert caplog.messages[0].endswith("subject from 'subject'; answers count from 0.")


def test_load_questions_says_nothing_of_a_task_on_the_hub(hub, caplog):
    with caplog.at_level("INFO", "cola_jax"):
        load_questions("gsm8k", hub=hub(("main", "test", [GSM8K | {"more": "x"}])))
    assert not caplog.messages


def test_load_questions_drops_repeats_of_a_file_and_says_how_many(write, caplog):
    rows = [PLAIN | {"id": f"p{i}"} for i in range(30)]
    assert ids(write(*rows, PLAIN | {"prompt": "Rome is in", "id": "other"})) == ["p0", "other"]
    assert "29 rows repeat other questions and are left out" in caplog.text


POOL = [changed(DART, query_id=id, resp=str(i)) for i, id in enumerate(["q1", "q1", "q2"])]
ARCS = ("ARC-Easy", "ARC-Challenge")
LAYOUTS = {  # task: its (config, split, rows) on the Hub, the ids of its questions, their gold
    "gsm8k": (
        [("main", "test", [GSM8K, changed(GSM8K, question="Again?")])],
        ["main/test/1", "main/test/2"],
        "1400",
    ),
    "math": (
        [(subject, "test", rows) for subject, rows in MATH_ROWS.items()],
        [f"{subject}/test/{i}" for i in (1, 2) for subject in MATH_SUBJECTS],
        r"\frac{3}{2}",
    ),
    "math-500": ([("default", "test", [MATH500])], ["test/algebra/170.json"], "11"),
    "dart-math": ([("default", "train", POOL)], ["q1", "q2"], "32"),
    "arc-challenge": (
        [(config, "test", [changed(ARC, id=f"{config} {i}") for i in (0, 1)]) for config in ARCS],
        ["ARC-Challenge 0", "ARC-Challenge 1"],
        "iron ore",
    ),
    "mmlu": (
        [("all", "test", [MMLU] * 3 + [changed(MMLU, subject="law")]), ("all", "dev", [MMLU])],
        ["all/test/1", "all/test/4", "all/test/2", "all/test/3"],  # subjects interleaved
        "7",
    ),
}


@pytest.mark.parametrize("task", LAYOUTS)
def test_load_questions_reads_layout_of_hub(hub, task):
    subsets, expected, gold = LAYOUTS[task]
    questions = load_questions(task, hub=hub(*subsets))
    assert [question.id for question in questions] == expected
    assert {question.gold for question in questions} == {gold}
    if task == "mmlu":
        numbers = ids(task, hub=hub(*subsets), subject="number_theory", limit=2)
        assert numbers == ["all/test/1", "all/test/2"]


@pytest.mark.parametrize("described", [True, False])  # by `datasets`, or plain Parquet
def test_scienceqa_reads_a_folder_in_the_layout_of_the_hub(tmp_path, described):
    asked = {"question": "Which is larger?", "choices": ["sun", "moon"], "answer": 0}
    asked |= {"subject": "natural science", "skill": ""}
    picture = {"bytes": b"picture", "path": None}
    rows = [asked | {"image": picture, "hint": "Look."}, asked | {"image": None, "hint": ""}]
    data = datasets.Dataset.from_list(rows)
    if described:
        pytest.importorskip("PIL")
        column = data.features | {"image": datasets.Image(decode=False)}
        data = datasets.Dataset.from_list(rows, features=datasets.Features(column))
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    seen, plain = load_questions("ScienceQA", hub=str(tmp_path), subject="natural science")
    assert (seen.text, seen.picture) == ("<image>\nLook.\nWhich is larger?", b"picture")
    assert (plain.text, plain.picture, plain.gold) == ("Which is larger?", None, "sun")
    assert find_task("scienceqa").choice

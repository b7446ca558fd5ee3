"""load_questions: kinds, limits, levels, subjects, duplicates and held-out questions."""

import pytest
import tyro

from cola_jax.question import Question, open_question
from cola_jax.tasks import harness, load_questions
from cola_jax.tasks.load import check_disjoint, find_task, hold_out, read_limit
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.tasks.rows import ARC, DART, GSM8K, MATH500, MMLU, PLAIN, changed


def test_load_questions_skips_blank_lines_and_stops_at_limit(write):
    rows = [changed(ARC, id=f"q{i}") for i in range(3)]
    questions = load_questions(write("", rows[0], "   ", rows[1], rows[2]))
    assert [q.id for q in questions] == ["q0", "q1", "q2"]
    assert [q.id for q in load_questions(write(*rows, "broken"), limit=2)] == ["q0", "q1"]
    for limit in (0, -1):
        with pytest.raises(ValueError, match="no questions"):
            load_questions(write(*rows), limit=limit)
    with pytest.raises(ValueError, match="no questions"):
        load_questions(write("", "  "))


def test_load_questions_refuses_duplicate_id(write):
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the row repeats the question of .*:1"):
        load_questions(write(PLAIN, PLAIN))
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the id '7' is already used in .*:1"):
        load_questions(write(PLAIN | {"id": 7}, PLAIN | {"id": 7, "answer": "Lyon"}))


def ids(file, **options):
    return [question.id for question in load_questions(file, **options)]


def test_load_questions_reads_each_query_of_dart_once(write):
    rows = [
        changed(DART, query_id=f"q{i}", query=f"{i}?", query_metadata=str({"level": i}))
        for i in (1, 1, 2, 3, 3, 4)
    ]
    assert ids(write(*rows)) == ["q1", "q2", "q3", "q4"]
    assert ids(write(*rows), limit=2) == ["q1", "q2"]
    assert ids(write(*rows), level=4) == ["q4"]
    other = changed(rows[0], query="What is $3^5$?", gt_ans="243")
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the id 'q1' is already used in .*:1"):
        load_questions(write(rows[0], other))


def test_load_questions_selects_levels_and_subjects(write):
    file = write(*[changed(MATH500, unique_id=str(i), level=x) for i, x in enumerate((1, 2, 4, 2))])
    assert ids(file, level=2) == ["1", "3"]
    assert ids(file, level=2, limit=1) == ["1"]
    rated = write(*[changed(DART, query_id=str(i), pass_rate=i / 5) for i in range(5)], name="dart")
    assert ids(rated, fail_rate_level=2) == ["3"]
    assert ids(rated, level=2, fail_rate_level=3) == ["2"]
    laws = write(MMLU, changed(MMLU, subject="law", id="legal"), name="mmlu")
    assert ids(laws, subject="law") == ["legal"]
    unrated = write(changed(DART, pass_rate=None), name="unrated")
    for task, options, message in (
        (file, {"level": 3}, r"no questions \(limit None, level 3\)"),
        (file, {"fail_rate_level": 1}, r"has no fail_rate_level, .*dart-math\)"),
        ("gsm8k", {"level": 1}, r"gsm8k has no level, .*math, math-500, dart-math, arithm"),
        (unrated, {"fail_rate_level": 1}, r"no questions .*fail_rate_level 1"),
        ("arithmetic", {"subject": "art"}, "arithmetic has no subject, but subject is 'art'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_questions(task, **options)


QUESTIONS = [open_question(f"q{i}", f"{i} + 1", str(i + 1)) for i in range(40)]


def test_hold_out_keeps_order_and_depends_on_text_and_seed():
    train, held = hold_out(QUESTIONS, 10)
    assert len(held) == 10
    assert sorted([*train, *held], key=QUESTIONS.index) == QUESTIONS
    assert train == sorted(train, key=QUESTIONS.index)
    fewer, _ = hold_out(QUESTIONS[::-1], 10)
    assert set(fewer) == set(train)
    assert hold_out(QUESTIONS, 10, seed=1)[1] != held
    assert hold_out(QUESTIONS, 0) == (QUESTIONS, [])


def test_hold_out_leaves_questions_for_training():
    for count in (-1, 40):
        with pytest.raises(ValueError, match=f"{count} questions cannot be held out of 40"):
            hold_out(QUESTIONS, count)


def test_check_disjoint_names_what_is_in_both():
    other = open_question("other", "3 + 1", "4")
    with pytest.raises(ValueError, match=r"1 of 2 held-out questions .* \(other\)"):
        check_disjoint(QUESTIONS, [other, open_question("new", "50 + 1", "51")])
    with pytest.raises(ValueError, match=r"7 of 7 .* \(q0, q1, q2, q3 and 3 more\)"):
        check_disjoint(QUESTIONS, QUESTIONS[:7])
    question = Question("a", "Which?", ("x", "y"), 0)
    with pytest.raises(ValueError, match=r"1 of 1 held-out questions .* \(b\)"):
        check_disjoint([question], [Question("b", "Which? ", ("y", "x"), 1)])  # in another order
    check_disjoint([question], [Question("b", "Which?", ("y", "z"), 1)])


def test_task_holds_out_questions_beyond_its_limit():
    config = TaskConfig("arithmetic", limit=30, held_out=20)
    _, train, held = config.load()
    assert (len(train), len(held)) == (30, 20)
    assert not {q.text for q in train} & {q.text for q in held}
    assert {q.id for q in TaskConfig("arithmetic", limit=50).load()[1]} == {
        q.id for q in [*train, *held]
    }
    assert len(TaskConfig("arithmetic", held_out=7).load()[1]) == 100


def test_held_out_from_a_file(write):
    rows = [{"prompt": f"{i} + 1 =", "answer": i + 1} for i in range(20)]
    train_file, other = write(*rows[:8], name="train"), write(*rows[8:], name="test")
    _, train, held = TaskConfig(train_file, held_out_from=other).load()
    assert (len(train), len(held)) == (8, 12)
    assert len(TaskConfig(train_file, held_out_from=other, held_out=3).load()[2]) == 3
    with pytest.raises(ValueError, match="3 of 4 held-out questions are training questions"):
        TaskConfig(train_file, held_out_from=write(*rows[5:9], name="both")).load()
    with pytest.raises(ValueError, match="the same kind"):
        TaskConfig("arithmetic", held_out_from=other).load()


def test_held_out_questions_exist_where_they_are_run():
    config = TaskConfig("arithmetic", part="held-out")
    with pytest.raises(ValueError, match="no questions are held out"):
        config.prepare(tiny.tokenizer(), context=200, stop_tokens=lambda: (1,))
    with pytest.raises(ValueError, match="-1 questions cannot be held out"):
        TaskConfig("arithmetic", held_out=-1).load()


def test_load_questions_warns_once_of_fields_that_are_not_used(write, caplog):
    row = {"prompt": "1 + 1 =", "answer": "2"}
    file = write(row | {"topic": "sums"}, row | {"prompt": "1 + 2 =", "unit": "cm", "note": None})
    for _ in range(2):
        assert len(load_questions(file)) == 2
    (message,) = caplog.messages
    assert message.endswith("not used are the fields 'topic', 'unit'.")
    assert caplog.records[0].name.split(".")[0] == "cola_jax"
    caplog.clear()
    for row in (ARC, MMLU, GSM8K, MATH500, DART, PLAIN):
        load_questions(write(row))
    assert not caplog.messages


def test_load_questions_warns_of_a_gold_that_an_earlier_option_equals(write, caplog):
    row = {"options": ["4", "4", "5"], "id": "twice"}
    questions = [
        row | {"question": "2 + 2?", "answer": 1},
        row | {"question": "2 + 3?", "answer": 2, "id": "once"},
    ]
    load_questions(write(*questions, name="equal"))
    (message,) = caplog.messages
    assert "the gold answer of 1 question has the text of an earlier option (twice)" in message


def test_load_questions_takes_a_share(write):
    file = write(*({"prompt": f"{i} + 1 =", "answer": i + 1} for i in range(7)))
    assert len(load_questions(file, limit=0.5)) == 4
    assert len(load_questions(file, limit=0.01)) == 1
    _, train, held = TaskConfig(file, limit=0.5, held_out=2).load()
    assert (len(train), len(held)) == (4, 2)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("12.5 %", 0.125), ("100%", None), ("7", 7), ("0.1", 0.1), (None, None), (3, 3)],
)
def test_read_limit(text, limit):
    assert read_limit(text) == TaskConfig("arithmetic", limit=text).limit == limit
    if isinstance(text, str):
        assert tyro.cli(TaskConfig, args=["--task", "arithmetic", "-l", text]).limit == limit


@pytest.mark.parametrize("text", ["half", "150%", "0%", "1.5", "nan", "", 1.5, 0.0])
def test_read_limit_refuses_other_texts(text):
    with pytest.raises(ValueError, match="neither a whole number nor a share below 1"):
        read_limit(text)


def test_find_task_names_a_file_beside_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "task_names", lambda: pytest.fail("the library is loaded"))
    (tmp_path / "task.jsonl").touch()
    with pytest.raises(ValueError, match=r"existing file .*\(did you mean .*task\.jsonl\?\)"):
        find_task(str(tmp_path / "tsk.jsonl"))
    with pytest.raises(ValueError, match=r"of lm-evaluation-harness\.$"):
        find_task(str(tmp_path / "tsk.csv"))


def test_find_task_hints_at_a_name_of_ours_before_the_library_loads(monkeypatch, caplog):
    def names():
        assert "arc_eazy: did you mean arc-easy?" in caplog.text
        return []

    monkeypatch.setattr(harness, "task_names", names)
    with pytest.raises(ValueError, match=r"of lm-evaluation-harness \(did you mean arc-easy\?\)"):
        find_task("arc_eazy")

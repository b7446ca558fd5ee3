"""load_questions: kinds, limits, levels and subjects, duplicates, and arguments without effect."""

import pytest

from cola_jax.tasks import load_questions
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


def test_load_questions_refuses_unknown_task(tmp_path):
    for task in ("arc", str(tmp_path / "nothing.jsonl"), str(tmp_path)):
        with pytest.raises(ValueError, match="neither one of arc-easy, arc-challenge"):
            load_questions(task)


def test_load_questions_reads_all_rows_as_kind_of_first(write):
    with pytest.raises(ValueError, match=r"task\.jsonl:2: .*no ####"):
        load_questions(write(GSM8K, changed(GSM8K, answer="seven")))


def test_load_questions_refuses_duplicate_id(write):
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the row repeats the question of line 1"):
        load_questions(write(PLAIN, PLAIN))
    with pytest.raises(ValueError, match=r"task\.jsonl:2: the id '7' is already used in line 1"):
        load_questions(write(PLAIN | {"id": 7}, PLAIN | {"id": 7, "answer": "Lyon"}))


def test_load_questions_reads_each_query_of_dart_once(write):
    rows = [
        changed(
            DART,
            query_id=f"q{i // 3}",
            query=f"What is {i // 3}?",
            query_metadata=str({"level": i // 3}),
        )
        for i in range(3, 18)
    ]
    assert [q.id for q in load_questions(write(*rows))] == ["q1", "q2", "q3", "q4", "q5"]
    assert [q.id for q in load_questions(write(*rows), limit=2)] == ["q1", "q2"]
    assert [q.id for q in load_questions(write(*rows), level=4)] == ["q4"]


def test_load_questions_selects_levels(write):
    file = write(*[changed(MATH500, unique_id=str(i), level=x) for i, x in enumerate((1, 2, 4, 2))])
    assert [q.id for q in load_questions(file, level=2)] == ["1", "3"]
    assert [q.id for q in load_questions(file, level=2, limit=1)] == ["1"]
    with pytest.raises(ValueError, match=r"no question with math_level 3; .*math_level: 1, 2, 4"):
        load_questions(file, level=3)
    with pytest.raises(ValueError, match="level must be one of 1, 2, 3, 4, 5, got 6"):
        load_questions(file, level=6)
    with pytest.raises(ValueError, match=r"has no fail_rate_level: .*dart-math\)"):
        load_questions(file, fail_rate_level=1)
    with pytest.raises(ValueError, match=r"has no level: .*math, math-500, dart-math and arithm"):
        load_questions(write(GSM8K), level=1)
    with pytest.raises(ValueError, match="gsm8k has no level"):
        load_questions("gsm8k", level=1)


def test_load_questions_selects_fail_rate_levels(write):
    file = write(*[changed(DART, query_id=str(i), pass_rate=i / 5) for i in range(5)])
    assert [q.id for q in load_questions(file, fail_rate_level=2)] == ["3"]
    assert [q.id for q in load_questions(file, level=2, fail_rate_level=3)] == ["2"]
    with pytest.raises(ValueError, match=r"math_level 1, fail_rate_level 1; .*: 1, 2, 3, 4, 5"):
        load_questions(file, level=1, fail_rate_level=1)
    with pytest.raises(ValueError, match="fail_rate_level 1; it has fail_rate_level: none"):
        load_questions(write(changed(DART, pass_rate=None)), fail_rate_level=1)


def test_load_questions_selects_subject(write):
    file = write(MMLU, changed(MMLU, subject="law", question="Which is legal?"))
    assert [q.text for q in load_questions(file, subject="law")] == ["Which is legal?"]
    with pytest.raises(ValueError, match=r"no question with subject art; .*law, number_theory"):
        load_questions(file, subject="art")
    with pytest.raises(ValueError, match="arithmetic has no subject 'art'"):
        load_questions("arithmetic", subject="art")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "trian"}, "has no split, but split is 'trian'"),
        ({"hub": "somewhere"}, "has no hub, but hub is 'somewhere'"),
        ({"seed": 5}, "the seed 5 applies to the arithmetic task only"),
    ],
)
def test_check_source_refuses_arguments_without_effect(write, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_questions(write(PLAIN), **arguments)

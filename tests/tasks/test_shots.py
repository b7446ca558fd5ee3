"""load_shots: where shots come from, and that none of them is asked."""

import pytest

from cola_jax.tasks import load_questions, load_shots
from cola_jax.tasks.readers import MATH_SUBJECTS
from tests.tasks.rows import GSM8K, MATH, MMLU, changed


def test_load_shots_takes_first_training_rows_not_asked(hub):
    rows = [changed(GSM8K, question=f"{i}?") for i in range(6)]
    folder = hub(("main", "train", rows), ("main", "test", [rows[1], GSM8K]))
    asked = load_questions("gsm8k", hub=folder)
    shots = load_shots("gsm8k", 3, asked=asked, hub=folder)
    assert [shot.text for shot in shots] == ["0?", "2?", "3?"]  # 1? is asked
    assert load_shots("gsm8k", 0) == []
    with pytest.raises(ValueError, match="gsm8k has 5 questions to show that are not asked, but 6"):
        load_shots("gsm8k", 6, asked=asked, hub=folder)
    train = load_questions("gsm8k", hub=folder, split="train", limit=2)
    assert [shot.text for shot in load_shots("gsm8k", 2, asked=train, hub=folder)] == ["2?", "3?"]
    with pytest.raises(ValueError, match="at least 0"):
        load_shots("gsm8k", -1)


def test_load_shots_of_math_500_and_dart_math_are_of_math(hub):
    folder = hub(
        *(
            (name, "train", [changed(MATH, problem=f"{name} {i}?") for i in range(2)])
            for name in MATH_SUBJECTS
        )
    )
    for task in ("math", "math-500", "dart-math"):
        shots = load_shots(task, 2, hub=folder)
        assert [shot.id for shot in shots] == [f"{name}/train/1" for name in MATH_SUBJECTS[:2]]


def test_load_shots_of_file_need_shots_file(write):
    task = write(GSM8K, changed(GSM8K, question="Another?"))
    with pytest.raises(ValueError, match=r"task\.jsonl is a file of questions to ask.*0 shots"):
        load_shots(task, 1)
    file = write(GSM8K, changed(GSM8K, question="Third?"), name="shots")
    shots = load_shots(task, 1, shots_file=file, asked=load_questions(task))
    assert [shot.text for shot in shots] == ["Third?"]
    with pytest.raises(ValueError, match=r"shots\.jsonl are math questions, but .* gsm8k"):
        load_shots(task, 1, shots_file=write(MATH, name="shots"))


@pytest.mark.parametrize("level", [None, 1, 2, 5])
def test_load_shots_of_arithmetic_are_not_asked(level):
    asked = load_questions("arithmetic", level=level, limit=150)
    shots = load_shots("arithmetic", 2, asked=asked, level=level)
    assert len({shot.id for shot in shots} - {question.id for question in asked}) == 2
    assert shots == load_shots("arithmetic", 2, asked=asked, level=level)
    if level:
        assert {shot.get("arithmetic_level") for shot in shots} == {str(level)}


def test_load_shots_refuses_arithmetic_all_asked():
    asked = load_questions("arithmetic", level=1, limit=154)
    with pytest.raises(ValueError, match="arithmetic has 1 questions to show"):
        load_shots("arithmetic", 2, asked=asked, level=1)


def test_load_shots_of_mmlu_are_of_subjects_asked(hub):
    physics = changed(MMLU, subject="college_physics", question="Which is heavy? ")
    same = changed(physics, answer=1)
    dev = [MMLU, same, *[changed(physics, choices=["a", "b", str(i), "d"]) for i in range(3)]]
    folder = hub(("all", "dev", dev), ("all", "test", [same]))
    asked = load_questions("mmlu", hub=folder)
    shots = load_shots("mmlu", 2, asked=asked, hub=folder)
    assert [shot.options[2] for shot in shots] == ["0", "1"]  # not MMLU's, not the one asked
    with pytest.raises(ValueError, match="fewer than 4 shots of the subject college_physics"):
        load_shots("mmlu", 4, asked=asked, hub=folder)

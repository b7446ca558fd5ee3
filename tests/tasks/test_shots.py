"""load_shots: where shots come from, and which are shown before each question."""

import random

import pytest

from cola_jax.tasks import load_questions, load_shots
from cola_jax.tasks.harness import SEED
from cola_jax.tasks.registry import MATH_SUBJECTS
from tests.tasks.rows import ARC, GSM8K, MATH, MMLU, changed


def test_load_shots_takes_first_training_rows_but_the_question(hub):
    rows = [changed(GSM8K, question=f"{i}?") for i in range(6)]
    folder = hub(("main", "train", [*rows, rows[0]]), ("main", "test", [rows[1], GSM8K]))
    same, other = questions = load_questions("gsm8k", hub=folder)
    shots = load_shots("gsm8k", 3, questions=[questions], hub=folder)
    assert [shot.text for shot in shots(same)] == ["0?", "2?", "3?"]
    assert [shot.text for shot in shots(other)] == ["0?", "1?", "2?"]
    assert shots.record(same) == {"shots": ["main/train/1", "main/train/3", "main/train/4"]}
    assert load_shots("gsm8k", 0)(same) == []
    train = load_questions("gsm8k", hub=folder, split="train", limit=2)
    assert [shot.text for shot in shots(train[0])] == ["1?", "2?", "3?"]


def test_load_shots_of_math_500_and_dart_math_are_of_math(hub):
    folder = hub(
        *(
            (name, "train", [changed(MATH, problem=f"{name} {i}?") for i in range(2)])
            for name in MATH_SUBJECTS
        )
    )
    (question,) = load_questions("arithmetic", limit=1)
    for task in ("math", "math-500", "dart-math"):
        shots = load_shots(task, 2, hub=folder)(question)
        assert [shot.id for shot in shots] == [f"{name}/train/1" for name in MATH_SUBJECTS[:2]]


def test_load_shots_of_file_need_shots_file(write):
    task = write(GSM8K, changed(GSM8K, question="Another?"))
    with pytest.raises(ValueError, match=r"task\.jsonl is a file of questions to ask.*0 shots"):
        load_shots(task, 1)
    file = write(GSM8K, changed(GSM8K, question="Third?"), name="shots")
    questions = load_questions(task)
    shots = load_shots(task, 1, shots_file=file, questions=[questions])
    assert [[shot.text for shot in shots(question)] for question in questions] == [
        ["Third?"],
        [GSM8K["question"]],
    ]
    with pytest.raises(ValueError, match=r"shots\.jsonl are math questions, but .* gsm8k"):
        load_shots(task, 1, shots_file=write(MATH, name="shots"))


@pytest.mark.parametrize("level", [None, 1])
def test_load_shots_of_arithmetic_do_not_depend_on_the_limit(level):
    questions = load_questions("arithmetic", level=level, limit=150)
    many = load_shots("arithmetic", 2, questions=[questions], level=level)
    few = load_shots("arithmetic", 2, questions=[questions[:3]], level=level)
    for question in questions:
        shots = many(question)
        assert len({shot.id for shot in shots} - {question.id}) == 2
        assert shots == few(question)
        if level:
            assert {shot.get("arithmetic_level") for shot in shots} == {str(level)}


def test_load_shots_refuses_more_than_there_are():
    questions = load_questions("arithmetic", level=1, limit=155)
    assert len(load_shots("arithmetic", 154, questions=[questions], level=1)(questions[0])) == 154
    with pytest.raises(ValueError, match="arithmetic has 154 questions to show before question"):
        load_shots("arithmetic", 155, questions=[questions], level=1)
    with pytest.raises(ValueError, match="at least 0"):
        load_shots("gsm8k", -1)


def test_load_shots_of_mmlu_are_the_first_of_the_subject(hub):
    physics = changed(MMLU, subject="college_physics", question="Which is heavy? ")
    same = changed(physics, answer=1)
    dev = [MMLU, same, *[changed(physics, choices=["a", "b", str(i), "d"]) for i in range(3)]]
    folder = hub(("all", "dev", dev), ("all", "test", [same]))
    (question,) = load_questions("mmlu", hub=folder)
    shots = load_shots("mmlu", 3, questions=[[question]], hub=folder)(question)
    assert [shot.options[2] for shot in shots] == ["7", "0", "1"]  # what reads like it as well
    with pytest.raises(ValueError, match="has 4 questions of the subject college_physics to show"):
        load_shots("mmlu", 5, questions=[[question]], hub=folder)
    (trained, *_) = load_questions("mmlu", hub=folder, split="dev", subject="college_physics")
    assert trained not in load_shots("mmlu", 3, hub=folder)(trained)


def test_load_shots_of_arc_are_drawn_as_the_harness_draws_them(hub):
    train = [changed(ARC, id=f"t{i}", question=f"{i}?") for i in range(9)]
    test = [changed(ARC, id=f"q{i}", question=f"{i}?") for i in range(4)]
    folder = hub(("ARC-Easy", "train", train), ("ARC-Easy", "test", test))
    questions = load_questions("arc-easy", hub=folder)
    shots = load_shots("arc-easy", 2, questions=[questions, questions[:1]], hub=folder)
    generator = random.Random(SEED)
    drawn = [[train[i]["id"] for i in generator.sample(range(9), 2)] for _ in questions]
    assert [[shot.id for shot in shots(question)] for question in questions[1:]] == drawn[1:]
    assert shots.record(questions[0]) == {"shots": drawn[0], "fewshot_seed": SEED}
    trained = load_questions("arc-easy", hub=folder, split="train")
    shots = load_shots("arc-easy", 8, questions=[trained], hub=folder)
    for question in trained:
        assert {shot.id for shot in shots(question)} == {row["id"] for row in train} - {question.id}
    with pytest.raises(ValueError, match="arc-easy has 8 questions to show before question t0"):
        load_shots("arc-easy", 9, questions=[trained], hub=folder)

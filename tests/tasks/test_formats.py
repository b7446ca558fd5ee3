"""Formats: prompts to the letter, completions, and the shots before each question."""

import json
import random
from pathlib import Path

import pytest

from cola_jax.question import open_question
from cola_jax.scoring.answer import find_answer
from cola_jax.scoring.format import FORMATS, format_of
from cola_jax.tasks import load_questions, load_shots
from cola_jax.tasks.harness import SEED
from cola_jax.tasks.registry import MATH_SUBJECTS
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.tasks.rows import ARC, GSM8K, MATH, MATH_ROWS, MMLU, changed

SUM = open_question("q", "7 + 5", "12")
SHOTS = [open_question("s1", "1 + 2", "3"), open_question("s2", "9 - 4", "5")]
WORKED = open_question("w", "Ann has 3 and buys 4. How many?", "7", "She has 3 + 4 = 7.")
FILE = Path(__file__).with_name("prompts.jsonl")
PROMPTS = [json.loads(line) for line in FILE.read_text().splitlines()]


@pytest.mark.parametrize("case", PROMPTS, ids=lambda case: case["kind"])
def test_formats_ask_and_end(case):
    form = format_of(case["kind"], case["format"])
    shots = [shot for shot in (*SHOTS, WORKED) if shot.id in case["shots"]]
    assert form.ask(SUM, shots) == case["prompt"]
    assert (list(form.stop), form.extract) == (case["stop"], case["rule"])


def test_format_completes():
    plain, prompt, direct = format_of("arithmetic"), format_of("prompt"), format_of("gsm8k")
    assert plain.completion(SUM, "12") == " 12\n"
    assert plain.completion(SUM, "12", chat=True) == "12"
    assert prompt.completion(open_question("q", "It is ", "x"), "x") == "x\n"  # no second space
    assert direct.completion(SUM, r"\frac{1}{2}") == r" \boxed{\frac{1}{2}}"


@pytest.mark.parametrize("kind", FORMATS)
def test_format_extracts_answer_of_own_completion(kind):
    for form in FORMATS[kind]:
        for answer in ("12", "-5", r"\frac{1}{2}", r"\{1, 2\}"):
            if form.extract == "hashes" and not answer.lstrip("-").isdigit():
                continue
            text = form.answer(WORKED, answer) + "".join(form.stop[:1])
            assert find_answer(text, form.extract, False) == (answer, True)
            if not form.shows_work:
                assert form.completion(WORKED, answer) == text


def test_formats_refuse():
    with pytest.raises(ValueError, match="gsm8k questions have the formats direct, harness, not"):
        format_of("gsm8k", "plain")
    with pytest.raises(ValueError, match=r"no single completion is the correct one.*generation"):
        format_of("gsm8k", "harness").completion(WORKED, "7")
    with pytest.raises(ValueError, match="question s1 has no worked solution"):
        format_of("gsm8k", "harness").ask(SUM, SHOTS)


def prepare(file, **settings):
    config = TaskConfig(file, **settings)
    return config.prepare(tiny.tokenizer(), context=400, stop_tokens=lambda: (1, 7))


@pytest.mark.parametrize(
    ("answer", "settings", "message"),
    [
        ("4\n5", {}, r"can give the answer '4\\n5', of which the rule 'line' finds '4'"),
        ("Paris", {"rule": "number"}, "the rule 'number' finds None"),
        ("a } b", {"format": "direct"}, "the rule 'boxed' finds 'a'"),
        ("rock " * 120, {}, r"has \d+ tokens, but at most 50 are decoded: raise --max-new-tokens"),
    ],
)
def test_check_answerable_names_the_question(write, answer, settings, message):
    good = {"prompt": "What is 2 + 2?", "answer": "4"}
    file = write(good, {"id": "bad", "prompt": "What is it?", "answer": answer})
    with pytest.raises(ValueError, match=f"^question bad: .*{message}"):
        prepare(file, **settings)


@pytest.mark.parametrize("rule", ["line", "number", "hashes", "boxed", "minerva"])
def test_check_answerable_accepts_what_can_be_given(write, rule):
    answers = ("$1,000$", "-3.5", "1000.")
    file = write(*({"prompt": f"{i}. How many?", "answer": a} for i, a in enumerate(answers)))
    assert len(prepare(file, rule=rule).questions) == 3


def texts(shots, question):
    return [shot.text for shot in shots(question)]


def test_load_shots_takes_first_training_rows_but_the_question(hub):
    rows = [changed(GSM8K, question=f"{i}?") for i in range(6)]
    folder = hub(("main", "train", [*rows, rows[0]]), ("main", "test", [rows[1], GSM8K]))
    same, other = load_questions("gsm8k", hub=folder)
    shots = load_shots("gsm8k", 3, hub=folder)
    assert texts(shots, same) == ["0?", "2?", "3?"]
    assert texts(shots, other) == ["0?", "1?", "2?"]
    assert shots.record(same) == {"shots": ["main/train/1", "main/train/3", "main/train/4"]}
    assert load_shots("gsm8k", 0)(same) == []
    train = load_questions("gsm8k", hub=folder, split="train", limit=2)
    assert texts(shots, train[0]) == ["1?", "2?", "3?"]


def test_load_shots_of_math_500_and_dart_math_are_of_math(hub):
    folder = hub(*[(subject, "train", rows) for subject, rows in MATH_ROWS.items()])
    for task in ("math", "math-500", "dart-math"):
        shots = load_shots(task, 2, hub=folder)(SUM)
        assert [shot.id for shot in shots] == [f"{name}/train/1" for name in MATH_SUBJECTS[:2]]


def test_load_shots_of_file_need_shots_file(write):
    task = write(GSM8K, changed(GSM8K, question="Another?"))
    with pytest.raises(ValueError, match=r"task\.jsonl is a file of questions to ask.*0 shots"):
        load_shots(task, 1)
    file = write(GSM8K, changed(GSM8K, question="Third?"), name="shots")
    same, other = load_questions(task)
    shots = load_shots(task, 1, shots_file=file)
    assert [texts(shots, same), texts(shots, other)] == [["Third?"], [GSM8K["question"]]]
    with pytest.raises(ValueError, match=r"shots\.jsonl are math questions, but .* gsm8k"):
        load_shots(task, 1, shots_file=write(MATH, name="shots"))


def test_load_shots_of_arithmetic_are_other_questions_of_its_level():
    questions = load_questions("arithmetic", level=1, limit=155)
    few, many = load_shots("arithmetic", 2, level=1), load_shots("arithmetic", 155, level=1)
    for question in questions:
        shots = few(question)
        assert len({shot.id for shot in shots} - {question.id}) == 2
        assert {shot.get("arithmetic_level") for shot in shots} == {"1"}
    with pytest.raises(ValueError, match="arithmetic has 154 questions to show before question"):
        many(questions[0])
    with pytest.raises(ValueError, match="at least 0"):
        load_shots("gsm8k", -1)


def test_load_shots_of_mmlu_are_the_first_of_the_subject(hub):
    physics = changed(MMLU, subject="college_physics", question="Which is heavy? ")
    same = changed(physics, answer=1)
    dev = [MMLU, same, *[changed(physics, choices=["a", "b", str(i), "d"]) for i in range(3)]]
    folder = hub(("all", "dev", dev), ("all", "test", [same]))
    (question,) = load_questions("mmlu", hub=folder)
    shots = load_shots("mmlu", 3, hub=folder)(question)
    assert [shot.options[2] for shot in shots] == ["7", "0", "1"]  # what reads like it as well
    with pytest.raises(ValueError, match="has 4 questions of the subject college_physics to show"):
        load_shots("mmlu", 5, hub=folder)(question)
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

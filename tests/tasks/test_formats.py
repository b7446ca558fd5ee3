"""Prompts of open questions to the letter, right completions, shots, and what is recorded."""

import json

import pytest

from cola_jax.scoring.encode import harness_prompt
from cola_jax.tasks import (
    encode,
    find_answer,
    format_of,
    load_questions,
    load_shots,
    open_question,
    prompt_record,
)
from cola_jax.tasks.formats import FORMATS
from cola_jax.tasks.mathematics import SUBJECTS
from tests.tasks.test_load import GSM8K, MATH, MMLU, changed, hub, write  # noqa: F401
from tests.tasks.test_readers import QUESTION, Letters

SUM = open_question("q", "7 + 5", "12")
SHOTS = [open_question("s1", "1 + 2", "3"), open_question("s2", "9 - 4", "5")]
WORKED = open_question("w", "Ann has 3 and buys 4. How many?", "7", "She has 3 + 4 = 7.")
ASKED = open_question("a", "Bob has 5. How many?", "5")


def test_direct():
    form = format_of("math", "direct")
    text = form.ask(open_question("q", "What is $1+1$?", "2"))
    instruction, rest = text.split("\n\n")
    assert "\\boxed{}" in instruction
    assert rest == "### Problem Start\nWhat is $1+1$?\n### Problem End\nAnswer:"
    assert (form.max_new_tokens, form.stop, form.extract, form.shots) == (50, (), "boxed", 0)
    assert form.completion(SUM, r"\frac{1}{2}") == r" \boxed{\frac{1}{2}}"
    assert form.completion(SUM, "12", chat=True) == r"\boxed{12}"
    with_shot = form.ask(SUM, SHOTS[:1])
    assert with_shot.count(instruction) == 1
    assert "1 + 2\n### Problem End\nAnswer: \\boxed{3}\n\n### Problem Start\n7 + 5" in with_shot


def test_harness_of_gsm8k():
    form = format_of("gsm8k", "harness")
    assert form.ask(ASKED, [WORKED]) == (
        "Question: Ann has 3 and buys 4. How many?\nAnswer: She has 3 + 4 = 7.\n#### 7\n\n"
        "Question: Bob has 5. How many?\nAnswer:"
    )
    assert form.stop == ("Question:", "</s>", "<|im_end|>")
    assert (form.shots, form.extract) == (5, "hashes")


def test_harness_of_math():
    for kind in ("math", "dart"):
        form = format_of(kind, "harness")
        assert form.ask(ASKED, [WORKED]) == (
            "Problem:\nAnn has 3 and buys 4. How many?\n\nSolution: She has 3 + 4 = 7.\n"
            "Final Answer: The final answer is $7$. I hope it is correct.\n\n"
            "Problem:\nBob has 5. How many?\n\nSolution:"
        )
        assert (form.stop, form.shots, form.extract) == (("Problem:",), 4, "minerva")


def test_plain():
    form = format_of("arithmetic")
    assert form.ask(SUM, SHOTS) == "1 + 2 = 3\n9 - 4 = 5\n7 + 5 ="
    assert form.completion(SUM, "12") == " 12\n"
    assert form.completion(SUM, "12", chat=True) == "12"
    assert form.shots == 2
    prompt = format_of("prompt")
    assert prompt.ask(open_question("q", "The capital of France is", "Paris")) == (
        "The capital of France is"
    )
    assert prompt.completion(open_question("q", "It is ", "x"), "x") == "x\n"  # the blank is there
    assert format_of("question").ask(SUM, SHOTS[:1]) == (
        "Question: 1 + 2\nAnswer: 3\n\nQuestion: 7 + 5\nAnswer:"
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_rule_finds_the_answer_of_its_own_completion(kind):
    for form in FORMATS[kind]:
        for answer in ("12", "-5", r"\frac{1}{2}", r"\{1, 2\}"):
            if form.extract == "hashes" and not answer.lstrip("-").isdigit():
                continue
            text = form.answer(WORKED, answer) + "".join(form.stop[:1])
            assert find_answer(text, form.extract, False) == (answer, True)
            if not form.works:
                assert form.completion(WORKED, answer) == text


def test_what_formats_refuse():
    assert format_of("gsm8k") == format_of("gsm8k", "direct")
    with pytest.raises(ValueError, match="gsm8k questions have the formats direct, harness, not"):
        format_of("gsm8k", "plain")
    with pytest.raises(ValueError, match="arc questions are multiple choice"):
        format_of("arc")
    with pytest.raises(ValueError, match=r"no single text is the right one.*generate"):
        format_of("gsm8k", "harness").completion(WORKED, "7")
    with pytest.raises(ValueError, match="question s1 has no worked solution"):
        format_of("gsm8k", "harness").ask(ASKED, SHOTS)


# Shots


def test_shots_of_the_hub_are_the_first_of_train_and_never_asked(hub):  # noqa: F811
    rows = [changed(GSM8K, question=f"{i}?") for i in range(6)]
    folder = hub([("main", "train", rows), ("main", "test", [rows[1], GSM8K])])
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


def test_math_500_shows_training_problems_of_math(hub):  # noqa: F811
    rows = {name: [changed(MATH, problem=f"{name} {i}?") for i in range(2)] for name in SUBJECTS}
    folder = hub([(name, "train", rows[name]) for name in SUBJECTS])
    for task in ("math", "math-500", "dart-math"):
        shots = load_shots(task, 2, hub=folder)
        assert [shot.id for shot in shots] == [f"{name}/train/1" for name in SUBJECTS[:2]]


def test_shots_of_a_file(write, tmp_path):  # noqa: F811
    task = write(GSM8K, changed(GSM8K, question="Another?"))
    with pytest.raises(ValueError, match=r"task\.jsonl is a file of questions to ask.*0 shots"):
        load_shots(task, 1)
    file = tmp_path / "shots.jsonl"
    file.write_text(json.dumps(GSM8K) + "\n" + json.dumps(changed(GSM8K, question="Third?")))
    shots = load_shots(task, 1, shots_file=str(file), asked=load_questions(task))
    assert [shot.text for shot in shots] == ["Third?"]
    file.write_text(json.dumps(MATH))
    with pytest.raises(ValueError, match=r"shots\.jsonl are math questions, but .* gsm8k"):
        load_shots(task, 1, shots_file=str(file))


@pytest.mark.parametrize("level", [None, 1, 2, 5])
def test_shots_of_arithmetic_are_none_of_the_questions(level):
    asked = load_questions("arithmetic", level=level, limit=150)
    shots = load_shots("arithmetic", 2, asked=asked, level=level)
    assert len({shot.id for shot in shots} - {question.id for question in asked}) == 2
    assert shots == load_shots("arithmetic", 2, asked=asked, level=level)
    if level:
        assert {shot.fact("arithmetic_level") for shot in shots} == {str(level)}


def test_arithmetic_that_is_all_asked_has_no_shots():
    asked = load_questions("arithmetic", level=1, limit=154)
    with pytest.raises(ValueError, match="arithmetic has 1 questions to show"):
        load_shots("arithmetic", 2, asked=asked, level=1)


# MMLU


def test_mmlu_in_the_words_of_the_harness(hub):  # noqa: F811
    physics = changed(MMLU, subject="college_physics", question="Which is heavy? ")
    same = changed(physics, answer=1)
    dev = [MMLU, same, *[changed(physics, choices=["a", "b", str(i), "d"]) for i in range(3)]]
    folder = hub([("all", "dev", dev), ("all", "test", [same])])
    (asked,) = load_questions("mmlu", hub=folder)
    shots = load_shots("mmlu", 2, asked=[asked], hub=folder)
    assert [shot.options[2] for shot in shots] == ["0", "1"]  # its subject's, but for itself
    start = "The following are multiple choice questions (with answers) about college physics.\n\n"
    text = start + "Which is heavy?\nA. 4\nB. 6\nC. 7\nD. 8\nAnswer:"
    assert harness_prompt(asked) == text
    others = load_questions("mmlu", hub=folder, split="dev", limit=1)
    shown = start + "Which is heavy?\nA. a\nB. b\nC. 0\nD. d\nAnswer: C\n\n" + text[len(start) :]
    assert harness_prompt(asked, [*others, *shots[:1]]) == shown
    (encoded,) = encode([asked], Letters(), "letter", format="harness", shots=shots[:1])
    assert "".join(map(chr, encoded.prompts.ids[1:])) == shown.replace(" ", "")
    with pytest.raises(ValueError, match="fewer than 4 shots of the subject college_physics"):
        load_shots("mmlu", 4, asked=[asked], hub=folder)


def test_harness_letters_need_a_scorer_of_letters_and_no_open_question():
    assert harness_prompt(QUESTION).startswith(
        "The following are multiple choice questions (with answers).\n\nWhat melts?\nA. ice\n"
    )
    with pytest.raises(ValueError, match="'options' has one prompt"):
        encode([QUESTION], Letters(), "options", format="harness")
    with pytest.raises(ValueError, match="'letter' has one prompt"):
        encode([QUESTION], Letters(), "letter", shots=[QUESTION])
    with pytest.raises(ValueError, match="plain or harness"):
        encode([QUESTION], Letters(), "letter", format="direct")
    with pytest.raises(ValueError, match=r"question q is open.*`exact` or `generate`"):
        encode([SUM], Letters(), "letter")


# What is recorded


def test_the_record_covers_all_that_decides_a_prompt():
    form = format_of("arithmetic")
    texts = [form.ask(SUM, SHOTS)]
    record = prompt_record(form, texts, shots=SHOTS, stop_ids=[2])
    assert json.loads(json.dumps(record)) == record
    assert record["shots"] == ["s1", "s2"]
    assert record["format"]["shots"] == 2
    assert record["template_arguments"] is None
    assert record == prompt_record(form, texts, shots=SHOTS, stop_ids=[2])
    others = [
        prompt_record(format_of("question"), texts, shots=SHOTS, stop_ids=[2]),
        prompt_record(form, [*texts, ""], shots=SHOTS, stop_ids=[2]),
        prompt_record(form, texts, shots=SHOTS[:1], stop_ids=[2]),
        prompt_record(form, texts, shots=SHOTS, chat=True, stop_ids=[2]),
        prompt_record(form, texts, shots=SHOTS, stop_ids=[3]),
    ]
    assert len({record["hash"], *(other["hash"] for other in others)}) == 6
    assert others[3]["template_arguments"] == {
        "date_string": "26 Jul 2024",
        "enable_thinking": False,
    }

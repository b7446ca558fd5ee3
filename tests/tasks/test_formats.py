"""Formats: prompts to the letter, completions, and the record of prompts."""

import pytest

from cola_jax.question import open_question
from cola_jax.scoring.answer import find_answer
from cola_jax.tasks import format_of
from cola_jax.tasks.formats import FORMATS
from cola_jax.tasks.task import TaskConfig
from tests import tiny

SUM = open_question("q", "7 + 5", "12")
SHOTS = [open_question("s1", "1 + 2", "3"), open_question("s2", "9 - 4", "5")]
WORKED = open_question("w", "Ann has 3 and buys 4. How many?", "7", "She has 3 + 4 = 7.")
ASKED = open_question("a", "Bob has 5. How many?", "5")


def test_direct_format():
    form = format_of("math", "direct")
    text = form.ask(open_question("q", "What is $1+1$?", "2"))
    instruction, rest = text.split("\n\n")
    assert "\\boxed{}" in instruction
    assert rest == "### Problem Start\nWhat is $1+1$?\n### Problem End\nAnswer:"
    assert (form.stop, form.extract, form.shots) == ((), "boxed", 0)
    assert form.completion(SUM, r"\frac{1}{2}") == r" \boxed{\frac{1}{2}}"
    with_shot = form.ask(SUM, SHOTS[:1])
    assert with_shot.count(instruction) == 1
    assert "1 + 2\n### Problem End\nAnswer: \\boxed{3}\n\n### Problem Start\n7 + 5" in with_shot


@pytest.mark.parametrize(
    ("kind", "shown", "opening", "stop", "shots", "rule"),
    [
        (
            "gsm8k",
            "Question: {}\nAnswer: She has 3 + 4 = 7.\n#### 7\n\n",
            "Question: {}\nAnswer:",
            ("Question:", "</s>", "<|im_end|>"),
            5,
            "hashes",
        ),
        (
            "dart",
            "Problem:\n{}\n\nSolution: She has 3 + 4 = 7.\n"
            "Final Answer: The final answer is $7$. I hope it is correct.\n\n",
            "Problem:\n{}\n\nSolution:",
            ("Problem:",),
            4,
            "minerva",
        ),
    ],
)
def test_harness_formats(kind, shown, opening, stop, shots, rule):
    form = format_of(kind, "harness")
    assert form.ask(ASKED, [WORKED]) == shown.format(WORKED.text) + opening.format(ASKED.text)
    assert (form.stop, form.shots, form.extract) == (stop, shots, rule)


def test_plain_format():
    form = format_of("arithmetic")
    assert form.ask(SUM, SHOTS) == "1 + 2 = 3\n9 - 4 = 5\n7 + 5 ="
    assert form.completion(SUM, "12") == " 12\n"
    assert form.completion(SUM, "12", chat=True) == "12"
    assert form.shots == 2
    prompt = format_of("prompt")
    assert prompt.ask(open_question("q", "The capital of France is", "Paris")) == (
        "The capital of France is"
    )
    assert prompt.completion(open_question("q", "It is ", "x"), "x") == "x\n"  # no second space
    assert format_of("question").ask(SUM, SHOTS[:1]) == (
        "Question: 1 + 2\nAnswer: 3\n\nQuestion: 7 + 5\nAnswer:"
    )


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


def test_format_of_refuses_unknown_format():
    assert format_of("gsm8k") == format_of("gsm8k", "direct")
    with pytest.raises(ValueError, match="gsm8k questions have the formats direct, harness, not"):
        format_of("gsm8k", "plain")
    with pytest.raises(ValueError, match="arc questions are multiple choice"):
        format_of("arc")


def test_format_refuses_missing_solution():
    with pytest.raises(ValueError, match=r"no single completion is the correct one.*generation"):
        format_of("gsm8k", "harness").completion(WORKED, "7")
    with pytest.raises(ValueError, match="question s1 has no worked solution"):
        format_of("gsm8k", "harness").ask(ASKED, SHOTS)


def prepare(file, **settings):
    return TaskConfig(file, **settings).prepare(
        tiny.tokenizer(), context=400, stop_tokens=lambda: (1, 7)
    )


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
    assert len(prepare(file, rule=rule).encoded) == 3

"""Where completions end, and rules that extract their answers."""

import pytest

from cola_jax.scoring.answer import (
    Answer,
    GenerationSettings,
    find_answer,
    last_box,
    read_gen_kwargs,
)

NONE = Answer(None, True)
CUT = Answer(None, False)
FOUND = {  # rule, text: the answer if the text ended by itself, and if it was cut
    ("boxed", r" \boxed{42}"): (Answer("42", True), Answer("42", True)),
    ("boxed", r"\boxed{\frac{1}{2}} or \boxed{3}"): (Answer(r"\frac{1}{2}", True),) * 2,
    ("boxed", r"\fbox{5}."): (Answer("5", True),) * 2,
    ("boxed", r"\boxed {5}"): (Answer("5", True),) * 2,
    ("boxed", r"\boxed{ 7 }"): (Answer("7", True),) * 2,
    ("boxed", r"\boxed{\boxed{7}}"): (Answer("7", True),) * 2,
    ("boxed", r"\boxed{\boxed{7}, 8}"): (Answer(r"\boxed{7}, 8", True),) * 2,
    ("boxed", r"\boxed{\{1, 2\}}"): (Answer(r"\{1, 2\}", True),) * 2,
    ("boxed", r"\boxed{a\}b}"): (Answer(r"a\}b", True),) * 2,
    ("boxed", r"\boxed{}"): (Answer("", True),) * 2,
    ("boxed", r"\boxed{\frac{1}{2"): (NONE, CUT),
    ("boxed", r"\boxed{1 and \boxed{2}"): (Answer("2", True),) * 2,
    ("boxed", r"$\boxed 5$ apples"): (Answer("5", True),) * 2,
    ("boxed", r"$\boxed 2\sqrt 3$"): (Answer(r"2\sqrt 3", True),) * 2,
    ("boxed", r"\boxed 5. Then"): (Answer("5", True),) * 2,
    ("boxed", r"\boxed 5"): (Answer("5", True), Answer("5", False)),
    ("boxed", r"$\boxed 5 +"): (Answer("5", True), Answer("5", False)),
    ("boxed", r"\$3 is \boxed 5 +"): (Answer("5", True),) * 2,
    ("boxed", r"$x$ is $\boxed 5 + 3$"): (Answer("5 + 3", True),) * 2,
    ("boxed", r"\boxed"): (NONE, CUT),
    ("boxed", r"\boxedx{5}"): (NONE, CUT),
    ("boxed", "42"): (NONE, CUT),
    ("boxed", ""): (NONE, CUT),
    ("hashes", "so 5.\n#### 5\n#### 6"): (Answer("5", True),) * 2,
    ("hashes", "#### -1,234"): (Answer("-1234", True), Answer("-1234", False)),
    ("hashes", "#### 12.50."): (Answer("12.50", True), Answer("12.50", False)),
    ("hashes", "####5"): (NONE, CUT),
    ("hashes", "#### ten"): (NONE, CUT),
    ("hashes", "#### ."): (NONE, CUT),
    ("number", "3 and then $1,234.50."): (Answer("1234.50", True),) * 2,
    ("number", "it is 12."): (Answer("12", True), Answer("12", False)),
    ("number", "7 or -12"): (Answer("-12", True), Answer("-12", False)),
    ("number", "about .5 of it"): (Answer(".5", True),) * 2,
    ("number", "none"): (NONE, CUT),
    (
        "minerva",
        "Final Answer: The final answer is $\\frac12$. I hope it is correct.\n\nProblem:",
    ): (Answer(r"\frac12", True),) * 2,
    ("minerva", "Final Answer: The final answer is 3.5. I hope it is correct"): (
        Answer("3.5", True),
    )
    * 2,
    ("minerva", "Final Answer: The final answer is $12"): (NONE, Answer("12", False)),
    ("minerva", "The answer is 12"): (NONE, CUT),
    ("line", " 12\n7 + 5"): (Answer("12", True),) * 2,
    ("line", " 12"): (Answer("12", True), Answer("12", False)),
    ("line", "\n12"): (NONE, NONE),
    ("line", ""): (NONE, CUT),
}


@pytest.mark.parametrize(("rule", "text"), FOUND)
def test_find_answer_by_rule(rule, text):
    ended, cut = FOUND[rule, text]
    assert find_answer(text, rule, False) == ended
    assert find_answer(text, rule, True) == cut


def test_find_answer_refuses_unknown_rule():
    with pytest.raises(ValueError, match="one of boxed, hashes, number, minerva, line"):
        find_answer("5", "last", False)  # pyright: ignore[reportArgumentType]


def test_last_box_ignores_incomplete_box():
    assert last_box(r"$\boxed{1}$, and thus $\boxed{\frac{1}{2}}$, not \boxed{") == r"\frac{1}{2}"
    assert last_box("none") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{" * 11_500, None),
        (r"\boxed{" * 5700 + "5" + "}" * 5700, "5"),
        (r"\boxed 5 " * 9000, "5"),
    ],
    ids=["opened", "nested", "bare"],
)
def test_boxes_take_linear_time(text, answer):
    """They took 17 seconds, for each of the texts that a model can give."""
    assert find_answer(text, "boxed", False) == Answer(answer, True)
    assert last_box(text) == answer


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, ((), 256)),
        ({"until": "\n", "max_gen_toks": 4}, (("\n",), 4)),
        ({"until": ["a", "", "b"], "max_new_tokens": "5"}, (("a", "b"), 5)),
        ({"until": None, "max_tokens": 6, "max_gen_toks": 7}, ((), 7)),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, ((), 256)),
        ({"temperature": 0.0, "num_beams": 1}, ((), 256)),
    ],
)
def test_read_gen_kwargs(given, settings):
    assert read_gen_kwargs(given, 256) == GenerationSettings(*settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"do_sample": True}, "do_sample=True, but the model cola decodes greedily"),
        ({"temperature": 0.5}, "temperature=0.5, but the model cola decodes greedily"),
        ({"num_beams": 4}, "asks for num_beams=4"),
        ({"max_length": 40}, "asks for max_length=40"),
    ],
)
def test_read_gen_kwargs_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        read_gen_kwargs(given, 256)

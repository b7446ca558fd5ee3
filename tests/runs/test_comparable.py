"""Runs that do not belong together are refused, with what differs and both values."""

import dataclasses

import pytest

from cola_jax.question import Question
from cola_jax.runs.comparable import ANY_SCORER, Asked, asked_here, check_comparable
from cola_jax.scoring import Encoded

SETTINGS = {
    "model": "abc",
    "dtype": "float32",
    "scorer": "options",
    "chat": None,
    "prompt": {"format": "plain", "shots": ["a", "b"], "hash": "1"},
    "simulations": 100,
}
QUESTIONS = [Question(name, f"What is {name}?", ("x", "y", "z"), 1) for name in ("p", "q")]


def asked(questions=QUESTIONS, digest="0", **settings) -> Asked:
    encoded = [Encoded(one, None, None, digest) for one in questions]  # type: ignore[arg-type]
    return asked_here(SETTINGS | settings, encoded)._replace(name="here")


def changed(**fields) -> list[Question]:
    return [dataclasses.replace(QUESTIONS[0], **fields), Question("other", "Else?", ("x", "y"), 0)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (asked(model="xyz"), "model: 'abc' and 'xyz'"),
        (asked(dtype="bfloat16"), "dtype: 'float32' and 'bfloat16'"),
        (asked(scorer="letter"), "scorer: 'options' and 'letter'"),
        (asked(digest="1"), "prompt of 2 of 2 common questions, such as 'p': '0' and '1'"),
        (
            asked(prompt={"format": "plain", "shots": ["a"]}, dtype=None),
            "dtype: 'float32' and None; shots: 2 and 1",
        ),
        (asked(changed(text="Who?")), "text of 1 of 1 common questions, such as 'p': 'What is p?'"),
        (asked(changed(options=("x", "y"))), "options of 1 of 1 common questions"),
        (asked(changed(answer=2)), "gold of 1 of 1 common questions, such as 'p': 'y' and 'z'"),
    ],
)
def test_what_differs_is_named_with_both_values(other, message):
    with pytest.raises(ValueError, match="do not belong together") as error:
        check_comparable(asked()._replace(name="run"), other)
    assert message in str(error.value)


def test_runs_of_the_same_questions_may_differ_elsewhere():
    other = {"format": "plain", "shots": ["c", "d"], "hash": "2"}  # of another first question
    settings = SETTINGS | {"simulations": 50, "prompt": other}
    assert check_comparable(asked(), asked(QUESTIONS[:1])._replace(settings=settings)) == []


def test_differences_that_are_allowed_are_told():
    told = check_comparable(asked(), asked(scorer="letter", dtype="bfloat16"), ANY_SCORER)
    assert told == ["dtype: 'float32' and 'bfloat16'", "scorer: 'options' and 'letter'"]
    with pytest.raises(ValueError, match="model: 'abc' and 'xyz'"):
        check_comparable(asked(), asked(model="xyz"), ANY_SCORER)

"""`check_comparable`: results belong together where models, settings and questions are the same."""

import dataclasses
import logging

import pytest

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.runs import compare
from tests.runs.conftest import encode

DECIDED = {
    **{"model": "abc", "dtype": "float32", "scorer": "options", "chat": None},
    **{"prompt": {"format": "plain", "shots": ["a", "b"], "hash": "1"}, "simulations": 100},
}
ASKED = [Question(name, f"What is {name}?", ("x", "y", "z"), 1) for name in ("p", "q")]


def asked(questions=ASKED, digest="0", name="here", **settings) -> compare.Asked:
    sample = [encode(each, digest) for each in questions]
    here = compare.asked_here(DECIDED | settings, questions, sample)
    here.name = name
    return here


def changed(**fields) -> list[Question]:
    return [dataclasses.replace(ASKED[0], **fields), Question("other", "Else?", ("x", "y"), 0)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (asked(model="xyz"), "its model is abc, here it is xyz"),
        (asked(scorer="letter"), "its scorer is options, here it is letter"),
        (asked(prompt={"format": "x", "num_fewshot": 2}), "its format is plain, here it is x"),
        (asked(prompt={"format": "plain", "shots": ["a"]}), "its shots is 2, here it is 1"),
        (asked(digest="1"), r"2 of 2 prompts have changed \('p', 'q'\)"),
        (asked(changed(text="Who?")), r"1 of 2 texts have changed \('p'\)"),
        (asked(changed(options=("x", "y"))), r"1 of 2 options have changed \('p'\)"),
        (asked(changed(answer=2)), r"1 of 2 golds have changed \('p'\)"),
    ],
)
def test_check_comparable_names_differences(other, message):
    with pytest.raises(InputError, match=f"run does not belong to here: {message}. Give results"):
        compare.check_comparable(asked(name="run"), other)


def test_check_comparable_logs_allowed_differences(caplog):
    shots = {"format": "plain", "shots": ["c", "d"], "hash": "2"}  # of another first question
    with caplog.at_level(logging.INFO, "cola_jax"):
        compare.check_comparable(asked(), asked(ASKED[:1], simulations=50, prompt=shots))
        assert not caplog.records
        compare.check_comparable(
            asked(), asked(scorer="letter", dtype="bfloat16"), compare.ANY_SCORER
        )
    assert "its dtype is float32, here it is bfloat16; its scorer is options" in caplog.text
    with pytest.raises(InputError, match="its model is abc, here it is xyz"):
        compare.check_comparable(asked(), asked(model="xyz"), compare.ANY_SCORER)

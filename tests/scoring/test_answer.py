"""Where completions end, and rules that extract their answers."""

import json
from pathlib import Path

import pytest

from cola_jax.scoring.answer import (
    Answer,
    GenerationSettings,
    check_rule,
    find_answer,
    last_box,
    read_gen_kwargs,
)

LINES = Path(__file__).with_name("answers.jsonl").read_text().splitlines()


@pytest.mark.parametrize("row", [json.loads(line) for line in LINES])
def test_find_answer_by_rule(row):
    for cut, key in ((False, "ended"), (True, "cut")):
        assert find_answer(row["text"], row["rule"], cut) == tuple(row[key])


def test_check_rule_refuses_unknown_rule():
    with pytest.raises(ValueError, match="one of boxed, hashes, number, minerva, line"):
        check_rule("last")


def test_last_box_ignores_incomplete_box():
    assert last_box(r"$\boxed{1}$, and thus $\boxed{\frac{1}{2}}$, not \boxed{") == r"\frac{1}{2}"


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
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "num_beams": 1}, ((), 256)),
        ({"temperature": 0.0}, ((), 256)),
    ],
)
def test_read_gen_kwargs(given, settings):
    assert read_gen_kwargs(given, 256) == GenerationSettings(*settings)


def test_read_gen_kwargs_refuses_sampling_and_unknown_keys():
    for key, value in {"do_sample": True, "temperature": 0.5, "num_beams": 4}.items():
        with pytest.raises(ValueError, match=f"{key}={value}"):
            read_gen_kwargs({key: value}, 256)
    with pytest.raises(ValueError, match="asks for max_length=40"):
        read_gen_kwargs({"max_length": 40}, 256)

"""Guesses without a path, against probabilities and counts made by hand."""

import numpy as np
import pytest

from cola_jax.prompts import Prompts
from cola_jax.question import open_question
from cola_jax.scoring.exact import EncodedAnswer
from experiments.guessing import guessed, probability


def test_probability_is_that_of_all_tokens_and_any_end():
    prompts = Prompts.plain(np.zeros((1, 4), np.int32))
    encoded = EncodedAnswer(
        open_question("q", "4 + 4", "8"),
        prompts,
        np.array([0, 0, 0, 1]),
        "",
        end=np.array([False, True, True, False]),
        ends=(5, 6),
    )
    logprob = np.log([0.5, 0.25, 0.125, 0.75, 1.0])  # the last is of padding
    assert probability(encoded, logprob, 0) == pytest.approx(0.5 * 0.375)
    assert probability(encoded, logprob, 1) == pytest.approx(0.75)
    assert np.isnan(probability(encoded, logprob, 2))


def test_frequent_answers_are_those_of_other_questions():
    golds = ["1", "1", "1", "2", "2", "3"]
    assert guessed(golds, golds, 1).tolist() == [True, True, True, False, False, False]
    assert guessed(golds, golds, 2).tolist() == [True, True, True, True, True, False]
    assert guessed(golds, golds, 9).tolist() == [True, True, True, True, True, False]
    assert guessed(golds, ["2", None, "4", "1", "3", "3"], 2).tolist() == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]

"""`FilteredGeneration`: what ends a completion, what of it is graded, and its verdicts."""

import numpy as np
import pytest

from cola_jax.execute.allocator import DecodeRow
from cola_jax.execute.decoder import NOT_FINITE, STOPPED, TRUNCATED
from cola_jax.question import Question
from cola_jax.scoring.decoding import DECOY, GOLD
from cola_jax.scoring.filtered import FilteredGeneration
from cola_jax.scoring.gen_kwargs import GenerationSettings
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import NO_ANSWER
from tests import tiny


class Words:
    """A grader to which the last word is the answer."""

    settings = GenerationSettings(("\n",), 5)

    def grade(self, question, text):
        words = text.split()
        right = bool(words) and words[-1] == question.gold
        return (words or [None])[-1], Grade.RIGHT if right else Grade.WRONG

    def gives(self, question, text, answer):
        return text.split()[-1:] == [answer]

    def record(self):
        return {"rule": "last"}


QUESTION = Question("q", "which is it?", ("moon", "sun"), 0, open=True)


@pytest.fixture
def words():
    return tiny.tokenizer()


def row(words, text, finish=STOPPED):
    ids = words(text, add_special_tokens=False).input_ids
    scores = {"logprob": [-0.1] * len(ids), "rival": [-3.0] * len(ids)}
    return DecodeRow(0, np.zeros(1, np.int32), tokens=ids, finish=finish, **scores)


def test_row_verdicts_grade_the_text_before_a_stop_string(words):
    scorer = FilteredGeneration(words, Words(), stop_tokens=(1,))
    rows = [
        row(words, " the moon\n sun"),
        row(words, " the moon</s>"),
        row(words, " moon", TRUNCATED),
        row(words, " rock", TRUNCATED),
        row(words, "\n", TRUNCATED),
        row(words, " moon", NOT_FINITE),
    ]
    verdicts = scorer.row_verdicts(rows, [QUESTION] * len(rows))
    assert verdicts.verdict.tolist() == [True, True, True, False, False, False]
    assert verdicts.answer.tolist() == [*[GOLD] * 3, *[NO_ANSWER] * 3]
    assert [one.truncated for one in verdicts.completion] == [False] * 4 + [True, False]
    assert verdicts.completion[0].text == " the moon"
    assert not verdicts.of_target(DECOY).verdict[0]


def test_wrong_answers_are_compared_with_the_decoy(words):
    scorer = FilteredGeneration(words, Words(), stop_tokens=(1,))
    verdicts = scorer.row_verdicts([row(words, " sun\n")], [QUESTION])
    assert verdicts.answer.tolist() == [DECOY]
    control = verdicts.of_target(DECOY)
    assert control.verdict.tolist() == [True]
    assert control.margin[0] > 0


def test_encode_takes_the_prompt_as_it_is(words):
    scorer = FilteredGeneration(words, Words(), stop_tokens=(1,), max_new_tokens=7, context=40)
    encoded = scorer.encode(QUESTION)
    assert words.decode(encoded.prompts.ids) == "<s>which is it?"
    assert scorer.stop.strings == ("\n", "</s>")
    assert scorer.record() == {"max_new_tokens": 7, "rule": "last"}
    with pytest.raises(ValueError, match="tokens and 5 new ones, but the model's context is 6"):
        FilteredGeneration(words, Words(), stop_tokens=(1,), context=6).encode(QUESTION)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, it is 0"):
        FilteredGeneration(words, Words(), stop_tokens=(1,), max_new_tokens=0)

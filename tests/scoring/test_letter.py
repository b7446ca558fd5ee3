"""`letter` and `letter-strict`: their prompts, and what they make of the letters' readings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.prompts import readings
from cola_jax.question import Question, open_question
from cola_jax.scoring import Letter, StrictLetter
from cola_jax.scoring.letter import harness_prompt, plain_prompt
from cola_jax.scoring.verdicts import NO_ANSWER
from tests import tiny
from tests.scoring.readings import CANDIDATES, encoded, half_finite, made_up, with_gold
from tests.tokenizers import CodePoints

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)
WORDS = CodePoints((" ", ""))  # spaces belong to the next character
LETTERS = [[10], [11], [12]]
SCORERS = [Letter(WORDS), StrictLetter(WORDS)]
each = pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)


@each
def test_encode_reads_one_letter_per_option(scorer):
    made = scorer.encode(QUESTION)
    assert plain_prompt(QUESTION) == "Question: What melts?\nA. ice\nB. iron ore\nC. wind\nAnswer:"
    assert "".join(map(chr, made.prompts.ids[1:])) == plain_prompt(QUESTION).replace(" ", "")
    assert [chr(t) for t in made.prompts.targets] == ["A", "B", "C"]
    assert set(made.prompts.read.tolist()) == {made.num_tokens - 1}
    assert made.option.tolist() == [0, 1, 2]


def test_encode_chat_adds_no_special_tokens():
    made = Letter(CodePoints(), chat=True).encode(QUESTION)
    ids = made.prompts.ids[: made.prompts.read[0] + 1].tolist()
    assert (ids[0], ids[-1]) == (2, 3)  # the template's own, and no 1
    message = "".join(map(chr, ids[1:-1]))
    assert message.startswith("What melts?\nA. ice\n")
    assert "A, B or C" in message


def test_encode_chat_with_real_tokenizer():
    words = tiny.tokenizer()
    made = Letter(words, chat=True).encode(QUESTION)
    assert made.prompts.ids.tolist().count(words.bos_token_id) == 1
    assert words.convert_ids_to_tokens(made.prompts.targets.tolist()) == ["A", "B", "C"]


def test_encode_refuses_what_cannot_be_scored():
    with pytest.raises(ValueError, match="question q1: letters are"):
        Letter(CodePoints()).encode(QUESTION)  # " A" is two tokens
    with pytest.raises(ValueError, match=r"question q is open.*`exact` or `generation`"):
        Letter(WORDS).encode(open_question("q", "7 + 5", "12"))
    length = Letter(WORDS).encode(QUESTION).num_tokens
    Letter(WORDS, context=length).encode(QUESTION)
    with pytest.raises(ValueError, match=f"question q1 has {length} tokens"):
        Letter(WORDS, context=length - 1).encode(QUESTION)


def test_harness_prompt_shows_shots_of_own_subject():
    subject = (("subject", "college_physics"),)
    asked = Question("q", "Which is heavy? ", ("4", "6", "7", "8"), 1, metadata=subject)
    shot = Question("s", "Which is heavy? ", ("a", "b", "0", "d"), 2, metadata=subject)
    other = Question("o", "Which is prime?", ("4", "6", "7", "8"), 2)
    start = "The following are multiple choice questions (with answers) about college physics.\n\n"
    text = start + "Which is heavy?\nA. 4\nB. 6\nC. 7\nD. 8\nAnswer:"
    assert harness_prompt(asked) == text
    shown = start + "Which is heavy?\nA. a\nB. b\nC. 0\nD. d\nAnswer: C\n\n" + text[len(start) :]
    assert harness_prompt(asked, [other, shot]) == shown
    made = Letter(WORDS, harness=True, shots=[shot]).encode(asked)
    assert "".join(map(chr, made.prompts.ids[1:])) == shown.replace(" ", "")
    assert harness_prompt(QUESTION).startswith(
        "The following are multiple choice questions (with answers).\n\nWhat melts?\nA. ice\n"
    )


def test_plain_prompt_refuses_shots():
    with pytest.raises(ValueError, match="the plain prompt of letters shows no shots"):
        Letter(WORDS, shots=[QUESTION])


def test_letter_compares_letters_offered():
    readings = made_up(3)
    verdicts = Letter(WORDS).verdicts(readings, encoded(LETTERS))
    offered = readings.logprob
    np.testing.assert_array_equal(verdicts.scores, offered)
    np.testing.assert_array_equal(verdicts.answer, offered.argmax(axis=1))
    rival = np.maximum(offered[:, 0], offered[:, 2])
    np.testing.assert_allclose(verdicts.margin, offered[:, 1] - rival, rtol=1e-5)
    np.testing.assert_array_equal(verdicts.verdict, verdicts.margin > 0)


logits = st.lists(st.lists(st.integers(-8, 8), min_size=5, max_size=5), min_size=9, max_size=9)


@given(logits, st.integers(0, 2))
def test_strict_letter_takes_likeliest_token_of_all(logits, gold):
    """For every gold, and read again for it: tokens 2, 3 and 4 are the letters."""
    letters = [[2], [3], [4]]
    logits = np.float32(logits) / 2
    read = readings(np.repeat(logits[:, None], 3, axis=1), np.tile([2, 3, 4], (9, 1)))
    own, other = (
        StrictLetter(WORDS).verdicts(read, encoded(letters, gold=i)) for i in (gold, (gold + 1) % 3)
    )
    token = logits.argmax(axis=1)
    np.testing.assert_array_equal(own.answer, np.where(token < 2, NO_ANSWER, token - 2))
    np.testing.assert_array_equal(own.verdict, token == 2 + gold)
    rival = np.delete(logits, 2 + gold, axis=1).max(axis=1)
    np.testing.assert_allclose(own.margin, logits[:, 2 + gold] - rival, atol=1e-5)
    for ours, again in zip(own, other.of_target(gold), strict=True):
        np.testing.assert_array_equal(ours, again)


@each
def test_verdicts_of_path_not_finite_are_wrong(scorer):
    readings, finite = half_finite(3)
    verdicts = scorer.verdicts(readings, encoded(LETTERS, gold=0))
    np.testing.assert_array_equal(verdicts.verdict, finite)
    np.testing.assert_array_equal(verdicts.finite, finite)
    np.testing.assert_array_equal(verdicts.answer, np.where(finite, 0, NO_ANSWER))
    assert (verdicts.margin[~finite] == -np.inf).all()
    assert np.isfinite(verdicts.margin[finite]).all()


halves = st.lists(st.integers(-12, 0), min_size=3, max_size=3)


@given(st.lists(halves, min_size=CANDIDATES, max_size=CANDIDATES), st.integers(0, 2))
def test_scores_can_be_read_with_other_gold(logprob, gold):
    readings = made_up(3, logprob=np.float32(logprob) / 2)
    expected = Letter(WORDS).verdicts(readings, with_gold(encoded(LETTERS), gold))
    again = Letter(WORDS).verdicts(readings, encoded(LETTERS)).of_target(gold)
    for name in ("verdict", "answer", "margin", "scores", "finite"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))

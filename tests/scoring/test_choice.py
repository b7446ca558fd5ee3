"""Scorers of multiple choice: their prompts, and the scores that they make of readings."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cola_jax
from cola_jax.prompts import Prompts, Readings, readings
from cola_jax.question import Question, open_question
from cola_jax.scoring import Encoded, Letter, Options, OptionsNorm, StrictLetter
from cola_jax.scoring.scorer import pack
from cola_jax.scoring.verdicts import NO_ANSWER
from tests import tiny
from tests.tokenizers import CodePoints

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)
LISTED = "What melts?\nA. ice\nB. iron ore\nC. wind"
WORDS = CodePoints((" ", ""))  # spaces belong to the next character
TOKENS = [[3], [4, 5, 6], [7, 8]]  # of the options
LETTERS = [[10], [11], [12]]
CANDIDATES = 6


def encoded(tokens, gold=1, options=("ice", "some iron ore", "wind of the sea")) -> Encoded:
    """Make a question whose options are these tokens."""
    prompts, option = pack([1, 2], tokens)
    return Encoded(Question("q", "?", options, gold), prompts, option, "hash")


def random_readings(reads: int) -> Readings:
    """Make readings [C, Q]."""
    generator = np.random.default_rng(0)
    logprob, rival = generator.normal(-3, 2, (2, CANDIDATES, reads)).astype(np.float32)
    token = generator.integers(0, 20, (CANDIDATES, reads), np.int32)
    return Readings(logprob, token, rival, np.ones(CANDIDATES, bool))


def prompt_of(made):
    """Return the text of a prompt of code points, after the first special token."""
    return "".join(map(chr, made.prompts.ids[1 : made.prompts.read[0] + 1]))


def test_pack_reads_continuations_that_begin_alike_once():
    row, option = pack([1, 2], [[3, 4, 5], [3, 4, 6], [3, 7, 8], [4]])
    assert row.ids.tolist() == [1, 2, 3, 4, 3, 4, 3, 7]
    assert row.read.tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 7, 1]
    assert row.targets.tolist() == [3, 4, 5, 3, 4, 6, 3, 7, 8, 4]
    assert option.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_options_ask_as_lm_evaluation_harness():
    shots = [Question("s", "What flows?", ("stone", "water"), 1)]
    shots.append(Question("t", "What falls?", ("rain",), 0, metadata=(("subject", "law"),)))
    made = Options(CodePoints(), shots=shots).encode(QUESTION)
    prompt = "Question: What flows?\nAnswer: water\n\nQuestion: What melts?\nAnswer:"
    assert (made.prompts.ids[0], prompt_of(made)) == (1, prompt)
    for j, option in enumerate(QUESTION.options):
        assert "".join(map(chr, made.prompts.targets[made.option == j])) == f" {option}"
    with pytest.raises(ValueError, match="shows no shots in a chat"):
        Options(CodePoints(), chat=True, shots=shots)


def test_letters_read_one_token_per_option():
    made = Letter(WORDS).encode(QUESTION)
    assert prompt_of(made) == f"Question: {LISTED}\nAnswer:".replace(" ", "")
    assert [chr(t) for t in made.prompts.targets] == ["A", "B", "C"]
    assert set(made.prompts.read.tolist()) == {made.num_tokens - 1}
    assert made.option.tolist() == [0, 1, 2]


def test_letters_show_shots_of_own_subject():
    subject = (("subject", "college_physics"),)
    question = Question("q", "Which is heavy? ", ("4", "6"), 1, metadata=subject)
    shot = Question("s", "Which is light? ", ("a", "b", "0"), 2, metadata=subject)
    shown = (
        "The following are multiple choice questions (with answers) about college physics.\n\n"
        "Which is light?\nA. a\nB. b\nC. 0\nAnswer: C\n\nWhich is heavy?\nA. 4\nB. 6\nAnswer:"
    )
    scorer = Letter(WORDS, format="harness", shots=[QUESTION, shot])
    assert scorer.ask(question) == (shown, ["A", "B"])
    start = "The following are multiple choice questions (with answers).\n\n"
    plain = f"{start}{LISTED}\nAnswer:"
    assert Letter(WORDS, format="harness").ask(QUESTION) == (plain, ["A", "B", "C"])
    with pytest.raises(ValueError, match="the plain prompt of letters shows no shots"):
        Letter(WORDS, shots=[QUESTION])


def test_letters_in_a_chat_add_no_special_tokens():
    made = Letter(CodePoints(), chat=True).encode(QUESTION)
    ids = made.prompts.ids[: made.prompts.read[0] + 1].tolist()
    assert (ids[0], ids[-1]) == (2, 3)  # the template's own, and no 1
    request = "Answer with one letter, A, B or C, and nothing else."
    assert "".join(map(chr, ids[1:-1])) == f"{LISTED}\n\n{request}"
    assert chr(made.prompts.targets[0]) == "A"  # no space after a template


def test_encode_refuses_unscorable_questions():
    for scorer, question, message in (
        (Options(WORDS), open_question("q", "7 + 5", "12"), "q is open.*`exact` or `generation`"),
        (Letter(WORDS), Question("q", "?"), "question q has no options"),
        (Options(WORDS), Question("q", "?", ("ice", " "), 0), "question q has an empty option"),
        (Letter(CodePoints()), QUESTION, "question q1: letters are"),  # " A" is two tokens
    ):
        with pytest.raises(ValueError, match=message):
            scorer.encode(question)


@pytest.mark.parametrize(
    ("kind", "tokens"), [(Options, TOKENS), (OptionsNorm, TOKENS), (Letter, LETTERS)]
)
def test_verdicts_equal_sums_in_plain_python(kind, tokens):
    question, read = encoded(tokens), random_readings(sum(map(len, tokens)))
    verdicts = kind(WORDS).verdicts(read, question)
    for c in range(CANDIDATES):
        scores, position = [], 0
        for option, own in zip(question.question.options, tokens, strict=True):
            total = sum(float(read.logprob[c, position + i]) for i in range(len(own)))
            position += len(own)
            scores.append(total / len(option) if kind is OptionsNorm else total)
        assert verdicts.scores[c] == pytest.approx(scores, rel=1e-6)
        assert verdicts.answer[c] == scores.index(max(scores))
        assert verdicts.verdict[c] == (scores.index(max(scores)) == 1)
        assert verdicts.margin[c] == pytest.approx(scores[1] - max(scores[0], scores[2]), rel=1e-6)
    assert len(set(verdicts.answer.tolist())) > 1


logits = st.lists(st.lists(st.integers(-8, 8), min_size=5, max_size=5), min_size=9, max_size=9)


@given(logits, st.integers(0, 2))
def test_strict_letter_takes_likeliest_token_of_all(logits, gold):
    """For every gold, and read again for it: tokens 2, 3 and 4 are the letters."""
    tokens = [[2], [3], [4]]
    logits = np.float32(logits) / 2
    read = readings(np.repeat(logits[:, None], 3, axis=1), np.tile([2, 3, 4], (9, 1)))
    verdicts, other = (
        StrictLetter(WORDS).verdicts(read, encoded(tokens, j)) for j in (gold, (gold + 1) % 3)
    )
    token = logits.argmax(axis=1)
    np.testing.assert_array_equal(verdicts.answer, np.where(token < 2, NO_ANSWER, token - 2))
    np.testing.assert_array_equal(verdicts.verdict, token == 2 + gold)
    rival = np.delete(logits, 2 + gold, axis=1).max(axis=1)
    np.testing.assert_allclose(verdicts.margin, logits[:, 2 + gold] - rival, atol=1e-5)
    for ours, again in zip(verdicts, other.of_target(gold), strict=True):
        np.testing.assert_array_equal(ours, again)


@pytest.mark.parametrize(("kind", "tokens"), [(OptionsNorm, TOKENS), (StrictLetter, LETTERS)])
def test_verdicts_of_path_not_finite_are_wrong(kind, tokens):
    reads, finite = sum(map(len, tokens)), np.arange(CANDIDATES) % 2 == 0
    logprob = np.where(finite[:, None], -1.0, np.nan) * np.ones(reads)
    token = np.full((CANDIDATES, reads), 10, np.int32)
    read = Readings(logprob, token, logprob - 1, finite)
    verdicts = kind(WORDS).verdicts(read, encoded(tokens, gold=0))
    np.testing.assert_array_equal(verdicts.finite, finite)
    np.testing.assert_array_equal(verdicts.answer == NO_ANSWER, ~finite)
    assert not verdicts.verdict[~finite].any()
    assert (verdicts.margin[~finite] == -np.inf).all()
    assert np.isfinite(verdicts.margin[finite]).all()


# whole halves, so that scores tie and float32 holds them exactly
halves = st.lists(st.integers(-12, 0), min_size=6, max_size=6)


@given(st.lists(halves, min_size=CANDIDATES, max_size=CANDIDATES), st.integers(0, 2))
def test_scores_can_be_read_with_other_gold(logprob, gold):
    read = dataclasses.replace(random_readings(6), logprob=np.float32(logprob) / 2)
    question, other = (encoded(TOKENS, j, ("ice", "iron", "winds of sea")) for j in (1, gold))
    scorer = OptionsNorm(WORDS)
    expected = scorer.verdicts(read, other)
    again = scorer.verdicts(read, question).of_target(gold)
    for name in ("verdict", "answer", "scores", "finite"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    np.testing.assert_allclose(again.margin, expected.margin, atol=1e-6)


def test_packed_options_equal_one_forward_each(model, words):
    path, questions = (0, 2, 1, 1, 1, 4), tiny.questions(4)
    rows = [Options(words).encode(question) for question in questions]
    readings = cola_jax.run_paths(model, Prompts.stack([r.prompts for r in rows]), [[path]] * 4)
    for b, question in enumerate(questions):
        text = f"Question: {question.text}\nAnswer:"
        prompt = words(text).input_ids
        own = readings.logprob[b, 0, : len(rows[b].option)]
        assert len(own) > len(question.options)  # one of them has several tokens
        for j, option in enumerate(question.options):
            tokens = words(f"{text} {option}").input_ids[len(prompt) :]
            ids = np.zeros((1, 40), np.int32)  # one length, one compilation
            ids[0, : len(prompt + tokens)] = prompt + tokens
            logprobs = jax.nn.log_softmax(cola_jax.run_path(model, ids, path)[0], axis=-1)
            alone = np.asarray(logprobs)[len(prompt) - 1 + np.arange(len(tokens)), tokens].sum()
            np.testing.assert_allclose(own[rows[b].option == j].sum(), alone, rtol=2e-5)

"""Verdicts and margins against a calculation option by option, and against separate forwards."""

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.prompts import Prompts, Readings
from cola_jax.scoring.encode import pack, tokenize
from cola_jax.scoring.verdicts import NO_ANSWER, score
from cola_jax.tasks import Encoded, Question, encode
from tests import tiny

OPTIONS = ("ice", "some iron ore", "wind of the sea")
TOKENS = [[3], [4, 5, 6], [7, 8]]
CANDIDATES = 6


def encoded(continuations, scorer, options=OPTIONS, gold=1):
    prompts, option = pack([1, 2], continuations)
    return Encoded(Question("q", "?", options, gold), scorer, prompts, option, "hash")


def made_up(reads, seed=0, **fields):
    """Readings of made-up numbers, two reads wider than the question's own."""
    generator = np.random.default_rng(seed)
    shape = (CANDIDATES, reads + 2)
    return Readings(
        **{
            "logprob": generator.normal(-3, 2, shape).astype(np.float32),
            "token": generator.integers(0, 20, shape, np.int32),
            "rival": generator.normal(-3, 2, shape).astype(np.float32),
            "finite": np.ones(CANDIDATES, bool),
            **fields,
        }
    )


@pytest.mark.parametrize("scorer", ["options", "options-norm"])
def test_options_equal_sums_in_plain_python(scorer):
    question, readings = encoded(TOKENS, scorer), made_up(6)
    verdicts = score(readings, question)
    for c in range(CANDIDATES):
        scores, position = [], 0
        for option, tokens in zip(OPTIONS, TOKENS, strict=True):
            total = sum(float(readings.logprob[c, position + i]) for i in range(len(tokens)))
            position += len(tokens)
            scores.append(total / len(option) if scorer == "options-norm" else total)
        assert verdicts.answer[c] == scores.index(max(scores))
        assert verdicts.verdict[c] == (scores.index(max(scores)) == 1)
        assert verdicts.margin[c] == pytest.approx(scores[1] - max(scores[0], scores[2]), rel=1e-6)
    assert len(set(verdicts.answer.tolist())) > 1


def test_the_norm_changes_an_answer():
    logprob = np.tile(np.float32([-4, -5, -1, -1, -5, -5, 0, 0]), (CANDIDATES, 1))
    readings = made_up(6, logprob=logprob)
    assert score(readings, encoded(TOKENS, "options")).answer[0] == 0
    assert score(readings, encoded(TOKENS, "options-norm")).answer[0] == 1


LETTERS = [[10], [11], [12]]


def test_letter_compares_the_letters_offered():
    readings = made_up(3)
    verdicts = score(readings, encoded(LETTERS, "letter"))
    offered = readings.logprob[:, :3]
    np.testing.assert_array_equal(verdicts.answer, offered.argmax(axis=1))
    rival = np.maximum(offered[:, 0], offered[:, 2])
    np.testing.assert_allclose(verdicts.margin, offered[:, 1] - rival, rtol=1e-5)
    np.testing.assert_array_equal(verdicts.verdict, verdicts.margin > 0)


def test_letter_strict_takes_the_likeliest_token_of_all():
    said = np.array([10, 11, 12, 0, 5, 11], np.int32)
    readings = made_up(3, token=np.repeat(said[:, None], 5, axis=1))
    verdicts = score(readings, encoded(LETTERS, "letter-strict"))
    assert verdicts.answer.tolist() == [0, 1, 2, NO_ANSWER, NO_ANSWER, 1]
    assert verdicts.verdict.tolist() == [False, True, False, False, False, True]
    expected = readings.logprob[:, 1] - readings.rival[:, 1]
    np.testing.assert_allclose(verdicts.margin, expected, rtol=1e-5)


def test_ties_take_the_first():
    equal = made_up(3, logprob=np.full((CANDIDATES, 5), -2, np.float32))
    for gold in (0, 1):
        question = encoded(LETTERS, "letter", gold=gold)
        verdicts = score(equal, question)
        assert (verdicts.answer == 0).all()
        assert (verdicts.verdict == (gold == 0)).all()
        assert (verdicts.margin == 0).all()


@pytest.mark.parametrize("scorer", ["options", "options-norm", "letter", "letter-strict"])
def test_a_path_that_is_not_finite_is_wrong(scorer):
    finite = np.array([True, False] * 3)
    logprob = np.where(finite[:, None], -1.0, np.nan) * np.ones(5)
    token = np.full((CANDIDATES, 5), 10, np.int32)
    readings = made_up(3, logprob=logprob, rival=logprob - 1, token=token, finite=finite)
    question = encoded(LETTERS, scorer, ("ice", "ore", "sea"), gold=0)
    verdicts = score(readings, question)
    np.testing.assert_array_equal(verdicts.verdict, finite)
    np.testing.assert_array_equal(verdicts.finite, finite)
    np.testing.assert_array_equal(verdicts.answer, np.where(finite, 0, NO_ANSWER))
    assert (verdicts.margin[~finite] == -np.inf).all()
    assert np.isfinite(verdicts.margin[finite]).all()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("path", [(0, 1, 2, 3, 4), (0, 2, 1, 1, 1, 4)])
def test_packed_options_equal_one_forward_each(checkpoint, path):
    model, words = cola_jax.load(checkpoint), cola_jax.load_tokenizer(checkpoint)
    questions = tiny.questions(4)
    rows = encode(questions, words, "options")
    readings = cola_jax.run_paths(model, Prompts.stack([r.prompts for r in rows]), [[path]] * 4)
    for b, question in enumerate(questions):
        text = f"Question: {question.text}\nAnswer:"
        answers = [f" {option}" for option in question.options]
        prompt, continuations = tokenize(words, text, answers, special=True)
        totals = []
        for tokens in continuations:
            ids = prompt + tokens + [0] * (40 - len(prompt + tokens))  # one length, one compilation
            logits = cola_jax.run_path(model, np.array([ids]), path)
            logprobs = np.asarray(jax.nn.log_softmax(logits[0], axis=-1))
            totals.append(
                sum(logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(tokens))
            )
        mine = readings.logprob[b, 0, : len(rows[b].option)]
        packed = [mine[rows[b].option == j].sum() for j in range(len(answers))]
        np.testing.assert_allclose(packed, totals, rtol=2e-5)
        assert max(map(len, continuations)) > 1

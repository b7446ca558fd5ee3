"""`options` and `options-norm`, against sums option by option and against separate forwards."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cola_jax
from cola_jax.prompts import Prompts
from cola_jax.question import Question, open_question
from cola_jax.scoring import Options, OptionsNorm, Verdicts
from cola_jax.scoring.verdicts import NO_ANSWER
from tests import tiny
from tests.scoring.readings import CANDIDATES, encoded, half_finite, made_up, with_gold
from tests.tokenizers import CodePoints

QUESTION = Question("q1", "What melts?", ("ice", "iron ore", "wind"), 1)
TOKENS = [[3], [4, 5, 6], [7, 8]]
SCORERS = [Options(CodePoints()), OptionsNorm(CodePoints())]
each = pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)


@each
def test_encode_asks_as_lm_evaluation_harness(scorer):
    made = scorer.encode(QUESTION)
    prompt = "".join(map(chr, made.prompts.ids[1 : made.prompts.read[0] + 1]))
    assert (made.prompts.ids[0], prompt) == (1, "Question: What melts?\nAnswer:")
    for j, option in enumerate(QUESTION.options):
        assert "".join(map(chr, made.prompts.targets[made.option == j])) == f" {option}"


def test_encode_shows_shots_as_lm_evaluation_harness():
    shots = [Question("s", "What flows?", ("stone", "water"), 1)]
    shots.append(Question("t", "What falls?", ("rain",), 0, metadata=(("subject", "law"),)))
    made = Options(CodePoints(), shots=shots).encode(QUESTION)
    prompt = "".join(map(chr, made.prompts.ids[1 : made.prompts.read[0] + 1]))
    assert prompt == "Question: What flows?\nAnswer: water\n\nQuestion: What melts?\nAnswer:"
    with pytest.raises(ValueError, match="shows no shots in a chat"):
        Options(CodePoints(), chat=True, shots=shots)


def test_encode_chat_adds_no_special_tokens():
    made = Options(CodePoints(), chat=True).encode(QUESTION)
    ids = made.prompts.ids[: made.prompts.read[0] + 1].tolist()
    assert (ids[0], ids[-1]) == (2, 3)  # the template's own, and no 1
    assert "".join(map(chr, ids[1:-1])) == "What melts?"
    assert chr(made.prompts.targets[0]) == "i"  # no space after a template


@each
def test_encode_refuses_what_cannot_be_scored(scorer):
    with pytest.raises(ValueError, match=r"question q is open.*`exact` or `generation`"):
        scorer.encode(open_question("q", "7 + 5", "12"))
    with pytest.raises(ValueError, match="question q has an empty option"):
        scorer.encode(Question("q", "?", ("ice", " "), 0))
    with pytest.raises(ValueError, match="question q has no options"):
        scorer.encode(Question("q", "?"))


@each
def test_verdicts_equal_sums_in_plain_python(scorer):
    question, readings = encoded(TOKENS), made_up(6)
    verdicts = scorer.verdicts(readings, question)
    for c in range(CANDIDATES):
        scores, position = [], 0
        for option, tokens in zip(question.question.options, TOKENS, strict=True):
            total = sum(float(readings.logprob[c, position + i]) for i in range(len(tokens)))
            position += len(tokens)
            scores.append(total / len(option) if scorer.name == "options-norm" else total)
        assert verdicts.scores[c] == pytest.approx(scores, rel=1e-6)
        assert verdicts.answer[c] == scores.index(max(scores))
        assert verdicts.verdict[c] == (scores.index(max(scores)) == 1)
        assert verdicts.margin[c] == pytest.approx(scores[1] - max(scores[0], scores[2]), rel=1e-6)
    assert len(set(verdicts.answer.tolist())) > 1


def test_norm_changes_answer():
    logprob = np.tile(np.float32([-4, -5, -1, -1, -5, -5]), (CANDIDATES, 1))
    readings, question = made_up(6, logprob=logprob), encoded(TOKENS)
    assert [scorer.verdicts(readings, question).answer[0] for scorer in SCORERS] == [0, 1]


@each
def test_verdicts_of_path_not_finite_are_wrong(scorer):
    readings, finite = half_finite(6)
    verdicts = scorer.verdicts(readings, encoded(TOKENS, gold=0))
    np.testing.assert_array_equal(verdicts.finite, finite)
    assert not verdicts.verdict[~finite].any()
    assert (verdicts.answer[~finite] == NO_ANSWER).all()
    assert (verdicts.margin[~finite] == -np.inf).all()
    assert np.isnan(verdicts.scores[~finite]).all()
    assert np.isfinite(verdicts.margin[finite]).all()
    assert (verdicts.answer[finite] >= 0).all()


# whole halves, so that scores tie and float32 holds them exactly
halves = st.lists(st.integers(-12, 0), min_size=6, max_size=6)


@each
@given(st.lists(halves, min_size=CANDIDATES, max_size=CANDIDATES), st.integers(0, 2))
def test_scores_can_be_read_with_other_gold(scorer, logprob, gold):
    readings = made_up(6, logprob=np.float32(logprob) / 2)
    question = encoded(TOKENS, ("ice", "iron", "winds of sea"))
    scores = scorer.verdicts(readings, question).scores
    expected = scorer.verdicts(readings, with_gold(question, gold))
    again = Verdicts.of_scores(scores, gold)
    for name in ("verdict", "answer", "scores", "finite"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    np.testing.assert_allclose(again.margin, expected.margin, atol=1e-6)


@pytest.mark.parametrize("path", [(0, 1, 2, 3, 4), (0, 2, 1, 1, 1, 4)], ids=str)
def test_packed_options_equal_one_forward_each(model, words, path):
    questions = tiny.questions(4)
    rows = [Options(words).encode(question) for question in questions]
    readings = cola_jax.run_paths(model, Prompts.stack([r.prompts for r in rows]), [[path]] * 4)
    for b, question in enumerate(questions):
        text = f"Question: {question.text}\nAnswer:"
        prompt = words(text).input_ids
        totals, lengths = [], []
        for option in question.options:
            tokens = words(f"{text} {option}").input_ids[len(prompt) :]
            ids = prompt + tokens + [0] * (40 - len(prompt + tokens))  # one length, one compilation
            logits = cola_jax.run_path(model, np.array([ids]), path)
            logprobs = np.asarray(jax.nn.log_softmax(logits[0], axis=-1))
            totals.append(
                sum(logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(tokens))
            )
            lengths.append(len(tokens))
        own = readings.logprob[b, 0, : len(rows[b].option)]
        packed = [own[rows[b].option == j].sum() for j in range(len(totals))]
        np.testing.assert_allclose(packed, totals, rtol=2e-5)
        assert max(lengths) > 1

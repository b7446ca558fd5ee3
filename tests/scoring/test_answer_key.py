"""Answer keys: what JAX marks in padded batches is what a scorer says of each question."""

import jax
import numpy as np
import pytest

from cola_jax.prompts import Readings
from cola_jax.scoring import Exact, Letter, Options, OptionsNorm, Scorer, StrictLetter
from cola_jax.scoring.answer_key import AnswerKey
from cola_jax.scoring.format import ARITHMETIC
from cola_jax.scoring.verdicts import Verdicts, judge
from cola_jax.tasks.arithmetic import arithmetic
from tests import tiny
from tests.tokenizers import EOS

PATHS = 40


def random_readings(encoded, seed):
    """Make readings [C, Q] whose likeliest tokens are often those asked about."""
    generator = np.random.default_rng(seed)
    targets = np.asarray(encoded.prompts.targets)
    shape = PATHS, len(targets)
    token = np.where(generator.random(shape) < 0.9, targets, generator.integers(0, 99, shape))
    lead = np.abs(generator.normal(0, 1, shape)) * np.where(token == targets, 1, -1)
    logprob = generator.normal(-3, 2, shape).astype(np.float32)
    finite = generator.random(PATHS) < 0.9
    rival = (logprob - lead).astype(np.float32)
    rival[:3] = logprob[:3]  # ties
    return Readings(logprob, token.astype(np.int32), rival, finite)


@pytest.mark.parametrize("kind", [Options, OptionsNorm, Letter, StrictLetter, Exact])
def test_padded_batches_on_a_device_are_marked_as_by_the_scorer(kind, words):
    if kind is Exact:
        scorer = Exact(words, ARITHMETIC, stop_tokens=(EOS,))
        asked = arithmetic(5, 3)
    else:
        scorer = kind(words)
        asked = tiny.questions(5)
    encoded = list(map(scorer.encode, asked))
    rows = [random_readings(each, i) for i, each in enumerate(encoded)]
    reads = max(len(each.option) for each in encoded) + 3
    options = max(len(each.options) for each in asked) + 1
    key = AnswerKey.stack(list(map(scorer.answer_key, encoded)), reads, options, 400)

    def padded(name):
        values = [getattr(row, name) for row in rows]
        return np.stack([np.pad(x, ((0, 0), (0, reads - x.shape[1]))) for x in values])

    names = "logprob", "token", "rival"
    batch = Readings(**{x: padded(x) for x in names}, finite=np.stack([r.finite for r in rows]))
    mark = jax.jit(jax.vmap(scorer.mark, (0, 0)))
    marked = jax.device_get(mark(jax.device_put(batch), jax.device_put(key)))
    right = 0
    for b, (question, row) in enumerate(zip(encoded, rows, strict=True)):
        count = len(question.question.options)
        expected = scorer.verdicts(row, question)
        lost = ~row.finite
        scores = np.where(lost[:, None], np.nan, marked.scores[b])
        np.testing.assert_allclose(scores[:, :count], expected.scores, rtol=1e-5)
        assert np.isnan(scores[:, count:]).all()
        np.testing.assert_array_equal(marked.answer[b][~lost], expected.answer[~lost])
        np.testing.assert_array_equal(marked.outside[b], expected.outside)
        logprobs = np.where(lost[:, None], np.nan, marked.answer_logprobs[b])
        np.testing.assert_allclose(logprobs[:, :count], expected.answer_logprobs, rtol=1e-5)
        for target in range(count):
            of_target = expected.of_target(target)
            fields = scores, np.full(PATHS, target), row.finite, marked.answer[b]
            verdict, margin = jax.jit(judge, static_argnums=0)(
                jax.numpy, *map(jax.numpy.asarray, fields), jax.numpy.asarray(marked.outside[b])
            )
            np.testing.assert_array_equal(verdict, of_target.verdict)
            np.testing.assert_allclose(margin, of_target.margin, rtol=1e-4, atol=1e-5)
            right += int(of_target.verdict.sum())
    assert right > 50  # and so are others than wrong ones


class OwnScores(Options):
    """Scores of its own."""

    def scores(self, readings, encoded):
        return -super().scores(readings, encoded)


class OwnDivisors(Options):
    """Log-likelihoods by word."""

    def divisors(self, question):
        return [float(len(option.split())) for option in question.options]


class OwnVerdicts(Letter):
    """Verdicts of its own."""

    def verdicts(self, readings, encoded):
        return Verdicts.of_margins(readings.logprob[:, 0])


@pytest.mark.parametrize("kind", [OwnScores, OwnVerdicts, Scorer])
def test_scorers_with_scores_or_verdicts_of_their_own_have_no_mark(kind):
    assert kind.mark is None
    assert Letter.mark is not None


def test_scorers_that_divide_log_likelihoods_have_none():
    assert OwnDivisors.mark is Options.mark
    assert not OwnDivisors.log_likelihoods

"""Rules of a menu: signals of options and of completions, the vote, and fitted signs."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats

from cola_jax.deploy.rules import fit_selector, fit_sign, most_confident, signals, vote
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Completion, Verdicts

COMPLETION = Completion("7", "7", "stop", False, Grade.RIGHT, (5, 6), -1.0, 0.25, 3.0)


def test_signals_of_options() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 2, 3))
    scores[1, :, 2] = np.nan  # two options
    finite = np.ones((4, 2), bool)
    finite[2, 1] = False
    told = signals(Verdicts.of_scores(scores, 0, finite))
    p = scipy.special.softmax(scores[0, 0])
    assert told.answer[0, 0] == scores[0, 0].argmax()
    assert told.logprob[0, 0] == pytest.approx(np.log(p.max()), rel=1e-5)
    assert told.entropy[0, 0] == pytest.approx(scipy.stats.entropy(p), rel=1e-5)
    uniform = np.full(3, 1 / 3)
    assert told.certainty[0, 0] == pytest.approx(scipy.stats.entropy(uniform, p), rel=1e-4)
    two = scipy.special.softmax(scores[1, 0, :2])
    assert told.entropy[1, 0] == pytest.approx(scipy.stats.entropy(two), rel=1e-5)
    assert told.certainty[1, 0] == pytest.approx(scipy.stats.entropy([0.5, 0.5], two), rel=1e-4)
    assert told.answer[2, 1] is None
    assert told.entropy[2, 1] == -np.inf


def test_signals_of_completions() -> None:
    verdicts = Verdicts.empty((1, 4), 2)
    verdicts.finite[:] = True
    verdicts.completion[0, 0] = COMPLETION
    verdicts.completion[0, 1] = dataclasses.replace(COMPLETION, truncated=True)
    verdicts.completion[0, 2] = dataclasses.replace(COMPLETION, answer=" 8 ", tokens=(1,))
    verdicts.completion[0, 3] = dataclasses.replace(COMPLETION, tokens=(), answer=None)
    told = signals(verdicts)
    assert told.answer.tolist() == [["7", None, "8", None]]
    assert told.logprob.tolist() == [[-0.5, -0.5, -1.0, -np.inf]]
    assert told.entropy[0, 0] == 0.25
    assert told.certainty[0, 0] == 3.0


def test_vote_takes_the_first_path_of_the_answer_given_most() -> None:
    answers = np.array(
        [[1, 2, 2, 0], [1, 2, None, None], [None, None, None, None], [None, 3, 1, 1]], object
    )
    assert vote(answers).tolist() == [1, 0, 0, 2]


def test_sign_is_that_which_is_right_more_often() -> None:
    values = np.array([[3.0, 1.0], [0.5, 2.0], [1.0, -np.inf]])
    right = np.array([[0, 1], [1, 0], [1, 0]], bool)
    assert fit_sign(values, right) == -1
    assert fit_sign(values, ~right) == 1
    assert most_confident(values, -1).tolist() == [1, 0, 0]  # never one that is not finite


def test_selector_learns_which_path_is_right() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 50))
    features[:, 9] = 1.0  # constant
    kind = features[:, 3] > 0
    right = np.stack([kind, ~kind], axis=1)
    selector = fit_selector(features[:200], right[:200])
    chosen = selector.choose(features[200:])
    assert right[200:][np.arange(200), chosen].mean() > 0.85


def test_selector_of_noise_chooses_the_better_path() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(60, 200))
    right = random.random((60, 2)) < [0.8, 0.3]
    selector = fit_selector(features, right)
    assert (selector.choose(random.normal(size=(100, 200))) == 0).mean() > 0.9

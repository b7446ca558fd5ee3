"""Priors on recorded searches, and controls of a path by deadline."""

import numpy as np
import pytest

from cola_jax.runs.prior import excess_of_edits
from experiments.prior import OTHER, UNTRIED, Tried, random_skips, reached
from tests.runs.test_prior import wrong  # noqa: F401  a fixture


def test_tried_are_the_single_edits_of_wrong_questions(wrong):  # noqa: F811
    tried = Tried.read([wrong, wrong])
    assert tried.edits == sorted(excess_of_edits([wrong]))
    assert tried.controls.tolist() == [2, 2]
    answers = dict(zip(tried.edits, tried.answers.T.tolist(), strict=True))
    assert answers[0, 1, 1, 0] in ([0, 1], [1, 0])  # gold, and the first control target
    assert sorted(answers[0, 1, 2, 0]) == [UNTRIED, 2]
    assert sorted(answers[1, 2, 1, 1]) == [UNTRIED, OTHER]
    excess = {edit: float(value) for edit, value in excess_of_edits([wrong]).items()}
    assert dict(zip(tried.edits, tried.excess().tolist(), strict=True)) == excess
    wider = tried.over([*tried.edits, (0, 3, 1, 0)])
    assert wider.answers[:, -1].tolist() == [UNTRIED] * 2
    assert wider.excess()[-1] == 0


def test_reached_counts_gold_and_each_control_once():
    answers = np.array([[1, 1, 0, 2], [OTHER, OTHER, 1, UNTRIED]])
    gold, controls = reached(
        np.pad(answers, ((0, 0), (0, 12)), constant_values=OTHER), np.array([2, 1])
    )
    assert gold.tolist() == [[0, 0, 1, 1, 1], [0] * 5]
    assert controls.tolist() == [[0.5, 0.5, 1, 1, 1], [0, 0, 1, 1, 1]]


def test_edits_of_a_prior_come_first():
    """Half of the questions are a prior of the others, which nothing else tells apart."""
    answers = np.full((40, 40), OTHER)
    answers[:, 3] = 0
    tried = Tried([(0, i, 1, 0) for i in range(40)], answers, np.ones(40, int))
    (gold, controls) = tried.curves(None, 5)
    assert (gold == 1).all()
    assert not controls.any()
    (gold, _) = tried.curves(np.zeros(40), 200)
    assert gold.mean(axis=0) == pytest.approx([1 / 40, 2 / 40, 4 / 40, 8 / 40, 16 / 40], abs=0.02)
    (gold, _) = tried.curves(np.eye(40)[7], 5)
    assert gold[:, 0].max() == 0  # that of another task


def test_random_skips_have_as_many_layers():
    paths = random_skips(30, 24)
    assert {len(path) for path in paths} == {24}
    assert all(list(path) == sorted(set(path)) for path in paths)
    assert len(set(paths)) == len(paths)

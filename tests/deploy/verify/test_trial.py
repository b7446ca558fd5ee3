"""Measures of a trial."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from cola_jax.deploy.verify.trial import REPEATS, TIMED, measure_of, time_alone
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.question import Question
from cola_jax.runs.session import Session
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.tasks.task import TaskConfig


def test_likelihood_is_among_the_options():
    questions = [Question("a", "?", ("x", "y"), 0), Question("b", "?", ("x", "y", "z"), 2)]
    session: Any = SimpleNamespace(asked=SimpleNamespace(questions=questions))
    scores = np.full((2, 3, 3), np.nan)
    scores[0, :, :2] = [[-1, -1], [-9, -9], [-1, -9]]  # all options alike, at any height
    scores[1] = [[0, 0, 0], [0, 0, 50], [np.nan, np.nan, np.nan]]
    verdicts = Verdicts.of_scores(scores, np.array([[0], [2]]), np.isfinite(scores[..., 0]))
    verdicts.log_likelihoods[:] = True
    measured = measure_of(verdicts, session, "likelihood")
    worst = np.log(1 / 3)  # of all that are finite, for a path that is not
    expected = [[np.log(1 / 2), np.log(1 / 2), -np.log1p(np.exp(-8))], [np.log(1 / 3), 0, worst]]
    np.testing.assert_allclose(measured, expected, atol=1e-6)
    assert measure_of(verdicts, session, "accuracy")[1].tolist() == [0, 1, 0]


def test_each_path_is_timed_alone_on_the_first_questions(tiny_checkpoint, monkeypatch):
    session = Session.prepare(str(tiny_checkpoint), TaskConfig("arithmetic", limit=20).prepare)
    run, waves = PathEvaluator.__call__, []
    monkeypatch.setattr(
        PathEvaluator, "__call__", lambda self, paths: waves.append(paths.shape) or run(self, paths)
    )
    paths = [(0, 1, 2, 3, 4), (0, 4)]
    seconds = time_alone(session, paths)
    assert [*seconds] == paths
    assert all(0 < each < np.inf for each in seconds.values())
    assert [shape[:2] for shape in waves] == [(TIMED, 1)] * (1 + REPEATS) * len(paths)


def test_timings_that_fail_run_again_as_a_whole(tiny_checkpoint, monkeypatch):
    """Halves of the batch would take longer for each question, and be two results."""
    session = Session.prepare(str(tiny_checkpoint), TaskConfig("arithmetic", limit=20).prepare)
    run, waves = PathEvaluator.__call__, []

    def fail_once(self, paths):
        waves.append(paths.shape)
        if len(waves) == 1:
            raise RuntimeError("an error of the device")
        return run(self, paths)

    monkeypatch.setattr(PathEvaluator, "__call__", fail_once)
    assert len(time_alone(session, [(0, 4)])) == 1
    assert {shape[0] for shape in waves} == {TIMED}

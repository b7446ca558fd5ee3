"""A search over all questions that is interrupted resumes without evaluating anything again."""

import numpy as np
import pytest
from cola_jax.runs.recorder import recording

from cola_jax.execute.metrics import Metrics
from cola_jax.runs import journal
from cola_jax.runs.devices import Devices
from cola_jax.runs.directory import UNFINISHED, RunDirectory
from cola_jax.runs.session import RunConfig, Session
from cola_jax.tasks.task import TaskConfig
from tests.runs.interruption import fail_after, written

PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4), (1, 2, 3)]
QUESTIONS = 6


@pytest.fixture(scope="module")
def session(checkpoint, task):
    config = RunConfig(batch_size=2, devices=Devices(data=1))
    return Session.prepare(checkpoint, TaskConfig(task).prepare, config)


def record(session, out, paths=PATHS):
    """Asks for one path of some questions, and for more of all; returns the metrics."""
    metrics = Metrics()
    with recording(session, str(out), {"command": "static"}, 8, metrics) as evaluate:
        evaluate(PATHS[:1], np.arange(1, QUESTIONS))
        evaluate(paths)
    return metrics


def rows(out):
    run = RunDirectory(out)
    return [table.to_pylist() for table in (run.questions(), run.evaluations())]


def test_interrupted_recorder_resumes_to_the_same_bits(session, tmp_path, monkeypatch):
    total = QUESTIONS * len(PATHS)
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert record(session, whole).evaluations == total
    assert [row["evaluations"] for row in rows(whole)[0]] == [len(PATHS)] * QUESTIONS
    # one that has written parts, as those of earlier versions have before they are done
    before = record(session, out, PATHS[:2]).evaluations
    with monkeypatch.context() as patch:
        fail_after(2, patch)
        # as if it were killed, before its second file is due
        patch.setattr(journal, "SECONDS", 1e9)
        patch.setattr(journal.Journal, "flush", lambda self: None)
        with pytest.raises(RuntimeError, match="no room"):
            record(session, out)
    assert rows(out) == [[], []]
    kept = written(out)
    assert before < kept < total
    metrics = record(session, out)
    assert (metrics.earlier, metrics.evaluations) == (kept, total - kept)
    assert rows(out) == rows(whole)
    assert not (out / UNFINISHED).exists()
    assert record(session, out).evaluations == 0
    assert rows(out) == rows(whole)

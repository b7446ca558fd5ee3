"""Runs in emulated buckets: requests, processes without a lock, and storage that fails."""

import os

import pytest

from cola_jax.files import matching
from cola_jax.runs.run import MANIFEST, Run
from cola_jax.runs.schema import Part
from tests.runs import jobs
from tests.runs.conftest import end
from tests.runs.test_run import BATCH, SETTINGS, START, column, reopened, rows

pytestmark = pytest.mark.slow


def test_requests_grow_with_parts_alone(bucket):
    """Opening a run of n parts reads n files of questions, and a batch is two files."""
    run = Run(bucket.folder())
    counts = []
    with run.open(SETTINGS, START):
        for name in "abcdef":
            with bucket.counted() as written:
                run.write(Part(rows(name).evaluations, []))
                run.flush()
                run.write(rows(name))
                run.flush()
            counts.append(written)
    assert counts == [{"PUT": 3, "DELETE": 1}] * 6
    opened = []
    for _ in range(2):
        with bucket.counted() as requests, reopened(run) as again:
            assert again.missing([each.question for each in BATCH]) == []
        opened.append(requests)
        for name in "ghijkl":
            again.write(rows(name))
    assert opened[1]["LIST"] == opened[0]["LIST"]
    # six more files of questions, and the record of another start
    assert opened[1]["GET"] == opened[0]["GET"] + 6 + 1
    assert opened[1]["PUT"] == opened[0]["PUT"] == 1


def test_two_processes_that_finish_a_question_leave_a_run_that_is_read(bucket):
    run = Run(bucket.folder())
    with run.open(SETTINGS, START), reopened(run) as other:
        other.write(rows("bc"))
        run.write(rows("ab"))
    for reader in (run, other, Run(run.directory)):
        assert sorted(column(reader.questions())) == ["a", "b", "c"]
        assert sorted(column(reader.evaluations())) == ["a", "a", "b", "b", "c", "c"]
    with reopened(run, SETTINGS | {"simulations": 9}) as again:  # all are searched again
        assert again.done == set()
        assert again.earlier.keys() == {"a", "b", "c"}
        again.write(rows("abc"))
    assert len(matching(run.directory / "evaluations", "*")) == 1


def test_twenty_starts_at_once_make_one_run(bucket, start):
    url, names = bucket.folder(), "abcdef"
    settings, variables = SETTINGS | {"questions": len(names)}, dict(os.environ)
    with bucket.answering(failing=0.05):
        parts = [[rows(names[i : i + 2]) for i in (0, 2, 4)], [rows(names[:3]), rows(names[3:])]]
        arguments = jobs.write_parts, variables, url, settings
        started = [start(*arguments, parts[i % 2]) for i in range(20)]
        assert [end(process) for process in started] == [0] * 20
    run = Run(url)
    assert sorted(column(run.questions())) == [*names]
    assert sorted(column(run.evaluations())) == sorted(names * 2)
    assert len(run.read_starts()[1]) == 20
    assert [file.name for file in matching(run.directory, "*.json")] == [MANIFEST]

"""Batches hold questions whose programs have the same shapes, whatever the other questions are."""

import pytest

from cola_jax.execute.evaluator import Workload
from cola_jax.runs.session import Session
from cola_jax.scoring.batches import question_batches
from cola_jax.tasks.task import TaskConfig
from tests import tiny

SAME = Workload(4, 8, same=True, fixed=True)


@pytest.fixture(scope="module")
def session(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    lines = tiny.write_questions(folder / "all.jsonl", 12).read_text().splitlines(keepends=True)
    (folder / "task.jsonl").write_text("".join(lines[:10]))
    (folder / "shots.jsonl").write_text("".join(lines[10:]))
    shown = {"shots": 2, "shots_file": str(folder / "shots.jsonl")}
    task = TaskConfig(str(folder / "task.jsonl"), variants=("instruction",), **shown)
    return Session.prepare(str(tiny_checkpoint), task.prepare)


def batches_of(session, count, workload=SAME):
    encoded = session.encoded[:count]
    variants = [variant.take(slice(count)) for variant in session.variants]
    asked = (encoded, *(variant.encoded for variant in variants))
    return question_batches(asked, workload, encoded)


def test_keys_depend_on_no_later_question(session):
    whole = batches_of(session, 10)
    for count in (2, 5, 9):
        some = batches_of(session, count)
        assert some.keys == whole.keys[:count]
        assert some.prefixes == whole.prefixes[:count]


def test_prefix_is_that_of_all_questions(session):
    sizes = set(batches_of(session, 10).prefixes)
    assert len(sizes - {0}) == 1
    assert batches_of(session, 1).prefixes == [0]  # one question shares with no other


def test_batches_are_of_one_key(session):
    batches = batches_of(session, 10)
    left = [0, 2, 3, 5, 6, 7, 9]
    cut = batches.cut(left, largest=3)
    assert sorted(i for some in cut for i in some.tolist()) == left
    for some in cut:
        assert len(some) <= 3
        assert len({batches.keys[i] for i in some}) == 1
        assert len({batches.prefixes[i] for i in some}) == 1
    assert batches.cut([]) == []

"""Batches and their halves, and the common prefix of a batch."""

from types import SimpleNamespace

import numpy as np
import pytest

from cola_jax.engine.work import Batch
from cola_jax.execute.memory import Memory
from cola_jax.execute.plan import Workload
from cola_jax.question import Question
from cola_jax.scoring import Options
from cola_jax.scoring.encoder import Encoder
from tests import tiny
from tests.engine.conftest import Calls, batches


@pytest.mark.parametrize("size", [2, 3, 7])
def test_halves_have_every_question_once_with_its_rows(size):
    (batch,) = batches(size, size)
    known = {question.id: f"rows of {question.id}" for question in batch.questions[::2]}
    batch = Batch(batch.indices + 10, batch.questions, known | {"other": "rows"})
    halves = batch.halves()
    assert abs(len(halves[0].questions) - len(halves[1].questions)) <= 1
    assert np.concatenate([half.indices for half in halves]).tolist() == batch.indices.tolist()
    assert [q for half in halves for q in half.questions] == batch.questions
    for half in halves:
        assert half.known == {q.id: known[q.id] for q in half.questions if q.id in known}


ENCODER = Encoder((Options(tiny.tokenizer(), shots=tiny.questions(12)[10:]),))
ENCODED = ENCODER.tokenize(tiny.questions(10))
WORKER = SimpleNamespace(memory=Memory(1 << 30, sharing=1, itemsize=4, backend="cpu"))


def prefix(encoded, first):
    """The common prefix of a batch, where these questions are the first ones."""
    prefixes = [each.prompts for each in first]
    workload = Workload(4, 8, same=True)
    work = Calls(model=None, encoder=ENCODER, call=None, workload=workload, prefixes=prefixes)
    made = work.workload_of(WORKER, encoded)
    assert made == workload._replace(prefix=made.prefix)
    return made.prefix


def test_prefix_is_that_of_the_first_questions_and_depends_on_no_other_of_a_batch():
    shared = prefix(ENCODED, ENCODED)
    assert shared > 20  # the shots
    for batch in (ENCODED[:2], ENCODED[3:8], ENCODED[9:]):
        assert prefix(batch, ENCODED) == shared
    assert prefix(ENCODED[5:], ENCODED[:5]) == shared


def test_questions_that_begin_with_other_tokens_have_no_prefix():
    plain = Encoder((Options(tiny.tokenizer()),))
    (other,) = plain.tokenize([Question("q", "is it?", ("sun", "moon"))])
    assert prefix([other], ENCODED) == prefix([*ENCODED[:2], other], ENCODED) == 0
    assert prefix(ENCODED[:1], []) == prefix(ENCODED[:1], ENCODED[:1]) == 0

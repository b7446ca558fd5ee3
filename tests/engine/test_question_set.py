"""`QuestionSet`: refusals before weights load, and batches of questions."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from cola_jax.engine.engine import Capacity
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet
from cola_jax.errors import InputError
from cola_jax.execute.memory import Memory
from cola_jax.question import Question
from cola_jax.runs.session import call
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.runs.conftest import encode

CAPACITY = Capacity(
    Memory(1 << 30, sharing=1, itemsize=4, backend="cpu"), parts=1, questions=4, decoded=8
)


def test_tokens_outside_the_vocabulary_are_refused(tiny_checkpoint):
    handle = ModelHandle(str(tiny_checkpoint))
    prepared = call(TaskConfig("arithmetic", limit=1).prepare, handle)
    parts = prepared.questions, prepared.encoder, handle
    assert len(QuestionSet.of(*parts, prepared.sample)) == 1
    (encoded,) = prepared.sample
    ids = np.asarray(encoded.prompts.ids) + handle.config.vocab_size
    beyond = dataclasses.replace(encoded, prompts=encoded.prompts.replace(ids=ids))
    with pytest.raises(InputError, match="token ids"):
        QuestionSet.of(*parts, [beyond])


class Halves:
    """An encoder of two prompts, one for questions of even numbers."""

    scorers = (SimpleNamespace(), SimpleNamespace())

    def __init__(self, decodes):
        self.scorer = SimpleNamespace(decodes=decodes)

    def group(self, question):
        return int(question.id) % 2

    def sizes(self, questions, sample):
        return [len(question.text) for question in questions]


@pytest.mark.parametrize("decodes", [False, True])
def test_batches_have_questions_of_one_prompt_and_what_is_known_of_them(decodes):
    """And more of them where prompts of any lengths wait for a decoder."""
    texts = {str(i): "?" * (1 + i % 3) for i in range(12)}
    questions = [Question(name, text, ("x", "y")) for name, text in texts.items()]
    asked = QuestionSet(questions, Halves(decodes), [encode(each) for each in questions])
    left = [i for i in range(12) if i != 5]
    batches = list(asked.batches(left, CAPACITY, {"3": "rows of 3", "5": "of one that is done"}))
    assert sorted(i for batch in batches for i in batch.indices) == left
    for batch in batches:
        assert 1 <= len(batch.questions) <= (8 if decodes else 4)
        assert [questions[i] for i in batch.indices] == batch.questions
        assert len({i % 2 for i in batch.indices.tolist()}) == 1
    known = {name: rows for batch in batches for name, rows in batch.known.items()}
    assert known == {"3": "rows of 3"}
    for group in (0, 1):  # the longest first
        lengths = [len(q.text) for b in batches if b.indices[0] % 2 == group for q in b.questions]
        assert lengths == sorted(lengths, reverse=True)


def test_some_questions_keep_the_prompts_that_decide_common_prefixes():
    questions = tiny.questions(40)
    sample = [encode(each) for each in questions]
    asked = QuestionSet(questions, Halves(False), sample)
    some = asked.take([7, 2])
    assert [each.id for each in some.questions] == ["q7", "q2"]
    assert some.prefixes == asked.prefixes == [each.prompts for each in sample[:32]]

"""`Prepared`: what is checked before work begins, and the digest of questions."""

import dataclasses

import pytest

from cola_jax.errors import InputError
from cola_jax.question import Question
from cola_jax.scoring import Letter, Options
from cola_jax.scoring.encoder import Encoder
from cola_jax.tasks.prepared import Prepared, digest_of_questions
from cola_jax.tasks.wordings import WordedScorer
from cola_jax.wording import Wording
from tests import tiny

QUESTIONS = tiny.questions(200)
WORDS = tiny.tokenizer()


class Maker:
    """Makes options, in drawn wordings of another format."""

    name = "words"
    wording = Wording()
    questions = QUESTIONS
    has_template = False

    def make(self, wording):
        return Options(WORDS, format="short" if wording.is_drawn else "plain"), {}


def test_samples_are_of_questions_wordings_and_held_out_questions():
    scorer = Options(WORDS)
    parts = QUESTIONS[:150], QUESTIONS[150:]
    prepared = Prepared.of(parts[0], Encoder((scorer, scorer)), {}, parts[1])
    prepared = prepared.asked_again(Maker(), 1, [WordedScorer.of(Maker())], exact=True)
    samples = [prepared.sample, *prepared.again.values(), prepared.held_out_sample]
    for sample, part in zip(samples, (parts[0], parts[0], parts[1]), strict=True):
        assert len(sample) < len(QUESTIONS) / 2 + 10
        assert [row.question.id for row in sample[:32]] == [each.id for each in part[:32]]
    assert samples[1][0].prompt == f"<s>Q: {QUESTIONS[0].text}\nA:"
    assert not Prepared.of(parts[0], Encoder((scorer,)), {}).held_out_sample


@pytest.mark.parametrize("held_out", [False, True])
def test_questions_and_held_out_questions_that_cannot_be_asked_are_refused(held_out):
    broken = [*QUESTIONS[:100], Question("broken", "which?", ("a", " ")), *QUESTIONS[100:]]
    asked, held = (QUESTIONS, broken) if held_out else (broken, ())
    with pytest.raises(InputError, match="question broken has an empty option"):
        Prepared.of(asked, Encoder((Options(WORDS),)), {}, held_out=held)


def test_digest_of_questions_tells_what_is_asked():
    question = QUESTIONS[0]
    changes = [
        {"id": "other"},
        {"text": "other"},
        {"options": question.options[::-1]},
        {"answer": (question.answer + 1) % len(question.options)},
        {"open": True},
        {"metadata": (("subject", "law"),)},
        {"picture": b"picture"},
    ]
    scorer = Options(WORDS)
    others = [[dataclasses.replace(question, **change)] for change in changes]
    others += [[question], QUESTIONS[:2], QUESTIONS[1::-1], QUESTIONS[:1] * 2]
    digests = [digest_of_questions(each, scorer) for each in others]
    assert len(set(digests)) == len(digests)
    assert digest_of_questions([question], Options(WORDS)) == digests[len(changes)]
    assert digest_of_questions([question], Letter(WORDS)) not in digests

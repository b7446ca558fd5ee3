"""`Encoder`: what is refused before work begins, and the sizes of questions."""

import pickle

import numpy as np
import pytest

from cola_jax.execute.decoder import Stop
from cola_jax.question import Question, open_question
from cola_jax.scoring import Completions, Exact, Generation, Letter, Options
from cola_jax.scoring.encoder import FIRST, Encoder
from cola_jax.scoring.format import format_of
from tests import tiny

MANY = [Question(f"q{i}", f"which of {i}? " * (2 + i % 7), ("a", f"b {i}"), 1) for i in range(400)]
MIDDLE = 200  # neither among the first questions, nor the longest or shortest


def put(question):
    """Puts a question in the middle of many."""
    return [*MANY[:MIDDLE], question, *MANY[MIDDLE:]]


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


def test_check_encodes_the_first_the_longest_and_the_shortest_questions(words):
    long, short = Question("long", "why? " * 40, ("a", "b")), Question("short", "?", ("a", "b"))
    questions = [*put(long), short, MANY[0]]
    encoder = Encoder((Options(words, context=1000),))
    sample = encoder.check(questions)
    asked = [encoded.question for encoded in sample]
    assert asked[:FIRST] == MANY[:FIRST]
    assert {"long", "short"} <= {question.id for question in asked}
    assert len(sample) < len(MANY) / 2
    for encoded, other in zip(sample, encoder.tokenize(asked), strict=True):
        assert encoded.prompts.ids.tolist() == other.prompts.ids.tolist()
    assert len(encoder.check(MANY[:3])) == 3


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("x", "Which one?", ("a", " ")), "question x has an empty option"),
        (Question("x", "Which one of them?"), "question x has no options"),
        (open_question("x", "How many are there?", "3"), "question x is open"),
    ],
)
def test_check_refuses_any_question_by_its_texts(words, question, message):
    with pytest.raises(ValueError, match=message):
        Encoder((Options(words),)).check(put(question))


def test_check_refuses_open_questions_by_their_texts(words):
    many = [open_question(f"q{i}", f"how many of {i}?", str(i)) for i in range(400)]
    choice = [*many[:MIDDLE], Question("x", "which of 20?", ("a", "b")), *many[MIDDLE:]]
    ends = [*many[:MIDDLE], open_question("x", "how many of x?", "two\nlines"), *many[MIDDLE:]]
    scorer = Exact(words, format_of("arithmetic"), stop_tokens=(1,))
    for questions, message in ((choice, "x is multiple choice"), (ends, "contains a stop string")):
        with pytest.raises(ValueError, match=message):
            Encoder((scorer,)).check(questions)
    empty = Completions(words, stop=Stop((), (), tokenizer=words), max_new_tokens=0)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Encoder((empty,)).check(many)


def test_check_refuses_a_question_that_exceeds_the_context_among_longer_ones(words):
    """Of fewer characters than others, and more tokens."""
    dense = Question("dense", "?!" * 60, ("a", "b"))
    longer = [Question(f"l{i}", "which of " * 20, ("a", "b")) for i in range(100)]
    (encoded,) = Encoder((Options(words),)).tokenize([dense])
    context = int(encoded.prompts.positions.max())
    Encoder((Options(words, context=context + 1),)).check([*put(dense), *longer])
    encoder = Encoder((Options(words, context=context),))
    encoder.check([*MANY, *longer])
    with pytest.raises(ValueError, match=f"dense has .* context is {context}"):
        encoder.check([*put(dense), *longer])


@pytest.mark.parametrize("scorer_class", [Options, Letter])
def test_sizes_are_close_to_the_tokens_after_the_shared_ones(words, scorer_class):
    shots = tiny.questions(2)
    settings = {"shots": shots, "format": "harness"} if scorer_class is Letter else {"shots": shots}
    encoder = Encoder((scorer_class(words, **settings), scorer_class(words, **settings)))
    sizes = np.array(encoder.sizes(MANY, encoder.check(MANY)))
    counts = np.array([encoded.num_tokens for encoded in encoder.tokenize(MANY)])
    assert np.ptp(counts) > 25
    shared = counts - sizes
    assert np.abs(shared - np.median(shared)).max() <= 8
    assert shared.min() > 40  # those of the shots, which do not count


def test_encoders_encode_the_same_where_they_are_sent(words):
    questions = tiny.questions(4)
    encoder = Encoder((Options(words, shots=questions[:1]), Options(words, shots=questions[1:2])))
    sent = pickle.loads(pickle.dumps(encoder))
    ours, theirs = encoder(questions, None), sent(questions, None)
    assert [e.prompts.ids.tolist() for e in ours] == [e.prompts.ids.tolist() for e in theirs]
    assert len(encoder.own.scorers) == 1
    generation = Generation(words, format_of("arithmetic"), stop_tokens=(1,))
    sums = [open_question("s", "1 + 2", "3")]
    sent = pickle.loads(pickle.dumps(Encoder((generation,))))
    assert sent(sums, None)[0].prompt == Encoder((generation,))(sums, None)[0].prompt
    assert sent.scorer.stop.tokens == (1,)

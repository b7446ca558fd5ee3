"""`search` with a tiny real model: what decides its results, and what its outcomes say."""

import dataclasses

import numpy as np
import pytest

import cola_jax
from cola_jax.scoring.encode import pack
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.open import encode_open
from cola_jax.scoring.verdicts import Said, Verdicts
from cola_jax.search import PRESETS, Outcome, Preset, search
from cola_jax.tasks import Encoded, Question, encode
from cola_jax.tasks.arithmetic import arithmetic
from cola_jax.tasks.formats import ARITHMETIC
from tests import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(checkpoint):
    return cola_jax.load(checkpoint)


@pytest.fixture(scope="module")
def questions(checkpoint):
    return encode(tiny.questions(7), cola_jax.load_tokenizer(checkpoint), "options")


SETTINGS = {"simulations": 16, "leaves": 4}


@pytest.fixture(scope="module")
def together(model, questions):
    return search(model, questions, **SETTINGS)


def same(a, b):
    """Whether two outcomes are equal to the last bit."""
    arrays = [(*o.verdicts, o.wave, o.parent, o.edits) for o in (a, b)]
    equal = all(x.tobytes() == y.tobytes() for x, y in zip(*arrays, strict=True))
    return equal and a.paths == b.paths and a.confirmed == b.confirmed


@pytest.mark.parametrize("chosen", [[0], [4], [6, 2, 0], [5, 4, 3, 6, 1, 0, 2]], ids=str)
def test_a_question_does_not_depend_on_the_others(model, questions, together, chosen):
    outcomes = search(model, [questions[i] for i in chosen], **SETTINGS)
    for i, outcome in zip(chosen, outcomes, strict=True):
        assert outcome.encoded.question.id == f"q{i}"
        assert same(outcome, together[i])


def test_seed_and_id_decide_the_tree(model, questions, together):
    renamed = [
        dataclasses.replace(
            e, question=dataclasses.replace(e.question, id=f"other {e.question.id}")
        )
        for e in questions
    ]
    for others in (
        search(model, questions, seed=1, **SETTINGS),
        search(model, renamed, **SETTINGS),
    ):
        for mine, other in zip(together, others, strict=True):
            assert mine.paths != other.paths
            assert mine.verdicts.margin[0] == other.verdicts.margin[0]  # the identity path
    assert all(map(same, together, search(model, questions, preset=PRESETS["cola"], **SETTINGS)))
    assert together[0].paths != together[1].paths


def test_questions_decoded_in_several_ways_are_refused(model, questions, checkpoint):
    tokenizer, asked = cola_jax.load_tokenizer(checkpoint), arithmetic(1, 2)
    short, long = (
        encode_open(asked, tokenizer, "generate", ARITHMETIC, stop_tokens=(1,), max_new_tokens=n)
        for n in (4, 8)
    )
    for mixed in ([*short, *long], [*questions, *short], [*short, *questions]):
        with pytest.raises(ValueError, match="differ in how their answers are decoded and found"):
            search(model, mixed, **SETTINGS)


def test_verdicts_are_those_of_the_model(model, questions, together):
    """Every node's verdict belongs to its own path, not to a neighbour's."""
    from cola_jax.prompts import Prompts
    from cola_jax.scoring.verdicts import score

    encoded, outcome = questions[2], together[2]
    prompts = Prompts.stack([encoded.prompts])
    readings = cola_jax.run_paths(model, prompts, [outcome.paths])
    row = readings.replace(
        logprob=readings.logprob[0], token=readings.token[0], finite=readings.finite[0]
    )
    again = score(row, encoded)
    np.testing.assert_allclose(outcome.verdicts.margin, again.margin, rtol=1e-4, atol=1e-4)
    assert len(np.unique(outcome.verdicts.margin)) > 10


def test_confirmed_is_true_in_float32(together):
    right = [outcome for outcome in together if outcome.verdicts.verdict.any()]
    assert right
    assert all(outcome.confirmed is True for outcome in right)
    assert all(o.confirmed is None for o in together if not o.verdicts.verdict.any())


def test_only_skips_where_repeats_are_off(model, questions):
    rules = dataclasses.replace(PRESETS["cola"], max_repeat=0)
    (outcome,) = search(model, questions[:1], preset=rules, **SETTINGS)
    assert {outcome.describe_edit(i).split()[0] for i in range(1, outcome.evaluations)} == {"skip"}
    assert all(list(path) == sorted(set(path)) for path in outcome.paths)


def test_settings_that_make_no_search(model, questions):
    with pytest.raises(ValueError, match="no questions"):
        search(model, [])
    with pytest.raises(ValueError, match="'paper' is not one of cola"):
        search(model, questions, preset="paper")
    for bad in ({"simulations": 0}, {"leaves": 0}, {"simulations": -1}):
        with pytest.raises(ValueError, match="must be at least 1"):
            search(model, questions, **bad)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_skip": -1}, "max_skip must be 0 or more"),
        ({"max_skip": 0, "max_repeat": 0}, "needs edits"),
        ({"max_skip": 0, "max_times": 0}, "needs edits"),
        ({"min_length": 1.5}, "min_length must be"),
        ({"max_length": 0.5}, "max_length at least 1"),
        ({"widening": 0.5}, "widening must be"),
        ({"exploration": -1.0}, "exploration must be"),
    ],
)
def test_rules_that_make_no_search(rules, message):
    with pytest.raises(ValueError, match=message):
        Preset(**rules)


def test_lengths_are_in_multiples_of_the_model():
    assert Preset(min_length=0.25, max_length=2.0).lengths(30) == (8, 60)
    assert Preset(min_length=0.0, max_length=1.5).lengths(5) == (1, 7)


# Outcomes


def outcome(*evaluations):
    """An outcome of (path, verdict, margin)."""
    paths, verdict, margin = zip(*evaluations, strict=True)
    count = len(paths)
    verdicts = Verdicts.none((count,))._replace(
        verdict=np.array(verdict), margin=np.array(margin, np.float32)
    )
    zeros = np.zeros(count, int)
    prompts, option = pack([1], [[2], [3]])
    encoded = Encoded(Question("q", "?", ("a", "b"), 0), "options", prompts, option, "hash")
    return Outcome(encoded, list(paths), verdicts, zeros, zeros - 1, np.zeros((count, 4), int))


FULL, TWO, OTHER, ONE, LONG = (0, 1, 2), (0, 1), (0, 2), (0,), (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("evaluations", "best", "front"),
    [
        ([(FULL, True, 1.0), (TWO, True, 0.5), (ONE, False, -1.0)], 1, [1, 2]),
        ([(FULL, False, -1.0), (LONG, True, 0.5), (TWO, False, -1.0)], 1, [1, 2]),
        ([(FULL, False, -1.0), (ONE, True, 0.5), (TWO, False, -1.0)], 1, [1]),
        ([(FULL, True, 1.0), (TWO, True, 0.5), (OTHER, True, 0.7)], 2, [2]),  # the larger margin
        ([(FULL, True, 1.0), (TWO, True, 0.5), (OTHER, False, -1.0)], 1, [1]),  # as short, wrong
        ([(FULL, True, 1.0), (TWO, True, 0.5), (OTHER, True, 0.5)], 1, [1]),  # the first
        ([(FULL, False, -1.0), (TWO, False, -3.0), (OTHER, False, -2.0)], None, [2]),
        ([(FULL, True, 1.0)], 0, [0]),
    ],
)
def test_best_and_front(evaluations, best, front):
    made = outcome(*evaluations)
    assert made.shortest_correct == best
    assert made.front == front
    assert made.baseline == evaluations[0][1]
    assert made.evaluations == len(evaluations)


def test_what_the_grader_failed_on_is_neither_right_nor_wrong():
    made = outcome((FULL, True, 1.0), (ONE, False, -1.0), (TWO, False, -2.0))
    said = np.full(3, None, object)
    said[:] = [
        Said("x", "x", "stop", False, grade, (1,), -1.0)
        for grade in (Grade.RIGHT, Grade.UNGRADED, Grade.WRONG)
    ]
    made = dataclasses.replace(made, verdicts=made.verdicts._replace(said=said))
    assert made.front == [0, 2]
    assert made.shortest(False) == 2

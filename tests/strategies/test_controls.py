"""Controls: wrong options that are searched for, and paths asked again in other wordings."""

import numpy as np
import pytest

import cola_jax
from cola_jax.path import STOP, identity, unpad_path
from cola_jax.question import Question, open_question
from cola_jax.scoring import Verdicts
from cola_jax.strategies.controls import (
    control_targets,
    nodes_to_ask,
    paths_to_ask,
    with_again,
    without_control,
)
from tests.strategies.formula import GOLD, OPTIONS, checksum, formula, questions

SETTINGS = {"simulations": 20, "leaves": 7, "num_layers": 6, "control": "all"}


def test_the_identity_path_and_the_shortest_correct_path_are_asked_again():
    (found,) = cola_jax.search(formula(lambda b, path: GOLD), questions(1), **SETTINGS)
    assert nodes_to_ask(found) == [0, found.shortest_correct]
    assert found.shortest_correct > 0
    (none,) = cola_jax.search(formula(lambda b, path: 0), questions(1), **SETTINGS)
    assert nodes_to_ask(none) == [0]


def test_with_again_reads_each_searchs_target():
    """Two wordings, the second with its options turned by one place."""
    outcomes = cola_jax.search(formula(), questions(12), **SETTINGS)
    paths = paths_to_ask(outcomes, 12)

    def says(wording, b, path):
        return checksum(wording, b, *path) % 4

    def ask(wording, turn):
        answer = np.full(paths.shape[:2], -1)
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist():
            answer[b, c] = (says(wording, b, unpad_path(paths[b, c])) + turn) % 4
        empty = Verdicts.empty(paths.shape[:2], 4)
        places = np.broadcast_to(np.float32([0, 1, 2, 3]), empty.scores.shape)
        return empty._replace(answer=answer, scores=places, answer_logprobs=-places)

    orders = [[(0, 1, 2, 3)] * 12, [(3, 0, 1, 2)] * 12]
    asked = with_again(outcomes, [ask("x", 0), ask("y", 1)], orders)
    found = set()
    for b, outcome in enumerate(asked):
        assert outcome.again.plain == [says(v, b, identity(6)) for v in "xy"]
        assert outcome.again.scores[1:].tolist() == [[0, 1, 2, 3], [1, 2, 3, 0]]
        np.testing.assert_array_equal(outcome.again.logprobs[1:], -outcome.again.scores[1:])
        for search in (outcome, *outcome.controls):
            nodes, holds = search.again[:2]
            assert nodes == nodes_to_ask(search)
            expected = [[says(v, b, search.paths[i]) == search.target for v in "xy"] for i in nodes]
            assert holds.tolist() == expected
            assert search.held == (None if search.best is None else all(expected[-1]))
            found.add(search.held)
    assert found == {True, False}


@pytest.mark.parametrize("answer", [-1, 2])
def test_one_control_is_drawn_by_the_id_before_the_models_own_answer(answer):
    asked = [Question(f"q{i}", "?", OPTIONS, GOLD) for i in range(40)]
    chosen = [control_targets(question, answer, "one") for question in asked]
    assert {target for target, *_ in chosen} == {0, 1, 2, 3} - {GOLD, answer}
    assert all(rest == [answer] * (answer >= 0) for _, *rest in chosen)
    assert chosen == [control_targets(question, answer, "one") for question in asked]
    assert control_targets(asked[0], answer, "none") == []


FOUR = Question("q", "?", OPTIONS, GOLD)
TWO = Question("q", "?", ("a", "b"), 0)


@pytest.mark.parametrize(
    ("question", "answer", "targets"),
    [
        (FOUR, GOLD, []),  # a right answer is kept alone
        (FOUR, 2, [0, 3, 2]),
        (FOUR, -1, [0, 2, 3]),
        (TWO, 1, [1]),  # kept
        (TWO, -1, [1]),  # reached
        (open_question("q", "?", "7"), 1, []),
    ],
)
def test_controls_depend_on_the_models_answer(question, answer, targets):
    assert control_targets(question, answer, "all") == targets


def test_questions_without_a_wrong_answer_are_named():
    asked = [open_question(name, "?", gold) for name, gold in (("a", "x"), ("b", "7"), ("c", "y"))]
    assert without_control(asked, "one") == ["a", "c"]
    assert without_control(asked, "none") == []

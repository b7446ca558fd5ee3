"""Controls: wrong options that are searched for, and paths that are asked again in variants."""

import numpy as np
import pytest

import cola_jax
from cola_jax.path import STOP, identity, unpad_path
from cola_jax.question import Question, open_question
from cola_jax.scoring import Verdicts
from cola_jax.strategies.controls import (
    MOST,
    budgets,
    control_targets,
    nodes_to_ask,
    paths_to_ask,
    with_again,
    without_control,
)
from tests.strategies.formula import GOLD, OPTIONS, checksum, formula, questions

SETTINGS = {"simulations": 20, "leaves": 7, "num_layers": 6, "control": "all"}


def test_shortest_and_surest_paths_are_asked_again():
    """Those of all evaluations, and those there would have been after 25 and 50."""
    settings = SETTINGS | {"simulations": 70, "control": "none"}
    (outcome,) = cola_jax.search(formula(), questions(1), **settings)
    assert budgets(71) == [26, 51]
    assert budgets(26) == []
    expected = set()
    for size in (26, 51, 71):
        right = np.flatnonzero(outcome.verdicts.verdict[:size])
        surest = right[np.argsort(-outcome.verdicts.margin[right], kind="stable")].tolist()
        shortest = min(surest, key=lambda i: outcome.lengths[i])
        expected |= {shortest, *[i for i in surest if i != shortest][: MOST - 1]}
    baseline, *others = nodes_to_ask(outcome)
    assert baseline == 0
    assert {baseline, *others} == {0} | expected


@pytest.mark.parametrize("simulations", [1, 3, 60])
def test_few_are_asked_again(simulations):
    settings = SETTINGS | {"simulations": simulations, "control": "none"}
    (outcome,) = cola_jax.search(formula(lambda b, path: GOLD), questions(1), **settings)
    assert 1 <= len(nodes_to_ask(outcome)) <= 1 + MOST * (1 + len(budgets(outcome.evaluations)))


def test_with_again_reads_each_searchs_target():
    """Two variants, the second with its options turned by one place."""
    outcomes = cola_jax.search(formula(), questions(3), **SETTINGS)
    paths = paths_to_ask(outcomes, 12)

    def says(variant, b, path):
        return checksum(variant, b, *path) % 4

    def ask(variant, turn):
        answer = np.full(paths.shape[:2], -1)
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist():
            answer[b, c] = (says(variant, b, unpad_path(paths[b, c])) + turn) % 4
        return Verdicts.empty(paths.shape[:2], 4)._replace(answer=answer)

    places = [[(0, 1, 2, 3)] * 3, [(1, 2, 3, 0)] * 3]
    asked = with_again(outcomes, [ask("x", 0), ask("y", 1)], places)
    found = set()
    for b, outcome in enumerate(asked):
        assert outcome.again.plain == [says(v, b, identity(6)) for v in "xy"]
        for search in (outcome, *outcome.controls):
            nodes, holds = search.again[:2]
            assert nodes == nodes_to_ask(search)
            expected = [[says(v, b, search.paths[i]) == search.target for v in "xy"] for i in nodes]
            assert holds.tolist() == expected
            right = np.array(nodes)[np.all(expected, axis=1) & search.verdicts.verdict[nodes]]
            robust = [] if search.robust is None else [search.lengths[search.robust]]
            assert robust == sorted(search.lengths[right])[:1]
            found.add(search.robust is None)
    assert found == {True, False}


@pytest.mark.parametrize("answer", [-1, 2])
def test_one_control_is_drawn_by_the_id_before_the_models_own_answer(answer):
    asked = [Question(f"q{i}", "?", OPTIONS, GOLD) for i in range(40)]
    chosen = [control_targets(question, [answer], "one") for question in asked]
    assert {target for target, *_ in chosen} == {0, 1, 2, 3} - {GOLD, answer}
    assert all(rest == [answer] * (answer >= 0) for _, *rest in chosen)
    assert chosen == [control_targets(question, [answer], "one") for question in asked]
    assert control_targets(asked[0], [answer], "none") == []


FOUR = Question("q", "?", OPTIONS, GOLD)
TWO = Question("q", "?", ("a", "b"), 0)


@pytest.mark.parametrize(
    ("question", "answers", "targets"),
    [
        (FOUR, [GOLD], []),  # a right answer is kept alone
        (FOUR, [0, GOLD], []),
        (FOUR, [0, 2], [3]),  # no answer of any variant; kept only where all agree
        (FOUR, [0, 2, 3], []),
        (FOUR, [2, 2], [0, 3, 2]),
        (FOUR, [-1], [0, 2, 3]),
        (TWO, [1], [1]),  # kept
        (TWO, [-1], [1]),  # reached
        (open_question("q", "?", "7"), [1], []),
    ],
)
def test_controls_depend_on_the_answers_in_all_variants(question, answers, targets):
    assert control_targets(question, answers, "all") == targets


def test_questions_without_a_wrong_answer_are_named():
    asked = [open_question(name, "?", gold) for name, gold in (("a", "x"), ("b", "7"), ("c", "y"))]
    assert without_control(asked, "one") == ["a", "c"]
    assert without_control(asked, "none") == []

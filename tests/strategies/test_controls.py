"""Controls: wrong options that are searched for, and paths that are asked again in variants."""

import numpy as np
import pytest

import cola_jax
from cola_jax.path import STOP, identity
from cola_jax.question import Question, open_question
from cola_jax.scoring import Verdicts
from cola_jax.strategies.controls import (
    MOST,
    budgets,
    control_targets,
    most_asked,
    nodes_to_ask,
    paths_to_ask,
    with_again,
    without_control,
)
from tests.strategies.formula import GOLD, OPTIONS, checksum, formula, questions

SETTINGS = {"simulations": 20, "leaves": 7, "num_layers": 6, "control": "all"}


def searched():
    return cola_jax.search(formula(), questions(3), **SETTINGS)


def rows_of(paths):
    return [
        [tuple(path[path != STOP].tolist()) for path in row if path[0] != STOP] for row in paths
    ]


def test_shortest_and_surest_paths_are_asked_again():
    for outcome in searched():
        for search in (outcome, *outcome.controls):
            first, *others = nodes_to_ask(search)
            best = search.shortest_correct
            assert first == 0
            assert best is None or best in (first, *others)
            right = set(np.flatnonzero(search.verdicts.verdict).tolist())
            assert set(others) <= right
            assert len({*others, best} - {None, 0}) in (len(right - {0}), MOST, MOST - 1)
            assert len(others) <= MOST
            asked = [search.verdicts.margin[i] for i in others if i != best]
            left = [search.verdicts.margin[i] for i in right - {first, *others}]
            assert min(asked, default=np.inf) >= max(left, default=-np.inf)


@pytest.mark.parametrize("evaluations", [1, 3, 20, 60])
def test_no_more_are_asked_again_than_expected(evaluations):
    settings = SETTINGS | {"simulations": evaluations, "control": "none"}
    for outcome in cola_jax.search(formula(lambda b, path: GOLD), questions(3), **settings):
        assert 1 <= len(nodes_to_ask(outcome)) <= most_asked(outcome.evaluations)


def test_with_again_reads_each_searchs_target():
    """Two variants, the second with its options turned by one place."""
    outcomes = searched()
    paths = paths_to_ask(outcomes, 12)

    def says(variant, b, path):
        return checksum(variant, b, *path) % 4

    def ask(variant, turn):
        answer = np.full(paths.shape[:2], -1)
        for b, row in enumerate(rows_of(paths)):
            answer[b, : len(row)] = [(says(variant, b, path) + turn) % 4 for path in row]
        return Verdicts.empty(paths.shape[:2], 4)._replace(answer=answer)

    places = [[(0, 1, 2, 3)] * 3, [(1, 2, 3, 0)] * 3]
    asked = with_again(outcomes, [ask("x", 0), ask("y", 1)], places)
    for b, outcome in enumerate(asked):
        assert outcome.again.plain == [says(v, b, identity(6)) for v in "xy"]
        for search in (outcome, *outcome.controls):
            nodes, holds = search.again[:2]
            assert nodes == nodes_to_ask(search)
            expected = [[says(v, b, search.paths[i]) == search.target for v in "xy"] for i in nodes]
            assert holds.tolist() == expected
            right = [
                i for i, held in zip(nodes, expected, strict=True)
                if all(held) and search.verdicts.verdict[i]
            ]  # fmt: skip
            shortest = min((len(search.paths[i]) for i in right), default=None)
            assert (search.robust is None) == (shortest is None)
            assert shortest is None or len(search.paths[search.robust]) == shortest
    assert any(search.robust is not None for o in asked for search in (o, *o.controls))
    assert any(search.robust is None for o in asked for search in (o, *o.controls))


def test_smaller_budgets_are_asked_about():
    """What would have been asked after 25 and 50 evaluations is asked too."""
    settings = SETTINGS | {"simulations": 70, "control": "none"}
    (outcome,) = cola_jax.search(formula(), questions(1), **settings)
    asked = nodes_to_ask(outcome)
    assert budgets(71) == [26, 51]
    assert budgets(26) == []
    for size in (26, 51, 71):
        right = np.flatnonzero(outcome.verdicts.verdict[:size])
        shortest = outcome.lengths[right].min()
        assert any(i in asked and outcome.lengths[i] == shortest for i in right)
        assert right[outcome.verdicts.margin[right].argmax()] in asked


@pytest.mark.parametrize("answer", [-1, 0, 2, 3])
def test_controls_are_wrong_options_and_last_the_models_own_answer(answer):
    asked = [Question(f"q{i}", "?", OPTIONS, GOLD) for i in range(40)]
    left, own = {0, 1, 2, 3} - {GOLD, answer}, [answer] if answer >= 0 else []
    assert all(
        control_targets(question, [answer], "all") == [*sorted(left), *own] for question in asked
    )
    chosen = [control_targets(question, [answer], "one") for question in asked]
    assert {target for target, *_ in chosen} == left  # by a hash of the id
    assert all(rest == own for _, *rest in chosen)
    assert chosen == [control_targets(question, [answer], "one") for question in asked]
    assert all(control_targets(question, [answer], "none") == [] for question in asked)


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

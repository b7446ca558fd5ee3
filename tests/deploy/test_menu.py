"""Menus on made-up questions: candidates, the greedy cover, folds, and the chosen rule."""

import numpy as np
import pytest

from cola_jax.deploy.menu import candidate_lists, choose_menu, cover, folds_of, prefix_layers
from cola_jax.deploy.settings import MenuSettings
from cola_jax.path import identity, unpad_path
from cola_jax.question import Question
from cola_jax.runs.stored import Labels
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.verdicts import Verdicts

LAYERS, WIDTH = 4, 6
PLAIN, OTHER, NOISE = identity(LAYERS), (0, 2, 3), (0, 1, 3)
SETTINGS = MenuSettings(size=3)


def make_part(name: str, count: int) -> tuple[Evaluations, np.ndarray]:
    """Questions of which half need OTHER, as the fourth feature of their prompts tells."""
    random = np.random.default_rng(len(name))
    states = random.normal(size=(count, WIDTH))
    right = {PLAIN: states[:, 3] > 0, OTHER: states[:, 3] <= 0, NOISE: random.random(count) < 0.1}

    def evaluate(paths: np.ndarray) -> Verdicts:
        columns = [right[unpad_path(path)] for path in paths[0]]
        return Verdicts.of_margins(np.where(np.stack(columns, axis=1), 1.0, -1.0))

    questions = [Question(f"{name}{i}", "", ("a", "b")) for i in range(count)]
    return Evaluations(evaluate, questions), states


def make_labels(questions: list[Question]) -> list[Labels]:
    """Labels of a search in which OTHER was right on most questions, and PLAIN on all."""
    paths = [(PLAIN, OTHER), (PLAIN, OTHER, NOISE), (PLAIN, OTHER, (0,) * 9)]
    return [
        Labels(q.id, "", q.options, 0, "", dict.fromkeys(found, True), None)
        for i, q in enumerate(questions)
        for found in [paths[i % 3]]
    ]


def test_choose_menu_chooses_the_rule_that_knows_which_path_is_right() -> None:
    training, held_out = make_part("training", 200), make_part("held", 100)
    ids = [question.id for question in training[0].questions]
    lists = candidate_lists(make_labels([*training[0].questions]), ids, LAYERS, SETTINGS)
    assert lists == [[PLAIN, OTHER, NOISE]] * 6
    menu = choose_menu(training[0], training, held_out, lists, LAYERS, SETTINGS)
    assert menu.paths[:2] == (PLAIN, OTHER)
    assert menu.chosen.rule == "selector"
    assert menu.chosen.right.mean() > 0.85
    assert menu.oracle.right.all()
    assert 0.3 < menu.plain.right.mean() < 0.7
    assert (len(menu.plain.trained), len(menu.plain.right)) == (200, 100)
    assert [choice.rule for choice in menu.choices][:2] == ["single", "vote"]
    assert menu.state_layer == 2


def test_candidate_lists_refuse_too_little() -> None:
    (evaluations, _) = make_part("training", 3)
    labels = make_labels([*evaluations.questions])
    with pytest.raises(ValueError, match="no correct path of at most 4 layers but the identity"):
        candidate_lists([], ["a", "b"], LAYERS, MenuSettings(max_layers=4))
    with pytest.raises(ValueError, match="needs 2 or more training questions"):
        candidate_lists(labels, ["a"], LAYERS, SETTINGS)


def test_cover_begins_with_the_identity_and_leaves_out_useless_paths() -> None:
    right = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    paths = [(0,), (1,), (2,), (3,)]
    assert cover(right, paths, paths, 3) == [(0,), (2,), (1,)]
    assert cover(right, paths, paths, 2) == [(0,), (2,)]
    assert cover(right, paths, paths, 9) == [(0,), (2,), (1,)]
    assert cover(right, paths, [(0,), (3,), (1,)], 9) == [(0,), (3,), (1,)]


def test_cover_prefers_the_shorter_of_equals() -> None:
    right, paths = np.array([[0, 1, 1], [0, 1, 1]], bool), [(0, 1), (0, 0, 1), (1,)]
    assert cover(right, paths, paths, 2) == [(0, 1), (1,)]


def test_prefix_layers_counts_shared_layers_once() -> None:
    assert prefix_layers([(0, 1, 2)]) == 3
    assert prefix_layers([(0, 1, 2), (0, 1, 1, 2), (0, 2)]) == 3 + 2 + 1


def test_folds_are_of_equal_size_in_any_order() -> None:
    ids = [f"question {i}" for i in range(13)]
    folds = folds_of(ids)
    assert sorted(np.bincount(folds)) == [2, 2, 3, 3, 3]
    assert folds_of(ids[::-1]).tolist() == folds[::-1].tolist()

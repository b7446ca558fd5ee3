"""Menus on made-up questions: candidates, the greedy cover, folds, and the chosen rule."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np
import pytest

from cola_jax.deploy.menu import (
    Questions,
    choose_menu,
    cover,
    folds_of,
    menu_estimates,
    prefix_layers,
    states_of,
    training_labels,
)
from cola_jax.deploy.settings import MenuSettings
from cola_jax.engine.devices import Devices
from cola_jax.engine.local import LocalEngine
from cola_jax.execute.prompt_states import prompt_states
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import format_path, identity, parse_path, unpad_path
from cola_jax.question import Question
from cola_jax.runs.estimates import CHANGE, CHOSEN
from cola_jax.runs.path_results import LAYERS
from cola_jax.runs.results import Results
from cola_jax.runs.schema import Part, question_row
from cola_jax.runs.session import Session, open_run
from cola_jax.runs.stored import Labels
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.tasks.task import TaskConfig
from tests import tiny

Path = tuple[int, ...]
DEPTH, WIDTH = 4, 6
COSTS = LayerCosts(DEPTH)
PLAIN, OTHER, NOISE = identity(DEPTH), (0, 2, 3), (0, 1, 3)
SETTINGS = MenuSettings(size=3)


def features(questions: Sequence[Question]) -> np.ndarray:
    """The fourth feature tells which path is right, and the first is constant."""
    drawn = [np.random.default_rng(int(q.text)).normal(size=WIDTH - 1) for q in questions]
    return np.insert(drawn, 0, 1.0, axis=1)


def as_questions(evaluations: Evaluations) -> Questions:
    return Questions(evaluations, lambda: features(evaluations.questions))


def make_evaluations(first: int, count: int) -> Evaluations:
    """PLAIN is right on half of the questions, and OTHER on the others."""
    questions = [Question(f"q{i}", str(i), ("a", "b")) for i in range(first, first + count)]
    kind = features(questions)[:, 3] > 0
    right = {PLAIN: kind, OTHER: ~kind, NOISE: kind & False}

    def evaluate(paths: np.ndarray) -> Verdicts:
        columns = [right[unpad_path(path)] for path in paths[0]]
        is_right = np.stack(columns, axis=1)[..., None]
        return Verdicts.of_scores(np.where(is_right, [1.0, 0.0], [-1.0, 0.0]), 0)

    return Evaluations(evaluate, questions)


def make_labels(questions: Sequence[Question], paths: Sequence[Path]) -> list[Labels]:
    """Labels of a search in which all paths are right."""
    verdicts = dict.fromkeys(paths, True)
    return [Labels(q.id, q.text, q.options, 0, verdicts) for q in questions]


def test_choose_menu_chooses_the_rule_that_knows_which_path_is_right() -> None:
    training, held_out = make_evaluations(0, 200), make_evaluations(200, 100)
    labels = make_labels(training.questions, [PLAIN, OTHER, NOISE, (0,) * 9])
    parts = [as_questions(training), [as_questions(held_out)]]
    menu = choose_menu(training, *parts, labels, COSTS, SETTINGS)
    assert menu.paths == (PLAIN, OTHER)
    assert menu.chosen.rule == "selector"
    assert menu.chosen.right.mean() > 0.85
    assert menu.oracle.right.all()
    assert (len(menu.plain.trained), len(menu.plain.right)) == (200, 100)
    assert menu.state_layer == 2
    for count, message in (
        (2, "no correct path of at most 8 layers .* but"),
        (1, "needs 2 or more"),
    ):
        few = make_evaluations(0, count)
        labels = make_labels(few.questions, [PLAIN])
        with pytest.raises(ValueError, match=message):
            choose_menu(few, as_questions(few), [as_questions(few)], labels, COSTS, SETTINGS)


def test_choose_menu_measures_each_held_out_question_in_every_prompt() -> None:
    training, held_out = make_evaluations(0, 200), make_evaluations(200, 30)
    parts = [as_questions(training), [as_questions(held_out)] * 3]
    menu = choose_menu(training, *parts, make_labels(training.questions, [OTHER]), COSTS, SETTINGS)
    assert menu.plain.right.shape == menu.chosen.right.shape == (30, 3)
    results = Results(menu_estimates(menu))
    single, rule, oracle = results.groups[1], menu.chosen.rule, results.groups[-1]
    assert single == f"single: {format_path(menu.paths[menu.single])}"
    assert oracle == "some path of 2 is right (needs the answer)"
    (chosen,) = (each for each in results if each.note == CHOSEN)
    assert (chosen.group, chosen.n) == (rule, 30)
    change = results.find(CHANGE, rule)
    assert change is not None
    assert change.corrected == min(1, len(menu.rules) * change.p)
    recommended = menu.recommendation.recommended
    assert results.sentences[0].startswith(f"Recommended: {recommended}. It answers more")
    assert menu.to_json()["recommended"] == menu.to_json()["rule"] == rule
    same = dataclasses.replace(menu, plain=dataclasses.replace(menu.plain, right=menu.oracle.right))
    assert same.to_json()["recommended"] == "the model"
    assert same.to_json()["rule"] == rule
    assert results.value("prompt 3", rule) == change.value  # the prompts are one
    assert results.value(LAYERS, "the model") == DEPTH
    assert menu.to_json()["paths"] == ["0-3", "0,2-3"]


def test_labels_may_have_options_in_another_order(
    tiny_checkpoint: FilePath, tmp_path: FilePath
) -> None:
    task = TaskConfig(str(tiny.write_questions(tmp_path / "task.jsonl", 12)), scorer="letter")
    searched, session = (
        Session.prepare(str(tiny_checkpoint), dataclasses.replace(task, choose_prompts=n).prepare)
        for n in (1, 4)
    )
    with open_run(searched, str(tmp_path / "run"), {"command": "search"}, None) as run:
        encoded = searched.asked.encode(searched.model)
        run.write(Part([], [question_row(each, 0) for each in encoded]))
    assert len(training_labels(str(tmp_path / "run"), session)) == 12


def test_states_of_prompts_are_read_in_batches_on_the_engine(tiny_checkpoint: FilePath) -> None:
    task = TaskConfig("arithmetic", limit=5, choose_prompts=2)
    engine = LocalEngine(Devices(data=1), batch_size=2)
    session = Session.prepare(str(tiny_checkpoint), task.prepare, engine)
    prompts = [each.prompts for each in session.asked.encode(session.model)]
    expected = prompt_states(session.model.load(), prompts, 2)
    np.testing.assert_allclose(states_of(session, session.asked, 2), expected, atol=1e-5)


def test_cover_begins_with_the_identity_and_leaves_out_useless_paths() -> None:
    right = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    paths = [(0,), (1,), (2,), (3,)]
    assert cover(right, paths, paths, 2, COSTS) == [(0,), (2,)]
    assert cover(right, paths, paths, 9, COSTS) == [(0,), (2,), (1,)]
    assert cover(right, paths, [(0,), (3,), (1,)], 9, COSTS) == [(0,), (3,), (1,)]
    equal, paths = np.array([[0, 1, 1], [0, 1, 1]], bool), [(0, 1), (0, 0, 1), (1,)]
    assert cover(equal, paths, paths, 2, COSTS) == [(0, 1), (1,)]  # the shorter of equals


def test_prefix_layers_counts_shared_layers_once() -> None:
    assert prefix_layers([(0, 1, 2), (0, 1, 1, 2), (0, 2)], COSTS) == 3 + 2 + 1
    parts = LayerCosts(4, None, ((0.25, 0.75),) * 4)
    paths = [parse_path(text, 4) for text in ("0a,1", "0a,2m", "0*0.5,1")]
    assert prefix_layers(paths, parts) == 0.25 + 1 + 0.75 + 1 + 1


def test_folds_are_of_equal_size_in_any_order() -> None:
    questions = [Question(f"question {i}", str(i)) for i in range(13)]
    folds = folds_of(questions)
    assert sorted(np.bincount(folds)) == [2, 2, 3, 3, 3]
    assert folds_of(questions[::-1]).tolist() == folds[::-1].tolist()
    again = [dataclasses.replace(question, id=f"{question.id}, again") for question in questions]
    assert folds_of([*questions, *again]).tolist() == [*folds, *folds]

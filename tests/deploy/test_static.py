"""The evolution of one path on made-up questions whose best path is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from cola_jax.deploy.settings import StaticSettings
from cola_jax.deploy.static import (
    Candidate,
    evolve,
    finalists,
    pareto_front,
    score,
    step_sizes,
    training_and_validation,
)
from cola_jax.scoring.verdicts import Verdicts

LAYERS, QUESTIONS = 8, 80
GOLDS = np.zeros(QUESTIONS, int)
BEST = (0, 1, 3, 4, 5, 5, 6, 7)  # without 2, with 5 twice
HARDNESS = np.random.default_rng(5).random(QUESTIONS)


class World:
    """A question is right on paths close to BEST, the harder the closer."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, paths: Sequence[tuple[int, ...]], some: np.ndarray) -> Verdicts:
        self.calls.append((len(paths), len(some)))
        counts = np.array([np.bincount(path, minlength=LAYERS) for path in paths])
        distance = np.abs(counts - np.bincount(BEST, minlength=LAYERS)).sum(axis=1)
        margin = 1 - 0.2 * distance[None] - HARDNESS[some][:, None]
        return Verdicts.of_scores(np.stack([margin, np.zeros_like(margin)], axis=-1), 0)


@pytest.mark.parametrize("fitness", ["accuracy", "margin", "likelihood"])
def test_evolution_finds_the_best_path(fitness: str) -> None:
    settings = StaticSettings(generations=25, offspring=12, first=10, fitness=fitness)  # type: ignore[arg-type]
    world = World()
    found = evolve(world, GOLDS, LAYERS, settings)
    assert sorted(found[0].path) == sorted(BEST)
    assert found == evolve(World(), GOLDS, LAYERS, settings)
    spent = sum(paths * questions for paths, questions in world.calls)
    assert spent < 25 * 12 * QUESTIONS / 2  # poor paths are dropped early


def test_evolution_within_a_budget() -> None:
    settings = StaticSettings(generations=8, offspring=8, first=10, max_layers=6)
    found = evolve(World(), GOLDS, LAYERS, settings)
    assert found
    assert all(3 <= len(candidate.path) <= 6 for candidate in found)
    plain = StaticSettings(generations=1, offspring=2)
    assert tuple(range(LAYERS)) in [one.path for one in evolve(World(), GOLDS, LAYERS, plain)]


def test_evolution_ends_where_no_path_is_new() -> None:
    settings = StaticSettings(generations=100_000, max_layers=1)
    found = evolve(World(), GOLDS, 2, settings)
    assert {candidate.path for candidate in found} <= {(0,), (1,)}
    assert found


def test_selection_steps() -> None:
    assert step_sizes(StaticSettings(first=16, offspring=16), 400) == [(16, 4), (64, 1)]
    assert step_sizes(StaticSettings(first=16, offspring=64), 400) == [(16, 16), (64, 4), (256, 1)]
    assert step_sizes(StaticSettings(first=16), 10) == []


def test_score_of_paths_that_are_not_finite_is_the_worst() -> None:
    scores = np.array([[[-1.0, -2.0], [np.nan, np.nan]]])
    verdicts = Verdicts.of_scores(scores, 0, np.array([[True, False]]))
    for fitness in ("accuracy", "margin", "likelihood"):
        fine, broken = score(verdicts, np.zeros(1, int), fitness)
        assert fine > broken
    assert score(verdicts, np.zeros(1, int), "likelihood")[0] == (-1.0,)


def test_finalists_have_the_best_of_each_length_first() -> None:
    candidates = [
        Candidate((0, 1, 2), (0.9,)),
        Candidate((0, 2, 1), (0.8,)),
        Candidate((0, 1), (0.5,)),
    ]
    assert finalists(candidates, 2) == [(0, 1, 2), (0, 1)]
    assert finalists(candidates, 9) == [(0, 1, 2), (0, 1), (0, 2, 1)]


def test_pareto_front_has_what_no_shorter_path_equals() -> None:
    paths = [(0, 1, 2), (0, 1), (1, 2), (0,), (0, 1, 2, 3)]
    fitness = [(0.5,), (0.5,), (0.4,), (0.1,), (0.7,)]
    assert pareto_front(paths, fitness) == [3, 1, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generations": 0}, "generations must be at least 1"),
        ({"max_layers": 17}, "paths of 8 to 17 layers cannot be searched"),
        ({"max_layers": 4, "min_layers": 5}, "paths of 5 to 4 layers"),
        ({"min_layers": 0}, "paths of 0 to 8 layers"),
    ],
)
def test_settings_that_allow_no_path_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StaticSettings(**settings).lengths(LAYERS)


def test_parts_are_apart_and_whole() -> None:
    ids = [f"q{i}" for i in range(30)]
    train, rest = training_and_validation(ids, 1 / 3)
    assert len(rest) == 10
    assert sorted([*train, *rest]) == list(range(30))


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan"), 0.01])
def test_an_empty_part_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="leaves one part empty"):
        training_and_validation(["a", "b", "c"], share)

"""Comparators: random paths with a claim's edits, and ShortGPT's."""

import numpy as np
import pytest

from cola_jax.deploy.verify.comparators import (
    Jump,
    PathSize,
    affordable_samples,
    jumps,
    least_influence,
    least_influence_of_parts,
    majority_vote,
    random_controls,
)
from cola_jax.path import REPEAT, SKIP, identity, parse_path
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Completion, Verdicts
from cola_jax.steps import ATTENTION, MLP, Step, modifier_of

A, M, HALF = Step(0, ATTENTION).modifier, Step(0, MLP).modifier, Step(0, share=0.5).modifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-11", []),
        ("0-10", [Jump(SKIP, 1)]),
        ("2-11", [Jump(SKIP, 2)]),
        ("0-5,7,7,8-11", [Jump(SKIP, 1), Jump(REPEAT, 1)]),
        ("0-5,(4-7)x2,8-11", [Jump(REPEAT, 2), Jump(REPEAT, 4)]),
        ("0-2,4-5,3,6-11", [Jump(SKIP, 1), Jump(SKIP, 2), Jump(REPEAT, 3)]),  # a moved layer
    ],
)
def test_jumps_are_the_edits_of_a_path(text, expected):
    path = parse_path(text, 12)
    assert jumps(path, 12) == expected
    added = sum(size if kind == REPEAT else -size for kind, size, _ in expected)
    assert len(path) == 12 + added


@pytest.mark.parametrize("text", ["0-3,6-11", "0-5,5,6-11", "0-5,7,7,8-11", "0-2,4-5,3,6-11"])
def test_random_controls_have_the_same_edits_and_cost(text):
    path = parse_path(text, 12)
    controls = random_controls(path, 12, seed=0, count=6)
    assert len({*controls, path, identity(12)}) == 8
    assert {len(other) for other in controls} == {len(path)}
    assert random_controls(path, 12, seed=0, count=6) == controls
    assert random_controls(path, 12, seed=1, count=6) != controls
    if len(jumps(path, 12)) == 1:
        assert all(jumps(other, 12) == jumps(path, 12) for other in controls)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3,4a,5-11", [Jump(SKIP, 1, A)]),
        ("0-3,(4-6)m,7-9,10a,11", [Jump(SKIP, 1, A), Jump(SKIP, 3, M)]),
        ("0-3,5,6a,7-11", [Jump(SKIP, 1), Jump(SKIP, 1, A)]),
        ("0-7,(6-7)*0.5x2,8-11", [Jump(REPEAT, 2, HALF)] * 2),
        ("0-7,(4-5)*0.5,8-11", [Jump(REPEAT, 2, HALF)]),
        ("0-7,(4-5)*0.5,6-11", [Jump(REPEAT, 2), Jump(REPEAT, 2, HALF)]),
        ("0-3,(4-5)*0.5,6-11", [Jump(SKIP, 2, HALF)]),
        ("0-3,(3-5)*0.5,6-11", [Jump(SKIP, 2, HALF), Jump(REPEAT, 1, HALF)]),
    ],
)
def test_jumps_have_the_parts_and_shares_of_a_path(text, expected):
    path = parse_path(text, 12)
    assert jumps(path, 12) == expected
    controls = random_controls(path, 12, seed=0, count=6)
    assert len({*controls, path, identity(12)}) == 8
    for other in controls:
        assert len(other) == len(path)
        assert sorted(map(modifier_of, other)) == sorted(map(modifier_of, path))


def test_least_influence_of_parts_keeps_as_many_of_each():
    influence = np.array([[0.5, 0.1], [0.1, 0.4], [0.9, 0.2], [0.2, 0.3]])
    size = PathSize.of(parse_path("0,1m,2,3m", 4))
    assert (size, size.name) == (PathSize(2, 4, whole=False), "2a 4m")
    assert least_influence_of_parts(influence, size) == parse_path("0,1m,2,3m", 4)
    assert least_influence_of_parts(influence, PathSize(3, 2, whole=False)) == parse_path(
        "0a,1m,2a,3", 4
    )


@pytest.mark.parametrize(
    ("text", "name", "below"),
    [
        ("0-2", "3", True),
        ("0-3", "4", False),
        ("0-3,3", "5", False),
        ("0-2,3a", "4a 3m", True),
        ("0-3,3a", "5a 4m", False),
        ("0-2,3*0.5", "4a 4m", False),
    ],
)
def test_size_of_a_path_names_what_shortgpt_keeps(text, name, below):
    size = PathSize.of(parse_path(text, 4))
    assert (size.name, size.is_below(4)) == (name, below)


def test_random_controls_are_all_there_are_and_shared_by_claims():
    claims = [parse_path("0-10", 12), parse_path("1-11", 12)]
    first, second = (random_controls(path, 12, 0, claims) for path in claims)
    assert first == second
    assert len(first) == 10  # twelve layers to skip, less the two claims


def test_least_influence_keeps_the_layers_of_most_influence_in_order():
    assert least_influence(np.array([0.5, 0.1, 0.4, 0.1, 0.9]), 3) == (0, 2, 4)


def answers(texts, gold="x"):
    """Make the verdicts of a sample, a letter for each question; ? is truncated."""
    verdicts = Verdicts.of_scores(
        np.array([[[1.0, -1.0] if t == gold else [-1.0, 1.0]] for t in texts]), 0
    )
    for i, text in enumerate(texts):
        grade = Grade.RIGHT if text == gold else Grade.WRONG
        verdicts.completion[i, 0] = Completion(text, text, "stop", text == "?", grade, (1,), -1.0)
    return verdicts


def test_majority_vote_takes_the_earliest_of_equals_with_its_verdict():
    samples = [answers(row) for row in ("xyy?", "xyx?", "yzx?")]
    assert majority_vote(samples).tolist() == [True, False, True, False]
    assert majority_vote(samples[:2]).tolist() == [True, False, False, False]


def test_affordable_samples_run_no_more_layers_than_the_path():
    counts = [affordable_samples(layers, 30) for layers in (12, 30, 59.9, 60, 75.5)]
    assert counts == [1, 1, 1, 2, 2]

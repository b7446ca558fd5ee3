"""The loop of searches, with a function in the place of a model."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.path import STOP, identity
from cola_jax.scoring import Verdicts
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.strategies.loop import search_batch
from cola_jax.strategies.rules import PRESETS, Settings, TreeRules
from tests.strategies.formula import checksum, checksum_answer, formula, questions

SIX = {"simulations": 20, "leaves": 7, "num_layers": 6}


def same(a, b):
    """Whether two outcomes are equal to the last bit."""
    arrays = [(*o.verdicts, o.wave, o.parent, o.edits) for o in (a, b)]
    equal = all(
        x.tolist() == y.tolist() if x.dtype == object else x.tobytes() == y.tobytes()
        for x, y in zip(*arrays, strict=True)
    )
    return equal and a.paths == b.paths and a.confirmed == b.confirmed


def test_search_replays_golden_searches():
    """Whole, so that no change of the rules goes unnoticed."""
    for line in Path(__file__).with_name("golden.jsonl").read_text().splitlines():
        golden = json.loads(line)
        (outcome,) = cola_jax.search(
            formula(), questions(1), preset=golden["preset"], seed=7, **SIX
        )
        assert ["".join(map(str, path)) for path in outcome.paths] == golden["paths"].split()


def by_id(asked):
    """Makes an evaluate whose answers depend on the question's id, not on its place."""
    return formula(lambda b, path: checksum(asked[b].id, *path) % 4)


@pytest.fixture(scope="module")
def together():
    return cola_jax.search(by_id(questions(7)), questions(7), **SIX)


@pytest.mark.parametrize("chosen", [[4], [6, 2, 0, 7, 8]], ids=str)
def test_search_depends_on_no_other_question(together, chosen):
    """To the bit, in batches of any size."""
    asked = [questions(10)[i] for i in chosen]
    outcomes = cola_jax.search(by_id(asked), asked, **SIX)
    for i, outcome in zip(chosen, outcomes, strict=True):
        assert outcome.question.id == f"q{i}"
        assert i >= 7 or same(outcome, together[i])


def test_search_depends_on_no_default_of_jax(together):
    """Such as of a user whose own function needs 64 bits."""
    with jax.enable_x64(True):
        outcomes = cola_jax.search(by_id(questions(7)), questions(7), **SIX)
    assert all(map(same, outcomes, together))


def test_search_depends_on_seed_and_id(together):
    asked = questions(7)
    renamed = [dataclasses.replace(question, id=f"other {question.id}") for question in asked]
    for others in (
        cola_jax.search(by_id(asked), asked, seed=1, **SIX),
        cola_jax.search(by_id(asked), renamed, **SIX),
    ):
        for ours, other in zip(together, others, strict=True):
            assert ours.paths != other.paths
            assert ours.verdicts.margin[0] == other.verdicts.margin[0]  # the identity path
    again = cola_jax.search(by_id(asked), asked, preset=PRESETS["best"], **SIX)
    assert all(map(same, together, again))
    assert together[0].paths != together[1].paths


def test_search_weighs_paths_by_the_costs_of_layers():
    rules = dataclasses.replace(PRESETS["best"], length_weight=1.0)

    def runs_of_layer_2(costs):
        sizes = SIX | {"simulations": 60, "layer_costs": costs}
        outcomes = cola_jax.search(by_id(questions(7)), questions(7), preset=rules, **sizes)
        return np.mean([path.count(2) for outcome in outcomes for path in outcome.paths])

    expensive, cheap = ([1, 1, 20, 1, 1, 1], [9, 9, 1, 9, 9, 9])
    assert runs_of_layer_2(expensive) < 0.8 * runs_of_layer_2(cheap)
    with pytest.raises(ValueError, match="there are 2 layer costs, but the model has 6"):
        runs_of_layer_2([1, 2])


def test_search_has_the_budget_of_its_preset():
    asked = questions(1)
    outcomes = cola_jax.search(by_id(asked), asked, preset="drllm", num_layers=6)
    assert outcomes.settings.simulations == 50


def test_search_ends_without_new_paths():
    rules = TreeRules(max_skip=1, max_repeat=0, min_length=0.0)
    (outcome,) = cola_jax.search(
        formula(), questions(1), preset=rules, simulations=50, leaves=4, num_layers=4
    )
    assert len(set(outcome.paths)) == outcome.evaluations == 15  # every subset but the empty one


def test_search_stops_early_at_first_improvement():
    """A right answer after a wrong one, or fewer layers; more layers are none."""
    one_leaf = SIX | {"leaves": 1}
    shorter_is_right = formula(lambda b, path: 1 if len(path) < 6 else 0)
    all_right = formula(lambda b, path: 1)
    for evaluate, baseline in (shorter_is_right, False), (all_right, True):
        (outcome,) = cola_jax.search(evaluate, questions(1), early_stop=True, **one_leaf)
        assert outcome.baseline == baseline
        assert outcome.evaluations < 21
        improved = outcome.verdicts.verdict & (outcome.lengths < 6)
        assert outcome.wave[improved].tolist() == [outcome.wave.max()]
    (outcome,) = cola_jax.search(all_right, questions(1), **one_leaf)
    assert outcome.evaluations == 21


def test_search_refuses_invalid_settings():
    asked = questions(2)
    with pytest.raises(ValueError, match="no questions"):
        cola_jax.search(formula(), [], num_layers=6)
    with pytest.raises(ValueError, match="give num_layers"):
        cola_jax.search(formula(), asked)
    with pytest.raises(ValueError, match="'paper' is not one of best"):
        cola_jax.search(formula(), asked, preset="paper", num_layers=6)


def test_control_searches_share_evaluations():
    ran = []

    def answer(b, path):
        return (checksum_answer(b, path) + 1) % 4

    (outcome,) = cola_jax.search(formula(answer, ran), questions(1), control="all", **SIX)
    paths = [path for _, path in ran]
    answers = {path: answer(0, path) for path in paths}
    assert len(set(paths)) == len(paths)  # none is run twice
    assert answers[identity(6)] == 2
    assert [one.target for one in outcome.controls] == [0, 3, 2]  # gold is 1
    for one in (outcome, *outcome.controls):
        assert one.evaluations == 21
        right = [answers[path] == one.target for path in one.paths]
        assert one.verdicts.verdict.tolist() == right
        assert (one.verdicts.margin > 0).tolist() == right
    run = sum(int((~one.reused).sum()) for one in (outcome, *outcome.controls))
    assert run == len(paths)
    alone = cola_jax.search(formula(answer), questions(1), control="none", **SIX)
    assert same(alone[0], dataclasses.replace(outcome, controls=()))


def test_control_search_is_the_search_for_a_question_with_that_gold():
    """Same strategy, key and budget: only the target differs."""
    (outcome,) = cola_jax.search(formula(), questions(1), control="all", **SIX)
    for control in outcome.controls:
        other = dataclasses.replace(questions(1)[0], answer=control.target)

        def evaluate(paths, target=control.target):
            return formula()(paths).of_target(target)

        (own,) = cola_jax.search(evaluate, [other], control="none", **SIX)
        assert own.paths == control.paths
        assert own.verdicts.verdict.tolist() == control.verdicts.verdict.tolist()


@pytest.mark.parametrize("control", ["all", "none"])
def test_search_takes_scores_of_every_option(control):
    """As an array, of which Verdicts are made."""
    asked = questions(3)
    answers = [1, 0, 3]
    asked = [dataclasses.replace(q, answer=a) for q, a in zip(asked, answers, strict=True)]

    def verdicts(paths):
        scores = formula()(paths).scores.astype(np.float64)
        return Verdicts.of_scores(scores, np.array(answers)[:, None], paths[..., 0] != STOP)

    ours = cola_jax.search(lambda paths: formula()(paths).scores, asked, control=control, **SIX)
    theirs = cola_jax.search(verdicts, asked, control=control, **SIX)
    assert all(map(same, ours, theirs))
    for own, other in zip(ours, theirs, strict=True):
        assert len(own.controls) == len(other.controls)
        assert all(map(same, own.controls, other.controls))


def test_search_takes_a_number_for_each_path_without_a_control():
    def fewest(paths):
        return 4.5 - (paths != STOP).sum(axis=-1)

    asked = [dataclasses.replace(question, answer=2) for question in questions(2)]
    for function in (fewest, lambda paths: fewest(paths) >= 0):
        for outcome in cola_jax.search(function, asked, control="none", **SIX):
            right = [len(path) < 5 for path in outcome.paths]
            assert outcome.verdicts.verdict.tolist() == right
            assert outcome.verdicts.answer.tolist() == [2 if each else -1 for each in right]
        with pytest.raises(ValueError, match=r"says nothing of wrong options.*control='none'"):
            cola_jax.search(function, asked, **SIX)


def test_a_prior_is_tried_at_the_root_first_where_it_fits():
    """In its order, for gold and controls; a path is tried once, and one too short never.

    The root has more children then than widening allows it.
    """
    prior = ((0, 1, 2, 0), (0, 2, 4, 0), (1, 3, 1, 1), (0, 1, 2, 0), (0, 5, 1, 0))
    rules = dataclasses.replace(PRESETS["best"], min_length=0.5, widening=1.0, widening_power=0.0)
    settings = Settings(rules, 20, 7, 0, prior=prior)
    (outcome,) = search_batch(Evaluations(formula(), questions(1)), 6, settings)
    for search in (outcome, *outcome.controls):
        assert search.edits[1:4].tolist() == [[*prior[i], 0] for i in (0, 2, 4)]
        assert search.paths[1:4] == [(0, 3, 4, 5), (0, 1, 2, 3, 3, 4, 5), (0, 1, 2, 3, 4)]
        assert not search.parent[1:4].any()
        assert len(set(search.paths)) == search.evaluations == 21

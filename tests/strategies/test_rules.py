"""Rules and settings of a search, and those that make none."""

import dataclasses
import math
import typing

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.execute.plan import Workload
from cola_jax.path import KINDS, edited, identity
from cola_jax.steps import MLP, Step
from cola_jax.strategies.rules import (
    ALIASES,
    PRESETS,
    RANGES,
    ExitRules,
    InfluenceRules,
    Rules,
    Settings,
    Space,
    TreeRules,
    simulations_of,
)
from cola_jax.strategies.tree import edits_of

HALF = Step(0, share=0.5).modifier
ALONE = Step(0, MLP).modifier


def test_rules_and_settings_that_make_no_search_are_refused():
    for rules, message in (
        ({"max_skip": -1}, "max_skip must be at least 0, it is -1"),
        ({"max_skip": 0, "max_repeat": 0}, "needs edits"),
        ({"min_length": 2.5}, "max_length must be above 0 and at least min_length"),
        ({"max_length": 1e5}, "max_length must be 0 to 100, it is 100000.0"),
        ({"parts": 1}, "parts must be True or False, it is 1"),
        ({"parts": True, "max_skip": 0}, "give max_skip above 0, or leave out parts"),
        ({"shares": 0.5}, "shares must be a tuple of up to 16 numbers, it is 0.5"),
        ({"shares": (0.0,)}, "0.0 is not a share of an update"),
        ({"shares": (0.5, 2.5)}, "2.5 is not a share of an update"),
        ({"shares": (math.inf,)}, "inf is not a share of an update"),
        ({"shares": ("half",)}, "'half' is not a share of an update"),
        ({"shares": (0.12345,)}, "more than three decimals"),
        ({"shares": (0.5, 1)}, "give each once, and none of 1"),
        ({"shares": (0.5, 0.5)}, "give each once, and none of 1"),
        ({"shares": (0.5,), "max_skip": 0, "max_repeat": 0, "max_move": 1}, "leave out shares"),
    ):
        with pytest.raises(ValueError, match=message):
            TreeRules(**rules)
    for rules, given in ((ExitRules, "parts"), (ExitRules, "shares"), (InfluenceRules, "shares")):
        with pytest.raises(InputError, match="choose another strategy"):
            rules(**{given: True if given == "parts" else (0.5,)})
    with pytest.raises(InputError, match="the prior has edits of parts or shares, and the rules"):
        Settings(TreeRules(), 8, 4, 0, prior=((0, 2, 1, 0, HALF),))
    with pytest.raises(ValueError, match="leaves must be 1 to 10000, it is 10001"):
        Settings(TreeRules(), simulations=4, leaves=10_001, seed=0)


@pytest.mark.parametrize(
    "edit",
    [
        *((3, 0, 1, 0), (0, -1, 1, 0), (0, 2, 0, 0), (0, 1, 1), "skip", (0, 1, 1.0, 0)),
        *((0, 0, 1, 2), (1, 0, 1, 0), (1, 0, 1, 10**8), (2, 0, 1, 0)),
        *((0, 0, 1, 0, 1), (0, 0, 1, 0, 0), (2, 0, 1, 1, HALF), (1, 0, 1, 1, ALONE)),
    ],
)
def test_a_prior_of_other_than_edits_is_refused(edit):
    with pytest.raises(InputError, match="where an edit belongs"):
        Settings(TreeRules(), 8, 4, 0, prior=((0, 2, 1, 0), edit))


@pytest.mark.parametrize("name", PRESETS)
def test_a_prior_is_for_trees(name):
    given = {"simulations": 8, "leaves": 4, "seed": 0, "prior": ((0, 2, 1, 0),)}
    if isinstance(PRESETS[name], TreeRules):
        assert Settings(PRESETS[name], **given).prior
        return
    with pytest.raises(InputError, match=r"root of a tree.* choose one of best, parts, damped, "):
        Settings(PRESETS[name], **given)


def test_ranges_name_fields_of_rules_and_settings():
    kinds = {type(rules) for rules in PRESETS.values()} | {Rules, Settings}
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert RANGES.keys() <= fields


def test_lengths_are_multiples_of_the_model_and_bound_the_workload():
    assert TreeRules(min_length=0.25, max_length=2.0).lengths(30) == (8, 60)
    assert TreeRules(min_length=0.0, max_length=1.5).lengths(5) == (1, 7)
    settings = Settings(TreeRules(max_length=1.5), 20, 7, 0, False)
    assert settings.positions(5) == 7
    assert settings.workload(5) == Workload(7, 7, evaluations=42)  # a search for gold, and one more
    alone = dataclasses.replace(settings, control="none")
    assert alone.workload(5) == Workload(7, 7, evaluations=21)


def test_every_preset_is_recorded_as_itself():
    recorded = {(rules.name, repr(dataclasses.asdict(rules))) for rules in PRESETS.values()}
    assert len(recorded) == len(PRESETS) - len(ALIASES)


def test_each_preset_has_a_budget():
    budgets = {name: simulations_of(name) for name in PRESETS}
    others = {name: n for name, n in budgets.items() if n != 100}
    assert others == {"cola-appendix": 200, "cola-paper": 200, "drllm": 50}
    assert simulations_of(PRESETS["drllm"]) == 100  # rules alone have no budget of their own


@pytest.mark.parametrize("space", typing.get_args(Space))
def test_within_allows_the_kinds_of_a_space(space):
    rules = PRESETS["best"].within(space)
    table = edits_of(rules, 12)
    assert {KINDS[kind] for kind in table.kind.tolist()} == set(space.split("+"))
    assert max(table.k[table.kind == kind].max() for kind in table.kind) == 4


def test_within_keeps_the_sizes_of_its_rules():
    rules = TreeRules(max_skip=2, max_move=3, max_move_block=1)
    assert rules.within("skip+repeat+move").max_move == 3
    assert rules.within("skip+repeat+move").max_move_block == 2
    assert rules.within("skip") == TreeRules(max_skip=2, max_repeat=0)
    with pytest.raises(ValueError, match=r"space repeat needs max_repeat above 0"):
        TreeRules(max_repeat=0).within("repeat")


def test_edits_of_a_multiple_of_the_period_keep_the_kind_at_each_place():
    kinds = "ddda" * 3
    rules = TreeRules(max_move=4, max_move_block=4, block_multiple=4)
    table = np.stack(edits_of(rules, 12), axis=1)
    paths = [edited(identity(12), edit) for edit in table if edit[1] + edit[2] <= 8]
    assert {len(path) for path in paths} > {8, 12, 16}
    for path in paths:
        assert "".join(kinds[layer] for layer in path) == ("ddda" * 7)[: len(path)]
    for sizes in ({}, {"max_move": 6}, {"max_repeat": 6, "max_times": 0}):
        with pytest.raises(ValueError, match="multiple of 6 layers need max_skip or max_repeat of"):
            TreeRules(block_multiple=6, **sizes)

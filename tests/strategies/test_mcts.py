"""The leaves of a wave: budgets, spreading, rewards, and the distribution of the edits drawn."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

import cola_jax
from cola_jax.identity import random_of
from cola_jax.path import KINDS, SKIP, STOP, edited, edits_fit, identity, pad_path
from cola_jax.scoring import Verdicts
from cola_jax.strategies.mcts import NOTHING, EditDraws, TreeSearch, as_ids, as_text, table_of
from cola_jax.strategies.outcome import ROOT, Proposals
from cola_jax.strategies.rules import PRESETS, Settings, TreeRules
from cola_jax.strategies.tree import Tree
from tests.strategies.formula import formula, questions

LAYERS = 6
SETTINGS = Settings(TreeRules(max_skip=2, max_repeat=0), simulations=20, leaves=7, seed=0)
ALL = np.ones(3, bool)


def new_search(**settings: Any) -> TreeSearch:
    ids = [f"q{i}" for i in range(3)]
    return TreeSearch(dataclasses.replace(SETTINGS, **settings), ids, LAYERS)


def run(
    search: TreeSearch, evaluate: Callable[[np.ndarray], Verdicts], active: np.ndarray = ALL
) -> list[Proposals]:
    """Runs a search to its end; returns all that was proposed."""
    root = pad_path(identity(LAYERS), search.positions)
    proposals: Proposals | None = Proposals.root(root, 3)
    waves = []
    while proposals is not None:
        waves.append(proposals)
        search.update(proposals, evaluate(proposals.paths))
        proposals = search.propose(active)
    return waves


def test_propose_numbers_evaluations_in_order() -> None:
    waves = run(new_search(), formula())
    for b in range(3):
        nodes = np.concatenate([wave.node[b] for wave in waves])
        assert nodes[nodes != NOTHING].tolist() == list(range(21))
    assert [wave.paths.shape for wave in waves] == [(3, c, 12) for c in (1, 7, 7, 6)]
    for wave in waves[1:]:
        assert (wave.paths[..., 0] != STOP).all()
        assert (wave.parent < wave.node).all()
        assert (wave.parent >= ROOT).all()


def test_propose_leaves_out_inactive_questions() -> None:
    search = new_search()
    active = np.array([True, False, True])
    for wave in run(search, formula(), active)[1:]:
        assert (wave.node[1] == NOTHING).all()
        assert (wave.paths[1] == STOP).all()
    assert [len(tree.paths) for tree in search.trees] == [21, 1, 21]
    assert search.propose(~ALL) is None


def test_propose_spreads_by_virtual_visits() -> None:
    search = new_search(preset=PRESETS["cola"], leaves=20)
    proposals = search.propose(ALL)
    assert proposals is not None
    for b, tree in enumerate(search.trees):
        assert tree.visits[ROOT] == 21
        assert len(set(proposals.parent[b].tolist())) > 3
        assert not any(tree.value)
    assert search.trees[0].paths != search.trees[1].paths  # each draws from its own key


def test_propose_looks_elsewhere_until_a_wave_is_full() -> None:
    """Every subset of six layers but the empty one, and then none."""
    rules = TreeRules(max_skip=1, max_repeat=0, min_length=0.0)
    waves = run(new_search(preset=rules, simulations=100, leaves=10), formula())
    assert [wave.node.shape[1] for wave in waves] == [1, *[10] * 6, 2]
    assert all((wave.node != NOTHING).all() for wave in waves)


@pytest.mark.parametrize("name", ["best", "cola", "drllm"])
def test_counts_and_values_add_up(name: str) -> None:
    rules = dataclasses.replace(PRESETS[name], length_penalty=0.5)
    assert isinstance(rules, TreeRules)
    search = new_search(preset=rules, simulations=60)
    earned = np.zeros((3, 61))
    evaluate = formula()
    for wave in run(search, evaluate):
        verdicts = evaluate(wave.paths)
        lengths = (wave.paths != STOP).sum(axis=-1)
        reward = 1 / (1 + np.exp(-verdicts.margin)) if name == "best" else verdicts.verdict
        earned[np.arange(3)[:, None], wave.node] = reward - 0.5 * lengths / LAYERS
    for tree, rewards in zip(search.trees, earned, strict=True):
        assert len(tree.known) == 61
        parents = np.array(tree.parents)
        for node in range(61):
            children = np.flatnonzero(parents == node)
            assert tree.grown[node] == len(children)
            assert tree.visits[node] == 1 + sum(tree.visits[child] for child in children)
            value = rewards[node] + sum(tree.value[child] for child in children)
            assert tree.value[node] == pytest.approx(value, abs=1e-5)
            if not rules.epsilon:
                most = math.ceil(rules.widening * tree.visits[node] ** rules.widening_power)
                assert len(children) <= most


def test_kinds_are_drawn_evenly() -> None:
    outcomes = cola_jax.search(formula(), questions(4), simulations=100, leaves=16, num_layers=12)
    kinds = np.concatenate([outcome.edits[1:, 0] for outcome in outcomes])
    assert 0.4 < kinds.mean() < 0.6  # skips are 0, repeats 1


def test_paths_as_text_and_back() -> None:
    paths = [(0, 5, 300), (70_000,)]
    assert as_ids([*map(as_text, paths), ""], 4).tolist() == [
        [0, 5, 300, STOP],
        [70_000, STOP, STOP, STOP],
        [STOP] * 4,
    ]


# the distribution of edits


def chances(tree: Tree, node: int, rules: TreeRules, path: tuple[int, ...]) -> dict[Any, float]:
    """The chance of each edit of a node's path, by looking at all of them."""
    table = table_of(rules, 2 * LAYERS)
    fits = edits_fit(len(path), table, *rules.lengths(LAYERS))
    weights: dict[int, dict[Any, float]] = {kind: {} for kind in range(len(KINDS))}
    for edit in np.stack(table, axis=1)[fits].tolist():
        kind, start, k, _ = edit
        child = edited(path, edit)
        if (
            as_text(child) not in tree.known
            and not (rules.ordered and start < tree.starts[node])
            and not (rules.deep_block and node != ROOT and k > rules.deep_block)
            and max(Counter(child).values()) <= (rules.max_runs or len(child))
        ):
            weights[kind][tuple(edit)] = k**rules.block_power
    kinds = [of_kind for of_kind in weights.values() if of_kind]
    return {
        edit: weight / sum(of_kind.values()) / len(kinds)
        for of_kind in kinds
        for edit, weight in of_kind.items()
    }


MOVES = dataclasses.replace(PRESETS["cola"], max_move=2, max_move_block=3)


@pytest.mark.parametrize("known", [0.3, 0.97], ids=["some-known", "most-known"])
@pytest.mark.parametrize("node", [ROOT, 1])
@pytest.mark.parametrize(
    "rules",
    [*(PRESETS[name] for name in ("best", "cola", "polar", "drllm")), MOVES],
    ids=["best", "cola", "polar", "drllm", "moves"],
)
def test_edits_are_drawn_from_those_that_are_new(rules: TreeRules, node: int, known: float) -> None:
    """In proportion to their weights, the kind first, over many keys."""
    draws = EditDraws(rules, 2 * LAYERS, LAYERS)
    paths = identity(LAYERS), (0, 1, 2, 1, 2, 3, 4, 5)
    tree = Tree(as_text(paths[0]), rules, LAYERS, random_of(0))
    tree.add(as_text(paths[1]), ROOT, start=2)
    edits = list(chances(tree, node, rules, paths[node]))
    chosen = random_of(1).permutation(len(edits))[: min(int(known * len(edits)), len(edits) - 3)]
    tree.known |= {as_text(edited(paths[node], edits[i])) for i in chosen}
    expected = chances(tree, node, rules, paths[node])
    counts: Counter[Any] = Counter()
    for key in range(1500):
        tree.random = random_of(key)
        drawn = draws.draw(tree, node)
        assert drawn is not None
        path, edit = drawn
        assert path == as_text(edited(paths[node], edit))
        counts[tuple(edit)] += 1
    assert counts.keys() <= expected.keys()
    observed = [counts[edit] for edit in expected]
    assert chisquare(observed, 1500 * np.array([*expected.values()])).pvalue > 1e-3


def test_no_edit_is_drawn_where_none_is_new() -> None:
    rules = TreeRules(max_skip=1, max_repeat=0)
    tree = Tree(as_text((0, 1)), rules, 2, random_of(0))
    draws = EditDraws(rules, 4, 2)
    tree.known |= {as_text((0,))}
    assert draws.draw(tree, ROOT) == (as_text((0,))[:0] + as_text((1,)), [SKIP, 0, 1, 0])
    tree.known |= {as_text((1,))}
    assert draws.draw(tree, ROOT) is None


def test_early_exits_come_first() -> None:
    rules = TreeRules(max_skip=1, exits=3, min_length=0.5)
    search = new_search(preset=rules)
    proposals = search.propose(ALL)
    assert proposals is not None
    exits = [[SKIP, LAYERS - k, k, 0] for k in (1, 2, 3)]
    for b in range(3):
        at_root = proposals.edits[b][proposals.parent[b] == ROOT]
        assert at_root[:3].tolist() == exits
        assert (at_root[3:, 2][at_root[3:, 0] == SKIP] == 1).all()

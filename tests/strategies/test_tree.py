"""One search tree: counts, UCB, widening, dead branches, and the distribution of drawn edits."""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chisquare

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import KINDS, edited, edits_fit, identity
from cola_jax.question import random_of
from cola_jax.scoring import Verdicts
from cola_jax.strategies.outcome import NO_PARENT, ROOT
from cola_jax.strategies.rules import PRESETS, TreeRules
from cola_jax.strategies.tree import EditDraws, Tree, edits_of

PARENTS = [NO_PARENT, 0, 0, 0, 3, 3, 2]
PATHS = [tuple(map(int, path)) for path in ("01", "0", "1", "011", "001", "0101", "11")]
LAYERS = 6
UNEVEN = LayerCosts(LAYERS, (1.0, 2.0, 0.5, 4.0, 1.5, 3.0))


@pytest.fixture
def tree():
    return small_tree()


def small_tree(**rules: Any) -> Tree:
    """Seven nodes, of which node 6 is below 2, nodes 4 and 5 below 3, and the rest at the root."""
    tree = Tree(PATHS[0], TreeRules(**rules), LayerCosts(2, (1.0, 3.0)), random_of(0))
    for path, parent in zip(PATHS[1:], PARENTS[1:], strict=True):
        tree.add(path, parent, 0)
    return tree


@pytest.mark.parametrize("visits", ["tree", "parent"])
def test_descend_follows_the_best_ucb(visits):
    """The paper's formula; rewards without ties, each node full but those without children."""
    random = np.random.default_rng(0)
    reached = set()
    for _ in range(100):
        tree = small_tree(exploration=0.3, length_weight=0.2, visits=visits, widening_power=0)
        tree.grown = [9] * 7
        for node in range(7):
            tree.back_up(node, float(random.uniform(0, 1)))

        def ucb(node, tree=tree):
            total = tree.visits[ROOT if visits == "tree" else PARENTS[node]]
            explored = 0.3 * math.sqrt(math.log(total) / tree.visits[node])
            share = sum((1.0, 3.0)[layer] for layer in PATHS[node]) / 4
            return tree.value[node] / tree.visits[node] + explored - 0.2 * share

        best = max((1, 2, 3), key=ucb)
        expected = {1: 1, 2: 6, 3: max((4, 5), key=ucb)}[best]
        assert tree.descend() == expected
        reached.add(expected)
    assert reached == {1, 4, 5, 6}


@pytest.mark.parametrize(("visits", "chosen"), [("tree", 5), ("parent", 4)])
def test_exploration_grows_with_the_visits_of_the_rules(visits, chosen):
    """Of 10,000 visits 110 are below node 3; node 4 has more reward, and node 5 fewer visits."""
    tree = small_tree(exploration=1.0, length_weight=0.0, visits=visits, widening_power=0)
    tree.grown = [9] * 7
    for node, reward, count in ((1, 0.0, 9_900), (3, 1_000.0, 3), (4, 100.0, 99), (5, 0.0, 3)):
        tree.back_up(node, reward, count)
    assert tree.descend() == chosen


def test_nodes_widen_with_their_visits(tree):
    """Three children at seven visits: fewer than 2 * 7 ** 0.5."""
    assert tree.descend() == ROOT
    tree.grown[ROOT] = 6
    assert tree.descend() != ROOT
    tree.close(ROOT)
    tree.grown[ROOT] = 0
    assert tree.descend() != ROOT


def test_epsilon_ends_descents_early():
    for epsilon, least, most in (0.0, 0, 0), (0.1, 70, 130), (1, 1000, 1000):
        tree = small_tree(epsilon=epsilon)
        tree.grown = [9] * 7
        assert least <= sum(tree.descend() == ROOT for _ in range(1000)) <= most


def test_close_buries_branches_without_new_paths(tree):
    children = {4: [1, 2, 3], 5: [1, 2, 3], 3: [1, 2], 0: [1, 2], 1: [2], 2: [2]}
    for node, left in children.items():
        tree.close(node)
        assert tree.children[ROOT] == left
        assert not tree.dead
    assert tree.descend() == 6  # closed nodes lead to those below them
    tree.back_up(1, 1.0)  # the reward of a dead node counts above it
    assert tree.value[ROOT] == 1
    tree.close(6)
    assert tree.dead
    assert tree.grown == [3, 0, 1, 2, 0, 0, 0]


def planted(rules: TreeRules) -> tuple[Tree, EditDraws]:
    tree = Tree(identity(LAYERS), rules, UNEVEN, random_of(0))
    return tree, EditDraws(rules, rules.lengths(LAYERS)[1], LAYERS)


def nats(margins: np.ndarray) -> Verdicts:
    return Verdicts.of_margins(margins)._replace(log_likelihoods=np.ones(len(margins), bool))


def test_scores_without_a_unit_grow_the_same_tree_at_any_scale():
    margins = np.random.default_rng(0).normal(0, 2, 41).astype(np.float32)
    values = []
    for verdicts in (*(Verdicts.of_margins(margins * scale) for scale in (1, 256)), nats(margins)):
        tree, draws = planted(PRESETS["best"])
        tree.update(verdicts.take(slice(1)))
        tree.select(draws, 40)
        tree.update(verdicts.take(slice(1, None)))
        values.append(tree.value)
    assert values[0] == values[1]
    assert values[0][ROOT] == pytest.approx(expit(margins / abs(margins[0])).sum())
    assert values[2][ROOT] == pytest.approx(expit(margins).sum())


@pytest.mark.parametrize("margin", [0.0, -np.inf])
def test_a_root_without_a_margin_leaves_the_unit(margin):
    tree, _ = planted(PRESETS["best"])
    tree.update(Verdicts.of_margins(np.array([margin])))
    assert tree.unit == 1


@pytest.mark.parametrize("name", ["best", "cola", "drllm"])
def test_counts_and_values_add_up(name):
    rules = dataclasses.replace(PRESETS[name], length_penalty=0.5)
    tree, draws = planted(rules)
    margins = np.random.default_rng(0).normal(0, 2, 61).astype(np.float32)
    tree.update(nats(margins[:1]))
    for first in range(1, 61, 10):
        tree.select(draws, 10)
        tree.update(nats(margins[first : first + 10]))
    rewards = 1 / (1 + np.exp(-margins)) if name == "best" else margins >= 0
    assert len(tree.known) == 61
    parents = np.array(tree.parents)
    for node in range(61):
        children = np.flatnonzero(parents == node)
        assert tree.grown[node] == len(children)
        assert tree.visits[node] == 1 + sum(tree.visits[child] for child in children)
        cost = UNEVEN.of(tree.paths[node])
        own = rewards[node] - 0.5 * cost / 12
        value = own + sum(tree.value[child] for child in children)
        assert tree.value[node] == pytest.approx(value, abs=1e-5)
        if not rules.epsilon:
            most = math.ceil(rules.widening * tree.visits[node] ** rules.widening_power)
            assert len(children) <= most


def chances(tree, node, rules, path):
    """The chance of each edit of a node's path, by looking at all of them."""
    table = edits_of(rules, 2 * LAYERS)
    fits = edits_fit(len(path), table, *rules.lengths(LAYERS))
    weights = {kind: {} for kind in range(len(KINDS))}
    for edit in np.stack(table, axis=1)[fits].tolist():
        kind, start, k, _ = edit
        child = edited(path, edit)
        if (
            child not in tree.known
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


@pytest.mark.parametrize(("node", "known"), [(ROOT, 0.3), (1, 0.3), (1, 0.97)])
@pytest.mark.parametrize(
    "rules",
    [*(PRESETS[name] for name in ("best", "cola", "polar", "drllm")), MOVES],
    ids=["best", "cola", "polar", "drllm", "moves"],
)
def test_edits_are_drawn_from_those_that_are_new(rules, node, known):
    """In proportion to their weights, the kind first, over many keys."""
    draws = EditDraws(rules, 2 * LAYERS, LAYERS)
    paths = identity(LAYERS), (0, 1, 2, 1, 2, 3, 4, 5)
    tree = Tree(paths[0], rules, UNEVEN, random_of(0))
    tree.add(paths[1], ROOT, start=2)
    edits = list(chances(tree, node, rules, paths[node]))
    chosen = random_of(1).permutation(len(edits))[: min(int(known * len(edits)), len(edits) - 3)]
    tree.known |= {edited(paths[node], edits[i]) for i in chosen}
    expected = chances(tree, node, rules, paths[node])
    counts: Counter[Any] = Counter()
    for key in range(1500):
        tree.random = random_of(key)
        drawn = draws.draw(tree, node)
        assert drawn is not None
        path, edit = drawn
        assert path == edited(paths[node], edit)
        counts[tuple(edit)] += 1
    assert counts.keys() <= expected.keys()
    observed = [counts[edit] for edit in expected]
    assert chisquare(observed, 1500 * np.array([*expected.values()])).pvalue > 1e-3

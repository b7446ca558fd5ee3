"""One tree as arrays: counts, UCB, widening, dead branches, and more slots."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import STOP
from cola_jax.question import key_of
from cola_jax.strategies import mcts
from cola_jax.strategies.draws import WORDS
from cola_jax.strategies.outcome import NO_PARENT, ROOT
from cola_jax.strategies.rules import PRESETS, TreeRules
from cola_jax.strategies.tree import Tables, Tree, tables_of

PARENTS = [NO_PARENT, 0, 0, 0, 3, 3, 2]
PATHS = ["01", "0", "1", "011", "001", "0101", "11"]
TWO = LayerCosts(2, (1.0, 3.0))
LAYERS = 6
UNEVEN = LayerCosts(LAYERS, (1.0, 2.0, 0.5, 4.0, 1.5, 3.0))

select = jax.jit(mcts.select, static_argnames="most")
update = jax.jit(mcts.update)
descend = jax.jit(mcts.descend)
close = jax.jit(mcts.close)


def small_tree(**rules: Any) -> tuple[Tree, Tables]:
    """Seven nodes, of which node 6 is below 2, nodes 4 and 5 below 3, and the rest at the root."""
    rules = TreeRules(**{"length_weight": 0.2} | rules)
    tables = on_device(rules, TWO, 50)
    tree, _ = planted(rules, TWO, -1.0)
    visits = [7, 1, 2, 3, 1, 1, 1]
    live = [3, 0, 1, 2, 0, 0, 0]
    cost = [0.2 * sum((1.0, 3.0)[int(layer)] for layer in path) / 4 for path in PATHS]
    columns = {"visits": visits, "parent": PARENTS, "live": live, "grown": live, "cost": cost}
    changed = {
        name: getattr(tree, name).at[: len(values)].set(jnp.array(values))
        for name, values in columns.items()
    }
    return tree._replace(size=jnp.int32(7), **changed), tables


def planted(rules: TreeRules, costs: LayerCosts, margin: float, in_nats: bool = True):
    tables = on_device(rules, costs, 61)
    key = jnp.array(key_of(0, "q"))
    root = (jnp.bool_(margin >= 0), jnp.float32(margin), jnp.bool_(in_nats))
    return mcts.plant(tables, key, jnp.int32(costs.num_layers), *root), tables


def on_device(rules: TreeRules, costs: LayerCosts, nodes: int) -> Tables:
    return jax.tree.map(jnp.asarray, tables_of(rules, costs.num_layers, costs, nodes))


def no_words() -> jax.Array:
    return jnp.full(WORDS, 2**32 - 1, jnp.uint32)


@pytest.mark.parametrize("visits", ["tree", "parent"])
def test_descend_follows_the_best_ucb(visits):
    """The paper's formula; rewards without ties, each node full but those without children."""
    random = np.random.default_rng(0)
    reached = set()
    tree, tables = small_tree(exploration=0.3, visits=visits, widening_power=0)
    tree = tree._replace(grown=jnp.full_like(tree.grown, 9).at[jnp.array([1, 4, 5, 6])].set(0))
    counts = np.array(tree.visits)
    for _ in range(100):
        own = np.append(random.uniform(0, 1, 7), np.zeros(len(counts) - 7)).astype(np.float32)
        values = own.copy()
        for node in range(6, 0, -1):
            values[PARENTS[node]] += values[node]

        def ucb(node, values=values):
            total = counts[ROOT if visits == "tree" else PARENTS[node]]
            explored = 0.3 * math.sqrt(math.log(total) / counts[node])
            return values[node] / counts[node] + explored - float(tree.cost[node])

        best = max((1, 2, 3), key=ucb)
        expected = {1: 1, 2: 6, 3: max((4, 5), key=ucb)}[best]
        assert descend(tree._replace(value=jnp.array(values)), tables, no_words()) == expected
        reached.add(expected)
    assert reached == {1, 4, 5, 6}


def test_descend_takes_the_best_mean_without_exploration():
    tree, tables = small_tree(exploration=0.0, length_weight=0.0, widening_power=0)
    value = jnp.zeros_like(tree.value).at[jnp.array([1, 2, 3])].set(jnp.array([0.5, 1.2, 1.6]))
    tree = tree._replace(value=value, grown=tree.grown + 9, cost=jnp.zeros_like(tree.cost))
    assert descend(tree, tables, no_words()) == 6  # 0.6 of node 2 is more than 0.5 and 0.53


def test_nodes_widen_with_their_visits():
    """Three children at seven visits: fewer than 2 * 7 ** 0.5."""
    tree, tables = small_tree()
    assert descend(tree, tables, no_words()) == ROOT
    full = tree._replace(grown=tree.grown.at[ROOT].set(6))
    assert descend(full, tables, no_words()) != ROOT
    closed, live = close(tree, ROOT)
    assert descend(tree._replace(closed=closed, live=live), tables, no_words()) != ROOT


def test_epsilon_ends_descents_early():
    words = jax.random.bits(jax.random.key(0), (1000, WORDS), jnp.uint32)
    for epsilon, least, most in (0.0, 0, 0), (0.1, 70, 130), (1, 1000, 1000):
        tree, tables = small_tree(epsilon=epsilon)
        tree = tree._replace(grown=tree.grown + 9)
        ends = jax.vmap(functools.partial(mcts.descend, tree, tables))(words)
        assert least <= (ends == ROOT).sum() <= most


def test_close_buries_branches_without_new_paths():
    tree, tables = small_tree()
    children = {4: [1, 2, 3], 5: [1, 2, 3], 3: [1, 2], 0: [1, 2], 1: [2], 2: [2]}
    for node, left in children.items():
        closed, live = close(tree, node)
        tree = tree._replace(closed=closed, live=live)
        leads_on = [child for child in (1, 2, 3) if not closed[child] or live[child]]
        assert leads_on == left
        assert live[ROOT] == len(left)
        assert not mcts.is_dead(tree)
    assert descend(tree, tables, no_words()) == 6  # closed nodes lead to those below them
    closed, live = close(tree, 6)
    assert mcts.is_dead(tree._replace(closed=closed, live=live))


@pytest.mark.parametrize("scale", [1, 256])
def test_scores_without_a_unit_grow_the_same_tree_at_any_scale(scale):
    margins = np.random.default_rng(0).normal(0, 2, 41).astype(np.float32)
    tree, tables = planted(PRESETS["best"], UNEVEN, margins[0] * scale, in_nats=False)
    tree, wave = select(tree, tables, 40, most=40)
    tree = update(tree, tables, margins[1:] >= 0, margins[1:] * scale, wave.size)
    rewards = np.round(expit(margins / abs(margins[0])) * 4096) / 4096
    assert tree.value[ROOT] == pytest.approx(rewards.sum(), abs=2e-3)


@pytest.mark.parametrize("margin", [0.0, -np.inf])
def test_a_root_without_a_margin_leaves_the_unit(margin):
    assert planted(PRESETS["best"], UNEVEN, margin, in_nats=False)[0].unit == 1


def test_a_margin_that_is_no_number_has_no_reward():
    tree, tables = planted(PRESETS["best"], UNEVEN, -1.0)
    tree, wave = select(tree, tables, 40, most=40)
    grown = update(tree, tables, jnp.zeros(40, bool), jnp.full(40, jnp.nan), wave.size)
    assert np.array_equal(grown.value, tree.value)


@pytest.mark.parametrize("name", ["best", "cola", "drllm"])
def test_counts_and_values_add_up(name):
    rules = dataclasses.replace(PRESETS[name], length_penalty=0.5)
    margins = np.random.default_rng(0).normal(0, 2, 61).astype(np.float32)
    tree, tables = planted(rules, UNEVEN, margins[0])
    for first in range(1, 61, 10):
        tree, wave = select(tree, tables, 10, most=10)
        assert wave.size == 10
        some = margins[first : first + 10]
        tree = update(tree, tables, some >= 0, some, wave.size)
    of_margin = np.round(4096 / (1 + np.exp(-margins))) / 4096
    rewards = of_margin if name == "best" else margins >= 0
    arrays = jax.device_get(tree)
    assert arrays.size == 61
    paths = [tuple(path[path != STOP].tolist()) for path in arrays.paths[:61]]
    assert len(set(paths)) == 61
    for node in range(61):
        children = np.flatnonzero(arrays.parent == node)
        assert arrays.grown[node] == len(children)
        assert arrays.visits[node] == 1 + arrays.visits[children].sum()
        assert arrays.length[node] == len(paths[node])
        own = rewards[node] - 0.5 * UNEVEN.of(paths[node]) / 12
        assert arrays.value[node] == pytest.approx(own + arrays.value[children].sum(), abs=1e-5)
        if not rules.epsilon:
            most = math.ceil(rules.widening * arrays.visits[node] ** rules.widening_power)
            assert len(children) <= most


def test_trees_of_more_slots_go_on_alike():
    """A search's random words depend on no number of slots."""
    rules = PRESETS["cola"]
    tree, tables = planted(rules, UNEVEN, -1.0)
    tree, _ = select(tree, tables, 30, most=30)
    larger = on_device(rules, UNEVEN, 200)
    trees = mcts.enlarged(jax.tree.map(lambda column: column[None], tree), 256)
    _, expected = select(tree, tables, 30, most=30)
    _, wave = select(jax.tree.map(lambda column: column[0], trees), larger, 30, most=30)
    assert np.array_equal(wave.paths, expected.paths)
    assert np.array_equal(wave.parent, expected.parent)


def test_random_words_ignore_the_defaults_of_a_user():
    key = jnp.array(key_of(7, "q"))
    expected = mcts.random_words(key, 3)
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        assert np.array_equal(mcts.random_words(key, 3), expected)
    assert not np.array_equal(mcts.random_words(key, 4), expected)


def test_growing_copies_no_paths():
    """They are by far the largest arrays, and change in place, a row for a leaf."""
    tree, tables = planted(PRESETS["best"], UNEVEN, -1.0)
    trees = jax.tree.map(lambda column: jnp.stack([column] * 8), tree)
    counts = jnp.full(8, 16, jnp.int32)
    program = mcts.grow.lower(trees, tables, counts, most=16).compile().as_text()
    shape = ",".join(map(str, trees.paths.shape))
    assert f"s32[{shape}]" in program
    assert not re.search(rf"u16\[{shape}\]\S* copy\(", program)

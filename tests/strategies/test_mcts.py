"""Choosing the leaves of a wave: UCB, virtual visits, widening, budgets, and drawing edits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax.strategies.mcts as mcts
from cola_jax.edits import edit_table
from cola_jax.path import identity, pad_path
from cola_jax.strategies.mcts import (
    MAX_VISITS,
    NOTHING,
    back_up_wave,
    draw,
    draw_child,
    edit_weights,
    select_wave,
    ucb,
)
from cola_jax.strategies.presets import PRESETS, TreeRules
from cola_jax.strategies.tree import ROOT, new_tree, path_hash

COLA = PRESETS["cola"]
LAYERS, NODES, LEAVES = 6, 41, 20


def a_tree(num_layers, nodes, seed=0):
    root = jnp.asarray(pad_path(identity(num_layers), 2 * num_layers))
    return new_tree(root, nodes, jax.random.key(seed))


def two_trees():
    trees = (a_tree(LAYERS, NODES, seed) for seed in (0, 1))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def select(trees, *budgets):
    budgets = jnp.array(budgets, jnp.int32)
    return select_wave(trees, budgets, rules=COLA, num_layers=LAYERS, leaves=LEAVES)


@pytest.fixture(scope="module")
def grown():
    """A tree of 41 nodes after two waves, rewards of 1 for every third node; and the rewards."""
    trees, earned = two_trees(), np.zeros((2, NODES), np.float32)
    for _ in range(2):
        trees, nodes = select(trees, NODES, NODES)
        rewards = (np.asarray(nodes) % 3 == 0).astype(np.float32)
        for b in range(2):
            earned[b, nodes[b]] = rewards[b]
        trees = back_up_wave(trees, nodes, jnp.asarray(rewards))
    return jax.tree.map(lambda x: x[0], trees), earned[0]


def test_counts_add_up(grown):
    tree, earned = grown
    assert tree.size == tree.visits[ROOT] == NODES
    assert tree.value[ROOT] == earned.sum() > 0
    parents = np.asarray(tree.parents)
    for node in range(NODES):
        children = np.flatnonzero(parents == node)
        assert tree.children[node] == len(children)
        assert tree.visits[node] == 1 + np.asarray(tree.visits)[children].sum()
        assert tree.value[node] == earned[node] + np.asarray(tree.value)[children].sum()
        assert tree.hashes[node] == path_hash(tree.paths[node])


def test_children_widen_with_root_of_visits(grown):
    tree, _ = grown
    children, visits = np.asarray(tree.children), np.asarray(tree.visits)
    limit = np.ceil(COLA.widening * np.sqrt(visits))
    assert (children <= limit).all()
    assert (children == limit).any()


def test_ucb_is_the_papers_formula():
    tree = a_tree(4, 5)
    visits, value = np.array([9, 4, 3, 1, 1]), np.array([4.0, 3, 1, 0, 1])
    for node, path in enumerate([(0, 2, 3), (0, 1, 1, 2, 3), (0,), (0, 3)], start=1):
        tree = tree.replace(paths=tree.paths.at[node].set(pad_path(path, 8)), size=node + 1)
    tree = tree.replace(visits=jnp.array(visits), value=jnp.array(value, jnp.float32))
    rules = TreeRules(exploration=1.8, length_weight=3.0)
    expected = value / visits + 1.8 * np.sqrt(np.log(9) / visits)
    expected -= 3.0 * np.array([4, 3, 5, 1, 2]) / 4
    np.testing.assert_allclose(ucb(tree, rules, 4), expected, rtol=1e-6)


def test_logarithms_are_exactly_rounded():
    table = mcts.logarithms()
    assert table.dtype == np.float32
    assert table.shape == (MAX_VISITS,)
    np.testing.assert_array_equal(table[1:], np.log(np.arange(1, MAX_VISITS)).astype(np.float32))


def test_select_wave_follows_best_child():
    """Of two children of a full root, that with the higher value is expanded."""
    rules = TreeRules(exploration=0.5, length_weight=0.0, widening=1.0, max_repeat=0)
    for better in (1, 2):
        trees = jax.tree.map(lambda x: x[None], a_tree(6, 4))
        for wave in range(3):
            trees, nodes = select_wave(
                trees, jnp.array([4], jnp.int32), rules=rules, num_layers=6, leaves=1
            )
            if wave < 2:  # the root has its second child at 2 visits, its third at 5
                assert trees.parents[0, nodes[0, 0]] == ROOT
            reward = jnp.float32([[nodes[0, 0] == better]])
            trees = back_up_wave(trees, nodes, reward)
        assert trees.parents[0, 3] == better


def test_select_wave_spreads_by_virtual_visits():
    trees, nodes = select(two_trees(), NODES, NODES)
    assert nodes.tolist() == [list(range(1, 21))] * 2
    for b in range(2):
        assert trees.visits[b, ROOT] == 21
        assert len(set(trees.parents[b, 1:21].tolist())) > 3
    assert (trees.value == 0).all()
    assert trees.paths[0].tolist() != trees.paths[1].tolist()  # each draws from its own key


def test_select_wave_keeps_each_budget():
    trees, nodes = select(two_trees(), 4, 25)
    assert nodes.tolist() == [[1, 2, 3, *[NOTHING] * 17], list(range(1, 21))]
    trees, nodes = select(trees, 4, 25)
    assert nodes.tolist() == [[NOTHING] * 20, [21, 22, 23, 24, *[NOTHING] * 16]]
    trees, nodes = select(trees, 0, 25)  # a search that has ended
    assert nodes.tolist() == [[NOTHING] * 20] * 2
    assert trees.size.tolist() == [4, 25]


def test_draw_child_takes_any_number_of_runs():
    drawn = [
        draw_child(
            a_tree(LAYERS, 2), jnp.int32(ROOT), jax.random.key(0), TreeRules(max_runs=most), LAYERS
        )[0]
        for most in (None, 2**62)
    ]
    assert drawn[0].tolist() == drawn[1].tolist()


def test_entries_are_drawn_in_proportion_to_their_weights():
    weights = jnp.array([0, 2, 0, 2, 1, 0])
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = jax.jit(jax.vmap(draw, (0, None)))(keys, weights)
    counts = np.bincount(drawn, minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert (np.abs(counts[[1, 3, 4]] - [1200, 1200, 600]) < 120).all()


def test_small_blocks_are_drawn_more_often():
    table = edit_table(30)
    even, small = edit_weights(table, 0.0), edit_weights(table, -2.0)
    assert (even == 1).all()
    assert {int(k): set(small[table.k == k].tolist()) for k in (1, 2, 4)} == {
        1: {1024},
        2: {256},
        4: {64},
    }


def test_kinds_are_drawn_evenly(outcomes):
    kinds = np.concatenate([outcome.edits[1:, 0] for outcome in outcomes])
    assert 0.4 < kinds.mean() < 0.6  # skips are 0, repeats 1

"""The arrays of one search tree: nodes, counts, values, and what is closed or dead."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.path import STOP, Edit, identity, pad_path
from cola_jax.strategies.tree import (
    NO_PARENT,
    ROOT,
    add_node,
    back_up,
    close,
    lengths,
    live_children,
    new_tree,
    path_hash,
)

POSITIONS = 6
PATHS = [(0, 1), (0,), (1,), (0, 1, 1), (0, 0, 1), (0, 1, 0, 1), (1, 1)]
PARENTS = [NO_PARENT, 0, 0, 0, 3, 3, 2]


def small_tree():
    root = jnp.asarray(pad_path(identity(2), POSITIONS))
    return new_tree(root, len(PATHS) + 1, jax.random.key(0))


@pytest.fixture(scope="module")
def tree():
    """Seven nodes, of which node 6 is below 2, nodes 4 and 5 below 3, and the rest at the root."""
    tree = small_tree()
    for path, parent in zip(PATHS[1:], PARENTS[1:], strict=True):
        edit = Edit(*(jnp.int32(parent + i) for i in range(4)))
        tree = jax.jit(add_node)(tree, parent, jnp.asarray(pad_path(path, POSITIONS)), edit)
    return tree


def test_new_tree_holds_pending_root():
    tree = small_tree()
    assert tree.size == tree.visits[ROOT] == 1
    assert tree.parents.tolist() == [NO_PARENT] * 8
    assert tree.paths[ROOT].tolist() == [0, 1, *[STOP] * 4]
    assert (tree.paths[1:] == STOP).all()
    for name in ("value", "children", "closed", "dead", "edits"):
        assert not getattr(tree, name).any()


def test_add_node_counts_visits_upwards(tree):
    assert tree.size == 7
    assert tree.parents.tolist() == [*PARENTS, NO_PARENT]
    assert tree.visits.tolist() == [7, 1, 2, 3, 1, 1, 1, 0]
    assert tree.children.tolist() == [3, 0, 1, 2, 0, 0, 0, 0]
    assert lengths(tree).tolist() == [*map(len, PATHS), 0]
    assert tree.edits[4].tolist() == [3, 4, 5, 6]
    for node, path in enumerate(PATHS):
        assert tree.paths[node].tolist() == pad_path(path, POSITIONS).tolist()
        assert tree.hashes[node] == path_hash(tree.paths[node])


def test_back_up_adds_rewards_to_all_ancestors(tree):
    nodes = jnp.array([4, -1, 6, 1, -1], jnp.int32)
    rewards = jnp.array([1, 100, 0.5, -0.25, 100], jnp.float32)
    after = jax.jit(back_up)(tree, nodes, rewards)
    assert after.value.tolist() == [1.25, -0.25, 0.5, 1, 1, 0, 0.5, 0]
    assert after.visits.tolist() == tree.visits.tolist()


def test_close_buries_branches_without_new_paths(tree):
    step = jax.jit(close)
    buried = {4: [4], 5: [5], 3: [3], 0: [], 1: [1], 2: [], 6: [6, 2, 0]}
    for node, dead in buried.items():
        before = set(np.flatnonzero(tree.dead).tolist())
        tree = step(tree, node)
        assert tree.closed[node]
        assert set(np.flatnonzero(tree.dead).tolist()) == before | set(dead)


def test_live_children_are_below_and_not_dead(tree):
    def children(tree, node):
        return np.flatnonzero(live_children(tree, jnp.int32(node))).tolist()

    assert children(tree, ROOT) == [1, 2, 3]
    assert children(tree, 3) == [4, 5]
    assert children(close(tree, jnp.int32(1)), ROOT) == [2, 3]
    assert children(tree, NO_PARENT) == [ROOT]  # unused slots have no parent either


def test_path_hash_tells_paths_apart():
    paths = [p for n in range(1, 7) for p in itertools.product(range(4), repeat=n)]
    padded = np.stack([pad_path(path, POSITIONS) for path in paths])
    hashes = np.asarray(path_hash(jnp.asarray(padded)))
    assert hashes.dtype == np.uint32
    assert len(set(hashes.tolist())) == len(paths) == 5460
    assert hashes[17] == path_hash(jnp.asarray(padded[17]))

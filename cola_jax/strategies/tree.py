"""The search tree of one question as a structure of arrays; for one tree, batched by vmap."""

from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from cola_jax.path import STOP, Edit, path_length

NO_PARENT = -1
ROOT = 0


@no_type_check  # batches have one more axis, and JAX rebuilds pytrees with leaves of any kind
class Tree(struct.PyTreeNode):
    """M node slots, the first `size` in use; every node is one path, and no two are the same.

    A node is made when it is selected, `pending` until its verdict is backed up.
    """

    paths: Int[Array, "M P"]
    hashes: UInt32[Array, " M"]
    parents: Int[Array, " M"]
    edits: Int[Array, "M four"]  # kind, start, k, amount, from the parent
    visits: Int[Array, " M"]  # evaluations at and below the node, pending ones included
    value: Float[Array, " M"]  # sum of rewards at and below the node
    children: Int[Array, " M"]
    closed: Bool[Array, " M"]  # no edit makes a new path
    dead: Bool[Array, " M"]  # closed, and so is everything below
    size: Int[Array, ""]
    key: Array  # the question's own random key


def new_tree(path: Int[Array, " P"], nodes: int, key: Array) -> Tree:
    """Make a tree whose root, the given path, is pending its verdict."""
    positions = path.shape[0]
    return Tree(
        paths=jnp.full((nodes, positions), STOP, jnp.int32).at[ROOT].set(path),
        hashes=jnp.zeros(nodes, jnp.uint32).at[ROOT].set(path_hash(path)),
        parents=jnp.full(nodes, NO_PARENT, jnp.int32),
        edits=jnp.zeros((nodes, 4), jnp.int32),
        visits=jnp.zeros(nodes, jnp.int32).at[ROOT].set(1),
        value=jnp.zeros(nodes, jnp.float32),
        children=jnp.zeros(nodes, jnp.int32),
        closed=jnp.zeros(nodes, jnp.bool_),
        dead=jnp.zeros(nodes, jnp.bool_),
        size=jnp.int32(1),
        key=key,
    )


def path_hash(path: Int[Array, "*B P"]) -> UInt32[Array, "*B"]:
    """Hash padded paths to 32 bits (multilinear, over fixed odd multipliers).

    Equal paths hash equal, so a path that is not in the tree's hashes is new; two different paths
    that collide cost one candidate, never a duplicate.
    """
    generator = np.random.default_rng(0)
    multipliers = generator.integers(0, 2**31, path.shape[-1], dtype=np.uint32) * 2 + 1
    terms = (path + 2).astype(jnp.uint32) * multipliers
    # mixed, since a sum of products alone is linear: equal edits would shift hashes alike
    terms = (terms ^ (terms >> 15)) * np.uint32(0x85EBCA6B)
    return jnp.sum(terms ^ (terms >> 13), axis=-1, dtype=jnp.uint32)


def add_node(tree: Tree, parent: Int[Array, ""], path: Int[Array, " P"], edit: Edit) -> Tree:
    """Add a pending node and count its visit on the way up."""
    slot = tree.size
    tree = tree.replace(
        paths=tree.paths.at[slot].set(path),
        hashes=tree.hashes.at[slot].set(path_hash(path)),
        parents=tree.parents.at[slot].set(parent),
        edits=tree.edits.at[slot].set(jnp.stack(edit)),
        children=tree.children.at[parent].add(1),
        size=slot + 1,
    )
    return tree.replace(visits=add_upwards(tree, tree.visits, slot, 1))


def add_upwards(tree: Tree, counts: Array, node: Int[Array, ""], amount: Array | int) -> Array:
    """Add to a node's entry and to those of all its ancestors."""

    def climb(state):
        node, counts = state
        return tree.parents[node], counts.at[node].add(amount)

    return jax.lax.while_loop(lambda state: state[0] != NO_PARENT, climb, (node, counts))[1]


def back_up(tree: Tree, nodes: Int[Array, " C"], rewards: Float[Array, " C"]) -> Tree:
    """Add the rewards of evaluated nodes to them and their ancestors; nodes of -1 are none."""

    def add(value, item):
        node, reward = item
        return add_upwards(tree, value, node, reward), None

    return tree.replace(value=jax.lax.scan(add, tree.value, (nodes, rewards))[0])


def live_children(tree: Tree, node: Int[Array, ""]) -> Bool[Array, " M"]:
    """Mark the children of a node below which there may be new paths."""
    slots = jnp.arange(tree.parents.shape[0])
    return (tree.parents == node) & (slots < tree.size) & ~tree.dead


def close(tree: Tree, node: Int[Array, ""]) -> Tree:
    """Record that no edit of a node makes a new path; those above it may be dead with it."""

    def is_dead(state):
        node, tree = state
        # NO_PARENT wraps to the last slot here; the first condition decides then
        return (node != NO_PARENT) & tree.closed[node] & ~live_children(tree, node).any()

    def bury(state):
        node, tree = state
        return tree.parents[node], tree.replace(dead=tree.dead.at[node].set(True))

    closed = tree.replace(closed=tree.closed.at[node].set(True))
    return jax.lax.while_loop(is_dead, bury, (node, closed))[1]


def lengths(tree: Tree) -> Int[Array, " M"]:
    """Count the layers of every node's path."""
    return path_length(tree.paths)

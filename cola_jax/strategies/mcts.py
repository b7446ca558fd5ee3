"""Monte Carlo tree search: choosing the leaves of a wave by UCB, virtual visits and widening."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cola_jax.edits import SKIP, Edit, apply_edit, edit_table, edits_fit
from cola_jax.path import STOP
from cola_jax.strategies.presets import Rules, TreeRules
from cola_jax.strategies.tree import (
    ROOT,
    Tree,
    add_node,
    back_up,
    close,
    lengths,
    live_children,
    path_hash,
)

NOTHING = -1  # the slot of a leaf that could not be selected
MAX_VISITS = 1 << 16
WEIGHT = 1 << 10  # of an edit of one layer, where weights differ
EARLY = 0  # number of the random key that ends descents early


@functools.cache
def logarithms() -> np.ndarray:
    """ln n for n = 0, 1, 2, ..., from the host.

    A device's own logarithm may round differently in another vector position, so that the size
    of the batch would decide a tie; the rest of UCB is exactly rounded arithmetic.
    """
    return np.log(np.maximum(np.arange(MAX_VISITS), 1)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("rules", "num_layers", "leaves"))
def select_wave(
    trees: Tree, budgets: Int[Array, " B"], *, rules: TreeRules, num_layers: int, leaves: int
) -> tuple[Tree, Int[Array, "B C"]]:
    """Selects up to `leaves` new nodes in each tree, and adds them as pending.

    Returns the trees and the nodes' slots, -1 where a tree found no new path or has as many nodes
    as its budget.
    """

    def one(tree: Tree, budget: Int[Array, ""]) -> tuple[Tree, Int[Array, " C"]]:
        def step(tree, _):
            return select_leaf(tree, budget, rules, num_layers)

        return jax.lax.scan(step, tree, length=leaves)

    return jax.vmap(one)(trees, budgets)


@jax.jit
def back_up_wave(trees: Tree, nodes: Int[Array, "B C"], rewards: Float[Array, "B C"]) -> Tree:
    """Backs up the rewards of a wave; the visits were counted when its leaves were selected."""
    return jax.vmap(back_up)(trees, nodes, rewards)


def select_leaf(
    tree: Tree, budget: Int[Array, ""], rules: TreeRules, num_layers: int
) -> tuple[Tree, Int[Array, ""]]:
    """Descends from the root to the node to expand, and adds one child of it."""
    key = jax.random.fold_in(tree.key, tree.size)
    node = descend(tree, key, rules, num_layers)
    path, edit, found = draw_child(tree, node, key, rules, num_layers)
    has_room = tree.size < budget
    # the tree only grows, so a node without a new path now never has one again
    outcomes = (add_node(tree, node, path, edit), close(tree, node), tree)
    chosen = jnp.where(has_room, jnp.where(found, 0, 1), 2)
    tree = jax.tree.map(lambda *leaves: jax.lax.select_n(chosen, *leaves), *outcomes)
    return tree, jnp.where(has_room & found, tree.size - 1, NOTHING)


def descend(tree: Tree, key: Array, rules: TreeRules, num_layers: int) -> Int[Array, ""]:
    """Follows the best child until a node may have one more."""
    scores = ucb(tree, rules, num_layers)
    grown = tree.visits.astype(jnp.float32)
    # an exactly rounded root: see `logarithms`
    grown = jnp.sqrt(grown) if rules.widening_power == 0.5 else grown**rules.widening_power
    limits = jnp.ceil(rules.widening * grown)
    if rules.epsilon:
        drawn = jax.random.uniform(jax.random.fold_in(key, EARLY), tree.visits.shape)
        limits = jnp.where(drawn < rules.epsilon, jnp.inf, limits)

    def goes_on(node):
        may_expand = ~tree.closed[node] & (tree.children[node] < limits[node])
        return ~may_expand & live_children(tree, node).any()

    def step(node):
        return jnp.argmax(jnp.where(live_children(tree, node), scores, -jnp.inf)).astype(jnp.int32)

    return jax.lax.while_loop(goes_on, step, jnp.int32(ROOT))


def ucb(tree: Tree, rules: TreeRules, num_layers: int) -> Float[Array, " M"]:
    """Q/v + c sqrt(ln V / v) - lambda |P|/L of every node (CoLa, section 3)."""
    visits = jnp.maximum(tree.visits, 1).astype(jnp.float32)
    counted = ROOT if rules.visits == "tree" else jnp.maximum(tree.parents, ROOT)
    log_total = jnp.asarray(logarithms())[jnp.minimum(tree.visits[counted], MAX_VISITS - 1)]
    return (
        tree.value / visits
        + rules.exploration * jnp.sqrt(log_total / visits)
        - rules.length_weight * lengths(tree).astype(jnp.float32) / num_layers
    )


def draw_child(
    tree: Tree, node: Int[Array, ""], key: Array, rules: TreeRules, num_layers: int
) -> tuple[Int[Array, " P"], Edit, Bool[Array, ""]]:
    """Draws an edit of a node's path that makes a path the tree does not have.

    The kind is drawn first and evenly, then the edit among those of its kind: there are four times
    as many repeats as skips, and drawing from all would hardly try a skip. An edit is drawn in
    proportion to its k to the rules' `block_power`. At the root the rules' early exits come before
    all other edits. Returns the path, the edit, and whether there was one.
    """
    path = tree.paths[node]
    table = table_of(rules, path.shape[0])
    length, (shortest, longest) = lengths(tree)[node], rules.lengths(num_layers)
    allowed = edits_fit(length, table, shortest, longest)
    if rules.deep_block is not None:
        allowed &= (node == ROOT) | (table.k <= rules.deep_block)
    if rules.ordered:
        allowed &= table.start >= tree.edits[node, 1]
    exits = (table.kind == SKIP) & (table.k <= rules.exits)
    if rules.exits:
        exits &= (node == ROOT) & (table.start + table.k == length)
        allowed &= exits | (table.kind != SKIP) | (table.k <= rules.max_skip)
    paths = jax.vmap(apply_edit, (None, 0))(path, table)
    known = (path_hash(paths)[:, None] == tree.hashes) & (jnp.arange(len(tree.hashes)) < tree.size)
    allowed &= ~known.any(axis=1)
    if rules.max_runs is not None:
        most = min(rules.max_runs, path.shape[0])  # a larger one may exceed 32 bits
        allowed &= most_runs(paths, num_layers) <= most

    kind_key, edit_key = jax.random.split(key)
    kinds = np.unique(table.kind)
    left = jnp.stack([(allowed & (table.kind == kind)).any() for kind in kinds])
    kind = draw(kind_key, left.astype(jnp.int32))
    of_kind = allowed & (table.kind == jnp.asarray(kinds)[kind])
    chosen = draw(edit_key, of_kind * edit_weights(table, rules.block_power))
    if rules.exits:
        untried = allowed & exits
        chosen = jnp.where(untried.any(), jnp.argmax(untried), chosen)  # the smallest skip is first
    edit = Edit(*(jnp.asarray(column)[chosen] for column in table))
    return paths[chosen], edit, left.any()


def edit_weights(table: Edit, power: float) -> np.ndarray:
    """Returns how often to draw each edit [A]: in proportion to k to the power given, rounded.

    Integers, since the sums of fractions depend on how a device adds them up.
    """
    if not power:
        return np.ones(len(table.k), np.int32)
    return np.maximum(np.round(WEIGHT * np.asarray(table.k, float) ** power), 1).astype(np.int32)


def table_of(rules: Rules, positions: int) -> Edit:
    """Lists the edits of a search, as `edit_table`."""
    return edit_table(
        positions,
        rules.largest_skip,
        rules.max_repeat,
        rules.max_times,
        rules.max_move,
        rules.max_move_block,
    )


def most_runs(paths: Int[Array, "A P"], num_layers: int) -> Int[Array, " A"]:
    """Counts how often each path runs the layer that it runs most often."""
    runs = jax.vmap(lambda path: jnp.zeros(num_layers, jnp.int32).at[path].add(path != STOP))
    return runs(paths).max(axis=1)


def draw(key: Array, weights: Int[Array, " A"]) -> Int[Array, ""]:
    """Draws an entry in proportion to its weight; any entry where all weigh nothing."""
    rank = jax.random.randint(key, (), 0, jnp.maximum(weights.sum(), 1))
    return jnp.searchsorted(jnp.cumsum(weights), rank, side="right").astype(jnp.int32)

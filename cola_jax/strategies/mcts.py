"""Monte Carlo tree search of one question as arrays: UCB, widening, virtual visits, new paths.

Every function is written for one tree, is pure, and is `vmap`ped over searches and jitted (`grow`,
`back_up`). A node is one path, and no two are the same. It is made when it is selected, and pending
until its verdict is backed up; the pending nodes of a wave are the last ones of the tree.

Choices are integers made of random words, which depend on the search's key and the node's number
alone. Logarithms, roots and limits are tables that NumPy makes. A product is never followed by a
sum, which compilers round once or twice. So the same verdicts grow the same tree in any program.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from cola_jax.path import STOP
from cola_jax.steps import layer_of, part_of
from cola_jax.strategies.draws import (
    DEPTHS,
    DrawnEdit,
    draw,
    edited_row,
    no_edit,
    prefix_hashes,
    random_words,
)
from cola_jax.strategies.outcome import NO_PARENT, ROOT
from cola_jax.strategies.tree import Tables, Tree, Values

GRAIN = 2**12
OF_SEARCH = ("size", "unit", "key", "tried")  # fields of a tree without a slot for each node


class Wave(NamedTuple):
    """The nodes that were added last, [C]; of some searches fewer than C."""

    size: Int[Array, ""]  # of the wave
    parent: Int[Array, " C"]
    edit: Int[Array, "C 5"]
    paths: Int[Array, "C P"]
    length: Int[Array, " C"]


class Attempt(NamedTuple):
    """A descent, and what it has changed."""

    closed: Bool[Array, " M"]
    live: Int[Array, " M"]
    tried: Int[Array, ""]
    node: Int[Array, ""]  # where it ended
    drawn: DrawnEdit


def plant(
    tables: Tables,
    key: UInt[Array, "2"],
    num_layers: Int[Array, ""],
    verdict: Bool[Array, ""],
    margin: Float[Array, ""],
    in_nats: Bool[Array, ""],
) -> Tree:
    """Make a tree of the identity path, whose verdict is known.

    The unit of margins is 1 nat, or where scores have no unit, the margin of the identity path. So
    the same tree grows whatever scores without a unit are multiplied by.
    """
    nodes = len(tables.children) - 1
    positions = len(tables.powers)
    place = jnp.arange(positions)
    path = jnp.where(place < num_layers, place, STOP)
    size = jnp.abs(margin)
    has_unit = in_nats | ~((size > 0) & (size < jnp.inf))

    def column(fill: float, dtype: Any, *shape: int) -> Array:
        return jnp.full((nodes, *shape), fill, dtype)

    hashes = prefix_hashes(path, num_layers, tables)[-1]
    cost, penalty = shares_of_cost(path, num_layers, tables)
    tree = Tree(
        size=jnp.int32(1),
        visits=column(0, jnp.int32).at[ROOT].set(1),
        value=column(0, jnp.float32),
        parent=column(NO_PARENT, jnp.int32),
        grown=column(0, jnp.int32),
        live=column(0, jnp.int32),
        closed=column(False, bool),
        edit=column(0, jnp.int32, 5),
        paths=column(STOP, jnp.int32, positions).at[ROOT].set(path),
        length=column(0, jnp.int32).at[ROOT].set(num_layers),
        cost=column(0, jnp.float32).at[ROOT].set(cost),
        penalty=column(0, jnp.float32).at[ROOT].set(penalty),
        hashes=column(0, jnp.uint32, 2).at[ROOT].set(hashes),
        unit=jnp.where(has_unit, 1.0, size).astype(jnp.float32),
        key=key,
        tried=jnp.int32(0),
    )
    return update(tree, tables, verdict[None], margin[None], jnp.int32(1))


def select(tree: Tree, tables: Tables, count: Int[Array, ""], *, most: int) -> tuple[Tree, Wave]:
    """Add up to `count` of at most `most` leaves as pending nodes; fewer where no path is new."""
    before = tree.size
    words = jax.vmap(lambda node: random_words(tree.key, node))(before + jnp.arange(most))
    tree = lax.fori_loop(
        0, most, lambda i, tree: with_leaf(tree, tables, words[i], i < count), tree
    )
    nodes = jnp.minimum(before + jnp.arange(most), len(tree.parent) - 1)
    wave = Wave(
        tree.size - before,
        tree.parent[nodes],
        tree.edit[nodes],
        tree.paths[nodes],
        tree.length[nodes],
    )
    return tree, wave


def update(
    tree: Tree,
    tables: Tables,
    verdicts: Bool[Array, " C"],
    margins: Float[Array, " C"],
    count: Int[Array, ""],
) -> Tree:
    """Back up the rewards of the `count` nodes added last, in order.

    Those of margins are multiples of 1 / GRAIN: compilers differ in the last bit of a logistic, and
    sums of so many are exact. A margin that is no number, as a user's own may be, has none.
    """
    logistic = jnp.nan_to_num(jax.nn.sigmoid(margins / tree.unit))
    of_margin = jnp.round(logistic * GRAIN) / GRAIN
    rewards = jnp.where(tables.of_margin, of_margin, verdicts.astype(jnp.float32))
    first = tree.size - count

    def add(c: Array, value: Array) -> Array:
        node = first + c
        reward = rewards[c] - tree.penalty[node]
        return climbed(tree, value, jnp.where(c < count, node, NO_PARENT), reward)

    return tree._replace(value=lax.fori_loop(0, len(rewards), add, tree.value))


def is_dead(tree: Tree) -> Bool[Array, ""]:
    """Tell whether no node has a new path left."""
    return tree.closed[ROOT] & (tree.live[ROOT] == 0)


def climbed(tree: Tree, column: Array, node: Array, amount: Array) -> Array:
    """Add an amount to a node's entry of a column, and to those of its ancestors."""

    def up(state: tuple[Array, Array]) -> tuple[Array, Array]:
        column, node = state
        return column.at[node].add(amount), tree.parent[node]

    return lax.while_loop(lambda state: state[1] != NO_PARENT, up, (column, node))[0]


def with_leaf(tree: Tree, tables: Tables, words: Array, wanted: Array) -> Tree:
    """Add a leaf where one is wanted and a new path exists."""

    # what a loop carries is copied where the searches end at different times: so not the paths
    def goes_on(state: Attempt) -> Array:
        dead = state.closed[ROOT] & (state.live[ROOT] == 0)
        return wanted & ~state.drawn.found & ~dead

    def attempt(state: Attempt) -> Attempt:
        now = tree._replace(closed=state.closed, live=state.live, tried=state.tried)
        node = descend(now, tables, words)
        drawn, tried = draw(now, tables, node, words)
        closed, live = close(now, jnp.where(drawn.found, NO_PARENT, node))
        return Attempt(closed, live, tried, node, drawn)

    start = Attempt(tree.closed, tree.live, tree.tried, jnp.int32(ROOT), no_edit())
    closed, live, tried, node, drawn = lax.while_loop(goes_on, attempt, start)
    tree = tree._replace(closed=closed, live=live, tried=tried)
    return add(tree, tables, node, drawn)


def add(tree: Tree, tables: Tables, parent: Array, drawn: DrawnEdit) -> Tree:
    """Add a pending node, where one was found, and count its visit on the way up."""
    path, length = edited_row(tree.paths[parent], tree.length[parent], tables, drawn)
    hashes = prefix_hashes(path, length, tables)[-1]
    cost, penalty = shares_of_cost(path, length, tables)
    shapes = tables.shapes
    shape = drawn.shape
    edit = jnp.stack(
        [
            shapes.kind[shape],
            drawn.start,
            shapes.k[shape],
            shapes.amount[shape],
            shapes.modifier[shape],
        ]
    )
    node = jnp.where(drawn.found, tree.size, len(tree.parent))  # beyond the slots nothing is set
    one = drawn.found.astype(jnp.int32)

    def put(column: Array, value: Array) -> Array:
        return column.at[node].set(value.astype(column.dtype), mode="drop")

    tree = tree._replace(
        size=tree.size + one,
        parent=put(tree.parent, parent),
        grown=tree.grown.at[parent].add(one),
        live=tree.live.at[parent].add(one),
        edit=put(tree.edit, edit),
        paths=put(tree.paths, path),
        length=put(tree.length, length),
        cost=put(tree.cost, cost),
        penalty=put(tree.penalty, penalty),
        hashes=put(tree.hashes, hashes),
    )
    leaf = jnp.where(drawn.found, node, NO_PARENT)
    return tree._replace(visits=climbed(tree, tree.visits, leaf, jnp.int32(1)))


def descend(tree: Tree, tables: Tables, words: Array) -> Int[Array, ""]:
    """Follow the child of the best UCB until a node may have one more.

    It ends at the root as long as edits of the prior are left, however many children that has.
    UCB is Q/v + c sqrt(ln V / v) - lambda |P|/L (CoLa, section 3), here divided by c sqrt(ln V),
    which the children of a node share.
    """
    means = tree.value / jnp.maximum(tree.visits, 1) - tree.cost
    rates = tables.rates[tree.visits]
    leads_on = ~tree.closed | (tree.live > 0)
    has_prior = tree.tried < tables.prior_edits

    def goes_on(state: tuple[Array, Array]) -> Array:
        node, depth = state
        epsilon = words[depth % DEPTHS] >> 1 < tables.epsilon
        expands = (tree.grown[node] < tables.children[tree.visits[node]]) | epsilon
        return ~has_prior & (tree.live[node] > 0) & (tree.closed[node] | ~expands)

    def follow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        node, depth = state
        weight = tables.exploration[tree.visits[jnp.where(tables.whole, ROOT, node)]]
        explores = weight > 0
        scores = means / jnp.where(explores, weight, 1) + jnp.where(explores, rates, 0)
        children = (tree.parent == node) & leads_on
        best = jnp.argmax(jnp.where(children, scores, -jnp.inf)).astype(jnp.int32)
        return best, depth + 1

    return lax.while_loop(goes_on, follow, (jnp.int32(ROOT), jnp.int32(0)))[0]


def close(tree: Tree, node: Array) -> tuple[Array, Array]:
    """Record that no edit of a node makes a new path; those above it may be dead with it.

    The tree only grows, so such a node never has one again. Returns `closed` and `live`.
    """
    one = (node != NO_PARENT).astype(jnp.int32)
    index = jnp.where(one, node, len(tree.closed))
    closed = tree.closed.at[index].set(True, mode="drop")

    def is_lost(state: tuple[Array, Array]) -> Array:
        live, node = state
        return (node > ROOT) & closed[node] & (live[node] == 0)

    def bury(state: tuple[Array, Array]) -> tuple[Array, Array]:
        live, node = state
        parent = tree.parent[node]
        return live.at[parent].add(-1), parent

    return closed, lax.while_loop(is_lost, bury, (tree.live, node))[0]


def shares_of_cost(path: Array, length: Array, tables: Tables) -> tuple[Array, Array]:
    """Return what a path's cost takes from its UCB and from its reward."""
    cost = sum_over_steps(tables.costs, path, length)
    share = cost.astype(jnp.float32) / tables.total_cost.astype(jnp.float32)
    return share * tables.length_weight, share * tables.length_penalty


def sum_over_steps(
    table: Int[Values, "3 P"], path: Int[Array, " P"], length: Int[Array, ""]
) -> Int[Array, ""]:
    """Sum the entries of a path's steps, of whole layers, of attentions and of MLPs."""
    inside = jnp.arange(len(path)) < length
    step = jnp.where(inside, path, 0)
    return jnp.where(inside, table[part_of(step), layer_of(step)], 0).sum()


@functools.partial(jax.jit, static_argnames="most", donate_argnames="trees")
def grow(trees: Tree, tables: Tables, counts: Int[Array, " S"], *, most: int) -> tuple[Tree, Wave]:
    """Add up to `counts` leaves to each of S trees, in their places; see `select`."""
    return jax.vmap(lambda tree, count: select(tree, tables, count, most=most))(trees, counts)


@functools.partial(jax.jit, donate_argnames="trees")
def back_up(
    trees: Tree,
    tables: Tables,
    verdicts: Bool[Array, "S C"],
    margins: Float[Array, "S C"],
    counts: Int[Array, " S"],
) -> Tree:
    """Back up the nodes added last to each of S trees, in their places; see `update`."""
    return jax.vmap(update, in_axes=(0, None, 0, 0, 0))(trees, tables, verdicts, margins, counts)


@jax.jit
def plant_all(
    tables: Tables,
    keys: UInt[Array, "S 2"],
    num_layers: Int[Array, ""],
    verdicts: Bool[Array, " S"],
    margins: Float[Array, " S"],
    in_nats: Bool[Array, " S"],
) -> Tree:
    """Plant S trees; see `plant`."""
    of_search = (None, 0, None, 0, 0, 0)
    return jax.vmap(plant, in_axes=of_search)(tables, keys, num_layers, verdicts, margins, in_nats)


def enlarged(trees: Tree, nodes: int) -> Tree:
    """Return S trees with slots for more nodes."""
    columns = {}
    for name, column in trees._asdict().items():
        if name not in OF_SEARCH:
            more = [(0, nodes - column.shape[1] if axis == 1 else 0) for axis in range(column.ndim)]
            fill = NO_PARENT if name == "parent" else 0
            columns[name] = jnp.pad(column, more, constant_values=fill)
    return trees._replace(**columns)

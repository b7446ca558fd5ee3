"""Drawing an edit of a node's path that makes a new path of its tree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, UInt

from cola_jax.path import MOVE, REPEAT, SKIP, STOP
from cola_jax.steps import WHOLE, layer_of, modifier_of, part_of, with_modifier
from cola_jax.strategies.outcome import ROOT
from cola_jax.strategies.tree import BASES, NONE, Shapes, Tables, Tree, Values

KINDS = 3
DRAWS = 16  # edits that are drawn before all are looked at
CHUNK = 32  # edits that are looked at together
WORDS = 128  # random words of a node
DEPTHS = 64  # words that end descents, one for each depth
KIND_WORD = DEPTHS  # the first of those that draw kinds of edits
ANY_WORD = KIND_WORD + KINDS  # the first of those that draw among all new edits of a kind
DRAW_WORD = 80  # the first of those that draw edits, DRAWS of each kind


class DrawnEdit(NamedTuple):
    """An edit of a node's path that makes a new path, where one was found."""

    found: Bool[Array, ""]
    shape: Int[Array, ""]
    start: Int[Array, ""]


def no_edit() -> DrawnEdit:
    """Return an edit that was not found."""
    return DrawnEdit(jnp.bool_(False), jnp.int32(0), jnp.int32(0))


class Parent(NamedTuple):
    """A node whose edits are drawn."""

    path: Int[Array, " P"]
    length: Int[Array, ""]
    prefixes: UInt[Array, "P+1 2"]  # hashes of its first 0, 1, ..., P steps
    modified: UInt[Array, "G P+1 2"]  # likewise, of the path all of whose steps have a modifier
    first: Int[Array, " F"]  # the first start of each shape
    starts: Int[Array, " F"]  # their number


def random_words(key: UInt[Array, "2"], node: Int[Array, ""]) -> UInt[Array, " W"]:
    """Return the random words of a node, whatever a user's defaults are."""
    with jax.threefry_partitionable(True):
        typed = jax.random.wrap_key_data(key, impl="threefry2x32")
        return jax.random.bits(jax.random.fold_in(typed, node), (WORDS,), jnp.uint32)


def number_below(word: UInt[Array, ""], count: Array) -> Int[Array, ""]:
    """Return floor(word * count / 2**32), a number below `count` < 2**31 drawn evenly."""
    half = jnp.uint32(16)
    mask = jnp.uint32(2**16 - 1)
    count = count.astype(jnp.uint32)
    low = (word & mask) * (count & mask)
    middle = (word >> half) * (count & mask) + (low >> half)
    other = (word & mask) * (count >> half) + (middle & mask)
    high = (word >> half) * (count >> half) + (middle >> half) + (other >> half)
    return high.astype(jnp.int32)


def draw(tree: Tree, tables: Tables, node: Array, words: Array) -> tuple[DrawnEdit, Array]:
    """Draw an edit of a node's path that makes a new path of the tree.

    The kind is drawn first and evenly, then the edit among those of its kind: there are four times
    as many repeats as skips, and drawing from all would hardly try a skip. At the root the edits of
    the prior come before all others. Returns the edit, and how many of those were tried.
    """
    parent = parent_of(tree, tables, node)

    def has_prior(state: tuple[DrawnEdit, Array]) -> Array:
        drawn, tried = state
        return ~drawn.found & (node == ROOT) & (tried < tables.prior_edits)

    def try_prior(state: tuple[DrawnEdit, Array]) -> tuple[DrawnEdit, Array]:
        _, tried = state
        shape, start = tables.prior[tried]
        place = start - parent.first[shape]
        fits = (place >= 0) & (place < parent.starts[shape])
        (new,) = are_new(tree, tables, parent, shape[None], start[None])
        return DrawnEdit(fits & new, shape, start), tried + 1

    drawn, tried = lax.while_loop(has_prior, try_prior, (no_edit(), tree.tried))
    weights = tables.shapes.weight * parent.starts.astype(jnp.uint32)
    of_kind = tables.shapes.kind == jnp.arange(KINDS)[:, None]
    kinds = (of_kind & (weights > 0)).any(axis=1)

    def has_kind(state: tuple[DrawnEdit, Array, Array]) -> Array:
        drawn, kinds, _ = state
        return ~drawn.found & kinds.any()

    def try_kind(state: tuple[DrawnEdit, Array, Array]) -> tuple[DrawnEdit, Array, Array]:
        _, kinds, attempt = state
        place = number_below(words[KIND_WORD + attempt], kinds.sum())
        kind = jnp.argmax(jnp.cumsum(kinds) > place).astype(jnp.int32)
        own = jnp.where(tables.shapes.kind == kind, weights, 0)
        first = DRAW_WORD + DRAWS * attempt
        drawn = draw_of_kind(
            tree, tables, parent, own, lax.dynamic_slice(words, (first,), (DRAWS,))
        )
        drawn = draw_of_all(tree, tables, parent, kind, drawn, words[ANY_WORD + attempt])
        return drawn, kinds.at[kind].set(False), attempt + 1

    drawn, _, _ = lax.while_loop(has_kind, try_kind, (drawn, kinds, jnp.int32(0)))
    return drawn, tried


def parent_of(tree: Tree, tables: Tables, node: Array) -> Parent:
    """Find which starts of every shape fit the path of a node."""
    shapes = tables.shapes
    path = tree.paths[node]
    length = tree.length[node]
    moves = jnp.where(shapes.kind == MOVE, shapes.amount, 0)
    after = (
        length
        - jnp.where((shapes.kind == SKIP) & (shapes.modifier == 0), shapes.k, 0)
        + jnp.where(shapes.kind == REPEAT, shapes.k * shapes.amount, 0)
    )
    allowed = (after >= tables.shortest) & ((after <= tables.longest) | (after < length))
    allowed &= (node == ROOT) | (shapes.k <= tables.deep_block)
    allowed &= shapes.k > 0
    first = jnp.maximum(-moves, jnp.where(tables.ordered, tree.edit[node, 1], 0))
    last = length - shapes.k - jnp.maximum(moves, 0)
    starts = jnp.where(allowed, jnp.maximum(last - first + 1, 0), 0)
    prefixes = prefix_hashes(path, length, tables)
    return Parent(path, length, prefixes, modified_hashes(path, length, tables), first, starts)


def draw_of_kind(
    tree: Tree, tables: Tables, parent: Parent, weights: Array, words: UInt[Array, " T"]
) -> DrawnEdit:
    """Draw edits by weights [F] of their shapes, each as often as it has starts: the first new one.

    Where none of the T drawn ones is new, few or no edits are.
    """
    sums = jnp.cumsum(weights).astype(jnp.int32)
    number = jax.vmap(number_below, in_axes=(0, None))(words, sums[-1])
    shape = place_in(sums, number)
    before = sums[shape] - weights[shape].astype(jnp.int32)
    weight = jnp.maximum(tables.shapes.weight[shape].astype(jnp.int32), 1)
    start = parent.first[shape] + (number - before) // weight
    new = are_new(tree, tables, parent, shape, start)
    first = jnp.argmax(new)
    return DrawnEdit(new[first], shape[first], start[first])


def draw_of_all(
    tree: Tree, tables: Tables, parent: Parent, kind: Array, drawn: DrawnEdit, word: Array
) -> DrawnEdit:
    """Draw among all new edits of a kind, unless one was found: one is as likely as by chance."""
    shapes = tables.shapes
    starts = jnp.where(shapes.kind == kind, parent.starts, 0)
    ends = jnp.cumsum(starts)  # of the edits of each shape, in a list of all
    chunks = -(-len(shapes.k) * len(tables.powers) // CHUNK)

    def look(chunk: Array) -> tuple[Array, Array, Array]:
        """Return shapes and starts of a chunk of edits, and their weights, of new ones alone."""
        number = chunk * CHUNK + jnp.arange(CHUNK)
        shape = place_in(ends, number)
        start = parent.first[shape] + number - ends[shape] + starts[shape]
        new = are_new(tree, tables, parent, shape, start) & (number < ends[-1])
        return shape, start, jnp.where(new, shapes.weight[shape].astype(jnp.int32), 0)

    def is_left(state: tuple[Array, Array]) -> Array:
        return ~drawn.found & (state[1] * CHUNK < ends[-1])

    def add_up(state: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, chunk = state
        return weights.at[chunk].set(look(chunk)[2].sum()), chunk + 1

    start = (jnp.zeros(chunks, jnp.int32), jnp.int32(0))
    weights, _ = lax.while_loop(is_left, add_up, start)
    sums = jnp.cumsum(weights)

    def is_wanted(state: tuple[DrawnEdit, Array]) -> Array:
        return state[1]

    def take(state: tuple[DrawnEdit, Array]) -> tuple[DrawnEdit, Array]:
        number = number_below(word, sums[-1])
        chunk = place_in(sums, number)
        shape, start, weight = look(chunk)
        chosen = place_in(jnp.cumsum(weight), number - sums[chunk] + weights[chunk])
        return DrawnEdit(jnp.bool_(True), shape[chosen], start[chosen]), jnp.bool_(False)

    return lax.while_loop(is_wanted, take, (drawn, sums[-1] > 0))[0]


def place_in(sums: Int[Array, " N"], number: Array) -> Array:
    """Return the first place whose sum is above a number, the last place where none is."""
    place = (sums <= jnp.expand_dims(number, -1)).sum(axis=-1)
    return jnp.minimum(place, len(sums) - 1).astype(jnp.int32)


def are_new(
    tree: Tree,
    tables: Tables,
    parent: Parent,
    shapes: Int[Array, " K"],
    starts: Int[Array, " K"],
) -> Bool[Array, " K"]:
    """Tell which edits that fit make paths that are allowed, and not among those of the tree.

    A path is known by its two hashes: the chance that another path is taken for one of a tree of
    thousands is below 1e-15.
    """
    hashes = child_hashes(tables, parent, shapes, starts)
    present = jnp.arange(len(tree.parent)) < tree.size
    first = hashes[:, :1] == tree.hashes[:, 0]
    second = hashes[:, 1:] == tree.hashes[:, 1]
    known = (first & second & present).any(axis=1)
    fits = runs_fit(tables, parent, shapes, starts) & parts_fit(tables, parent, shapes, starts)
    return ~known & fits


def child_hashes(
    tables: Tables, parent: Parent, shapes: Int[Array, " K"], starts: Int[Array, " K"]
) -> UInt[Array, "K 2"]:
    """Return the hashes of edited paths, from those of the parent's prefixes."""
    shape = Shapes(*(column[shapes] for column in tables.shapes))
    kind, k, amount = shape.kind, shape.k, shape.amount
    moved = jnp.where(kind == MOVE, amount, 0)

    def prefix(end: Array) -> Array:
        return parent.prefixes[jnp.clip(end, 0, len(parent.prefixes) - 1)]

    first = prefix(starts + jnp.minimum(moved, 0))
    last = prefix(starts + k + jnp.maximum(moved, 0))
    passed_later = prefix(starts) - first
    passed_earlier = last - prefix(starts + k)
    hashes = (
        first
        + passed_later * shape.later
        + (prefix(starts + k) - prefix(starts)) * shape.block
        + passed_earlier * shape.earlier
        + (parent.prefixes[-1] - last) * shape.after
    )
    if not len(tables.modifiers):
        return hashes
    first, last = (
        parent.modified[shape.modifier_place, jnp.minimum(end, len(parent.path))]
        for end in (starts, starts + k)
    )
    return hashes + (last - first) * shape.modified


def prefix_hashes(path: Array, length: Array, tables: Tables) -> UInt[Array, "P+1 2"]:
    """Return the hashes of the first 0, 1, ..., P steps of a path."""
    layers = tables.layers[jnp.minimum(layer_of(path), len(path) - 1)]
    steps = layers + hash_of_modifier(modifier_of(path))
    inside = jnp.arange(len(path))[:, None] < length
    sums = jnp.cumsum(jnp.where(inside, steps * tables.powers, 0), axis=0, dtype=jnp.uint32)
    return jnp.concatenate([jnp.zeros((1, 2), jnp.uint32), sums])


def modified_hashes(path: Array, length: Array, tables: Tables) -> UInt[Array, "G P+1 2"]:
    """Return `prefix_hashes` of a path whose steps all have a modifier, for each of G."""
    if not len(tables.modifiers):
        return jnp.zeros((0, len(path) + 1, 2), jnp.uint32)

    def hashes(modifier: Values) -> Array:
        return prefix_hashes(with_modifier(path, modifier), length, tables)

    return jax.vmap(hashes)(tables.modifiers)


def hash_of_modifier(modifier: Int[Array, " P"]) -> UInt[Array, "P 2"]:
    """Return the hashes of modifiers, by the finalizer of MurmurHash3; 0 for 0, of whole layers."""
    x = modifier.astype(jnp.uint32)[:, None] * BASES
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ x >> jnp.uint32(shift)) * jnp.uint32(factor)
    return x ^ x >> jnp.uint32(16)


def parts_fit(
    tables: Tables, parent: Parent, shapes: Int[Array, " K"], starts: Int[Array, " K"]
) -> Bool[Array, " K"]:
    """Tell which edits skip no part of a step that has lost one."""
    if not len(tables.modifiers):
        return jnp.ones(len(starts), bool)
    inside = jnp.arange(len(parent.path)) < parent.length
    lost = jnp.cumsum((part_of(parent.path) != WHOLE) & inside)
    before = jnp.concatenate([jnp.zeros(1, lost.dtype), lost])
    ends = jnp.minimum(starts + tables.shapes.k[shapes], len(parent.path))
    is_part = part_of(tables.shapes.modifier[shapes]) != WHOLE
    return ~is_part | (before[ends] == before[jnp.minimum(starts, len(parent.path))])


def runs_fit(
    tables: Tables, parent: Parent, shapes: Int[Array, " K"], starts: Int[Array, " K"]
) -> Bool[Array, " K"]:
    """Tell after which edits no layer runs more than `max_runs` times, whole or in parts.

    Repeats alone add runs.
    """

    def count() -> Array:
        place = jnp.arange(len(parent.path))
        inside = place < parent.length
        layers = layer_of(parent.path)
        same = (layers == layers[:, None]) & inside & inside[:, None]
        sums = jnp.pad(jnp.cumsum(same, axis=1), ((0, 0), (1, 0)))  # [P, P + 1]
        ends = jnp.minimum(starts + tables.shapes.k[shapes], len(place))
        is_repeat = tables.shapes.kind[shapes] == REPEAT
        extra = jnp.where(is_repeat, tables.shapes.amount[shapes], 0)
        runs = sums[:, -1:] + extra * (sums[:, ends] - sums[:, starts])  # [P, K]
        in_block = (place[:, None] >= starts) & (place[:, None] < ends)
        return ~(in_block & (runs > tables.max_runs)).any(axis=0)

    return lax.cond(tables.max_runs < NONE, count, lambda: jnp.ones(len(starts), bool))


def edited_row(path: Array, length: Array, tables: Tables, drawn: DrawnEdit) -> tuple[Array, Array]:
    """Apply an edit to a padded path [P]; returns the new path and its length."""
    shapes = tables.shapes
    kind = shapes.kind[drawn.shape]
    k = shapes.k[drawn.shape]
    amount = shapes.amount[drawn.shape]
    modifier = shapes.modifier[drawn.shape]
    start = drawn.start
    place = jnp.arange(len(path))
    gone = jnp.where(modifier == 0, k, 0)  # of a skip; with a modifier, the block stays
    skipped = jnp.where(place < start, place, place + gone)
    end = start + k * (amount + 1)
    within = start + (place - start) % jnp.maximum(k, 1)
    repeated = jnp.where(place < start, place, jnp.where(place < end, within, place - k * amount))
    is_block = (place >= start + amount) & (place < start + amount + k)
    passed_up = (place >= start) & (place < start + amount)
    passed_down = (place >= start + amount + k) & (place < start + k)
    others = place + jnp.where(passed_up, k, 0) - jnp.where(passed_down, k, 0)
    moved = jnp.where(is_block, place - amount, others)
    source = jnp.where(kind == SKIP, skipped, jnp.where(kind == REPEAT, repeated, moved))
    after = length + jnp.where(kind == SKIP, -gone, jnp.where(kind == REPEAT, k * amount, 0))
    steps = path[jnp.clip(source, 0, len(path) - 1)]
    # all of a block that is skipped, or the extra runs of one that is repeated
    changed = (place >= start + jnp.where(kind == REPEAT, k, 0)) & (place < end)
    steps = jnp.where(changed, with_modifier(steps, modifier), steps)
    return jnp.where(place < after, steps, STOP), after

"""`Tree`: the tree of a search as arrays; and `Tables`: the rules of searches, made by NumPy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import MOVE, REPEAT, SKIP, Edit, edit_table
from cola_jax.steps import WHOLE
from cola_jax.strategies.rules import Rules, TreeRules

Values = np.ndarray | Array

BASES = np.array([0x9E3779B5, 0x85EBCA7B], np.uint32)  # of the hashes of paths; odd
MOST_WEIGHT = 2**31 - 1  # of all edits of a path
FINEST = 2**12  # weight of an edit
NONE = 2**30  # in the place of a limit that a search does not have
LEAST_NODES = 64
# that sizes are rounded to
MULTIPLES = {"positions": 16, "shapes": 32, "modifiers": 4, "prior": 16, "leaves": 16}
UNIT = 2**12  # of the length of a layer


class Shapes(NamedTuple):
    """The edits of a search without their starts [F], in the order of `edit_table`.

    The hash of a path is the sum of a step's hash * base ** position, so that of an edited path is
    made of prefixes: its block and the steps after it are multiplied. So is the block with a
    modifier, of the prefixes of a path whose steps all have it.
    """

    kind: Int[Values, " F"]
    k: Int[Values, " F"]
    amount: Int[Values, " F"]
    modifier: Int[Values, " F"]
    weight: UInt[Values, " F"]  # of each start; 0 of those that are not drawn
    modifier_place: Int[Values, " F"]  # in `Tables.modifiers`
    block: UInt[Values, "F 2"]
    modified: UInt[Values, "F 2"]
    after: UInt[Values, "F 2"]
    later: UInt[Values, "F 2"]  # steps that the block has passed, which run k positions later
    earlier: UInt[Values, "F 2"]


class Tables(NamedTuple):
    """The rules of a search and what follows from them; all searches share them."""

    shapes: Shapes
    powers: UInt[Values, "P 2"]  # of the bases
    layers: UInt[Values, "P 2"]  # hashes of layers
    modifiers: Int[Values, " G"]  # of edits, each once, without 0; none where all are 0
    children: Int[Values, " M+1"]  # the most children of a node, by its visits
    exploration: Float[Values, " M+1"]  # c * sqrt(ln V), by V
    rates: Float[Values, " M+1"]  # 1 / sqrt(v), by v
    costs: Int[Values, "3 P"]  # of the layers, whole, of their attention, and of their MLP
    lengths: Int[Values, "3 P"]  # likewise, in units of 1 / UNIT of a layer
    total_cost: Int[Values, ""]
    length_weight: Float[Values, ""]
    length_penalty: Float[Values, ""]
    epsilon: UInt[Values, ""]  # in units of 2**-31
    shortest: Int[Values, ""]
    longest: Int[Values, ""]
    deep_block: Int[Values, ""]
    max_runs: Int[Values, ""]
    whole: Bool[Values, ""]  # V counts the visits of the whole tree
    of_margin: Bool[Values, ""]  # the reward is the margin's
    ordered: Bool[Values, ""]
    prior: Int[Values, "R 2"]  # shapes and starts of the edits tried first
    prior_edits: Int[Values, ""]  # their number


class Tree(NamedTuple):
    """The tree of one search, with M slots for nodes and paths of up to P steps."""

    size: Int[Array, ""]  # nodes so far
    visits: Int[Array, " M"]  # evaluations at and below the node, pending ones included
    value: Float[Array, " M"]  # sum of rewards at and below the node
    parent: Int[Array, " M"]
    grown: Int[Array, " M"]  # the number of its children
    live: Int[Array, " M"]  # those that may still lead to new paths
    closed: Bool[Array, " M"]  # no edit makes a new path
    edit: Int[Array, "M 5"]  # from the parent: kind, start, k, amount and modifier
    paths: Int[Array, "M P"]  # ids of steps, padded with -1
    length: Int[Array, " M"]  # steps
    cost: Float[Array, " M"]  # lambda |P| / L
    penalty: Float[Array, " M"]  # subtracted from the reward
    hashes: UInt[Array, "M 2"]
    unit: Float[Array, ""]  # of margins
    key: UInt[Array, "2"]
    tried: Int[Array, ""]  # edits of the prior that were tried


def tables_of(
    rules: TreeRules,
    num_layers: int,
    costs: LayerCosts,
    nodes: int,
    prior: Sequence[Sequence[int]] = (),
) -> Tables:
    """Make the tables of searches with these rules, as NumPy arrays.

    Args:
      costs: of the layers.
      nodes: of a tree at most; M is the next power of two.
      prior: edits [R] that are tried first at the root, whether or not the rules have them.
    """
    shortest, longest = rules.lengths(num_layers)
    positions = rounded_up(max(num_layers, longest), MULTIPLES["positions"])
    slots = max(LEAST_NODES, 1 << (nodes - 1).bit_length())
    shapes = edit_shapes(rules, max(num_layers, longest), positions, prior)
    visits = np.arange(1, slots + 1, dtype=float)
    children = np.ceil(rules.widening * visits**rules.widening_power)
    step_costs = zero_padded(costs_of(costs, positions), positions).T
    tried = prior_of(prior, shapes)
    return Tables(
        shapes=shapes,
        powers=powers_of(positions),
        layers=np.random.SeedSequence(0).generate_state(2 * positions).reshape(-1, 2),
        modifiers=modifiers_of(shapes),
        children=np.append(NONE, np.minimum(children, NONE)).astype(np.int32),
        exploration=np.append(0, rules.exploration * np.sqrt(np.log(visits))).astype(np.float32),
        rates=np.append(0, 1 / np.sqrt(visits)).astype(np.float32),
        costs=step_costs,
        lengths=zero_padded(lengths_of(costs), positions).T,
        total_cost=np.array(step_costs[WHOLE].sum(), np.int32),
        length_weight=np.array(rules.length_weight, np.float32),
        length_penalty=np.array(rules.length_penalty, np.float32),
        epsilon=np.array(round(rules.epsilon * 2**31), np.uint32),
        shortest=np.array(shortest, np.int32),
        longest=np.array(longest, np.int32),
        deep_block=np.array(min(rules.deep_block or NONE, NONE), np.int32),
        max_runs=np.array(min(rules.max_runs or NONE, NONE), np.int32),
        whole=np.array(rules.visits == "tree", np.bool_),
        of_margin=np.array(rules.reward == "margin", np.bool_),
        ordered=np.array(rules.ordered, np.bool_),
        prior=zero_padded(tried, rounded_up(len(tried), MULTIPLES["prior"])),
        prior_edits=np.array(len(tried), np.int32),
    )


def edit_shapes(
    rules: TreeRules, longest: int, positions: int, prior: Sequence[Sequence[int]]
) -> Shapes:
    """List the shapes of the edits of a search, with weights in proportion to k ** block_power.

    Those that the prior alone has come last, and are never drawn.
    """
    edits = edits_of(rules, longest)
    first = edits.start == 0
    columns = (edits.kind, edits.k, edits.amount, edits.modifier)
    drawn = np.stack(columns, axis=1)[first].tolist()
    others = [[e.kind, e.k, e.amount, e.modifier] for e in (Edit(*edit) for edit in prior)]
    others = [shape for shape in others if shape not in drawn]
    kind, k, amount, modifier = np.array(drawn + others, np.int32).reshape(-1, 4).T
    weight = np.zeros(len(k), np.uint32)
    weight[: len(drawn)] = edit_weights(k[: len(drawn)], rules.block_power, positions)
    up = np.stack([power_of(BASES, int(size)) for size in k])
    down = np.stack([power_of(inverse_of(BASES), int(size)) for size in k])
    block = np.zeros_like(up)
    modified = np.zeros_like(up)
    after = np.ones_like(up)
    for f, (each, size, extra) in enumerate(zip(kind, k, amount, strict=True)):
        if each == SKIP and modifier[f]:
            modified[f] = 1
        elif each == SKIP:
            after[f] = down[f]
        elif each == REPEAT:
            runs = [power_of(BASES, int(size) * run) for run in range(extra + 1)]
            plain = runs[:1] if modifier[f] else runs
            block[f] = np.sum(plain, axis=0, dtype=np.uint32)
            modified[f] = np.sum(runs[len(plain) :], axis=0, dtype=np.uint32)
            after[f] = runs[-1]
        else:
            bases = BASES if extra > 0 else inverse_of(BASES)
            block[f] = power_of(bases, abs(int(extra)))
    place = np.searchsorted(np.unique(modifier[modifier > 0]), modifier).astype(np.int32)
    columns = (kind, k, amount, modifier, weight, place, block, modified, after, up, down)
    size = rounded_up(len(k), MULTIPLES["shapes"])
    return Shapes(*(zero_padded(column, size) for column in columns))


def modifiers_of(shapes: Shapes) -> np.ndarray:
    """List the modifiers of shapes, each once; none where all are of whole layers."""
    modifiers = np.unique(shapes.modifier[shapes.modifier > 0])
    if not len(modifiers):
        return modifiers
    return zero_padded(modifiers, rounded_up(len(modifiers), MULTIPLES["modifiers"]))


def costs_of(costs: LayerCosts, positions: int) -> np.ndarray:
    """Return the costs of each layer, whole, of its attention and of its MLP, [L, 3].

    As integers, whose sums have no order: in units of 1 / UNIT where each layer costs 1, and of
    milliseconds to some 2**-20 of the largest.
    """
    table = np.column_stack([costs.of_layer, costs.of_parts])
    unit = 1 / UNIT if costs.milliseconds is None else table.max() / (NONE // positions)
    return np.maximum(np.rint(table / unit), 1).astype(np.int32)


def lengths_of(costs: LayerCosts) -> np.ndarray:
    """Return the length of each layer, whole, of its attention and of its MLP, [L, 3]."""
    parts = np.array(costs.of_parts) / np.array(costs.of_layer)[:, None]
    whole = np.ones((costs.num_layers, 1))
    return np.rint(np.column_stack([whole, parts]) * UNIT).astype(np.int32)


def edit_weights(k: np.ndarray, power: float, positions: int) -> np.ndarray:
    """Return whole numbers in proportion to k ** power, at least 1; a model may be too small."""
    if not len(k):
        return k
    weights = k ** float(power)
    finest = 1 if power == 0 else FINEST
    scale = min(finest / weights.max(), MOST_WEIGHT / (2 * positions * weights.sum()))
    return np.maximum(np.rint(weights * scale), 1)


def edits_of(rules: Rules, positions: int) -> Edit:
    """List the edits of a search, as `edit_table`."""
    sizes = rules.max_skip, rules.max_repeat, rules.max_times, rules.max_move, rules.max_move_block
    table = edit_table(positions, *sizes, parts=rules.parts, shares=rules.shares)
    whole = (table.k % rules.block_multiple == 0) & (
        (table.kind != MOVE) | (table.amount % rules.block_multiple == 0)
    )
    return Edit(*(column[whole] for column in table))


def prior_of(edits: Sequence[Sequence[int]], shapes: Shapes) -> np.ndarray:
    """Return the shapes and the starts [R, 2] of edits."""
    columns = (shapes.kind, shapes.k, shapes.amount, shapes.modifier)
    numbers: dict[tuple[int, ...], int] = {}
    for f, shape in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        numbers.setdefault(shape, f)
    rows = [
        (numbers[edit.kind, edit.k, edit.amount, edit.modifier], edit.start)
        for edit in (Edit(*edit) for edit in edits)
    ]
    return np.array(rows, np.int32).reshape(-1, 2)


def rounded_up(size: int, multiple: int) -> int:
    """Round a size up to a multiple, at least one of them."""
    return max(1, -(-size // multiple)) * multiple


def zero_padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Pad an array with zeros to a number of rows."""
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


def powers_of(positions: int) -> np.ndarray:
    """Return the powers of the bases, [positions, 2]."""
    return np.stack([power_of(BASES, position) for position in range(positions)])


def power_of(bases: np.ndarray, exponent: int) -> np.ndarray:
    """Return powers modulo 2**32."""
    return np.array([pow(int(base), exponent, 2**32) for base in bases], np.uint32)


def inverse_of(bases: np.ndarray) -> np.ndarray:
    """Return inverses modulo 2**32."""
    return np.array([pow(int(base), -1, 2**32) for base in bases], np.uint32)

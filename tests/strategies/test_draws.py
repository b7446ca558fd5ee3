"""Edits are drawn from those that make new paths, in proportion to their weights."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import (
    KINDS,
    MOVE,
    STOP,
    Edit,
    LayerPath,
    edited,
    edits_fit,
    identity,
    parse_path,
)
from cola_jax.question import random_of
from cola_jax.steps import layer_of
from cola_jax.strategies import draws, mcts
from cola_jax.strategies.draws import WORDS
from cola_jax.strategies.outcome import ROOT
from cola_jax.strategies.rules import PRESETS, TreeRules
from cola_jax.strategies.tree import Tables, edits_of, tables_of

LAYERS = 6
PATHS = [identity(LAYERS), (0, 1, 2, 1, 2, 3, 4, 5)]
draw = jax.jit(jax.vmap(draws.draw, in_axes=(None, None, None, 0)))
MOVES = dataclasses.replace(PRESETS["cola"], max_move=2, max_move_block=3)
STEPS = dataclasses.replace(PRESETS["cola"], max_times=2, parts=True, shares=(0.5, 1.25))
OF_STEPS = parse_path("0,1*0.25,2,1a,2,3*0.5,4m,5", LAYERS)


@pytest.mark.parametrize("count", [1, 3, 1000, 2**31 - 1])
def test_number_below_is_exact(count):
    words = np.random.default_rng(0).integers(0, 2**32, 1000).astype(np.uint32)
    words[:2] = 0, 2**32 - 1
    chosen = jax.vmap(draws.number_below, in_axes=(0, None))(words, jnp.int32(count))
    assert chosen.tolist() == [int(word) * count >> 32 for word in words]


def tables_and_edits(rules: TreeRules) -> tuple[Tables, np.ndarray]:
    tables = jax.tree.map(jnp.asarray, tables_of(rules, LAYERS, LayerCosts(LAYERS), 1000))
    return tables, np.stack(edits_of(rules, 2 * LAYERS), axis=1)


def padded(path: LayerPath, tables: Tables) -> jax.Array:
    row = np.full(len(tables.powers), STOP)
    row[: len(path)] = path
    return jnp.array(row)


def hash_of(path: LayerPath, tables: Tables) -> jax.Array:
    return draws.prefix_hashes(padded(path, tables), jnp.int32(len(path)), tables)[-1]


@pytest.mark.parametrize(
    ("rules", "path"), [(MOVES, PATHS[1]), (STEPS, PATHS[1]), (STEPS, OF_STEPS)]
)
def test_hashes_and_edits_on_the_device_are_those_of_paths(rules, path):
    """Of every edit of a path with repeats, by the edited path itself."""
    tables, edits = tables_and_edits(rules)
    shapes = {
        shape: f
        for f, shape in enumerate(
            zip(*map(np.ndarray.tolist, map(np.asarray, tables.shapes[:4])), strict=True)
        )
    }
    fits = edits[edits_fit(path, Edit(*edits.T), 1, 2 * LAYERS)]
    place = jnp.array(
        [shapes[kind, k, amount, modifier] for kind, _, k, amount, modifier in fits.tolist()]
    )
    starts = jnp.array(fits[:, 1])
    row, length = padded(path, tables), jnp.int32(len(path))
    prefixes = draws.prefix_hashes(row, length, tables)
    none = jnp.zeros(len(tables.shapes.k), jnp.int32)
    parent = draws.Parent(
        row, length, prefixes, draws.modified_hashes(row, length, tables), none, none
    )
    hashes = draws.child_hashes(tables, parent, place, starts)
    for f, start, edit, ours in zip(place, starts, fits.tolist(), hashes, strict=True):
        child = edited(path, edit)
        assert ours.tolist() == hash_of(child, tables).tolist()
        drawn = draws.DrawnEdit(jnp.bool_(True), f, start)
        row, length = draws.edited_row(parent.path, parent.length, tables, drawn)
        assert tuple(row[:length].tolist()) == child
        assert row[length:].tolist() == [STOP] * (len(row) - int(length))
    is_part = draws.parts_fit(tables, parent, *(jnp.array(x) for x in every_shape(edits, shapes)))
    inside = (edits[:, 0] != MOVE) & (edits[:, 1] + edits[:, 2] <= len(path))
    expected = (edits[:, 0] != MOVE) & edits_fit(path, Edit(*edits.T), 0, 10 * LAYERS)
    np.testing.assert_array_equal(np.asarray(is_part) & inside, expected)


def every_shape(edits: np.ndarray, shapes: dict) -> tuple[list[int], list[int]]:
    """The shapes and the starts of edits."""
    rows = edits.tolist()
    return [shapes[kind, k, amount, modifier] for kind, _, k, amount, modifier in rows], [
        start for _, start, *_ in rows
    ]


def chances(rules: TreeRules, node: int, known: set[LayerPath]) -> dict[tuple[int, ...], float]:
    """The chance of each edit of a node's path, by looking at all of them."""
    path = PATHS[node]
    edits = edits_of(rules, 2 * LAYERS)
    fits = edits_fit(path, edits, *rules.lengths(LAYERS))
    weights: dict[int, dict[tuple[int, ...], float]] = {kind: {} for kind in range(len(KINDS))}
    for edit in np.stack(edits, axis=1)[fits].tolist():
        kind, start, k, *_ = edit
        child = edited(path, edit)
        if (
            child not in known
            and not (rules.ordered and node != ROOT and start < 2)
            and not (rules.deep_block and node != ROOT and k > rules.deep_block)
            and max(Counter(map(layer_of, child)).values()) <= (rules.max_runs or len(child))
        ):
            weights[kind][tuple(edit)] = k**rules.block_power
    kinds = [of_kind for of_kind in weights.values() if of_kind]
    return {
        edit: weight / sum(of_kind.values()) / len(kinds)
        for of_kind in kinds
        for edit, weight in of_kind.items()
    }


@pytest.mark.parametrize(("node", "share"), [(ROOT, 0.3), (1, 0.3), (1, 0.97)])
@pytest.mark.parametrize(
    "rules",
    [*(PRESETS[name] for name in ("best", "cola", "polar", "drllm")), MOVES, STEPS],
    ids=["best", "cola", "polar", "drllm", "moves", "steps"],
)
def test_edits_are_drawn_from_those_that_are_new(rules, node, share):
    """In proportion to their weights, the kind first, over many random words."""
    tables, _ = tables_and_edits(rules)
    edits = list(chances(rules, node, set(PATHS)))
    chosen = random_of(1).permutation(len(edits))[: min(int(share * len(edits)), len(edits) - 3)]
    known = [*PATHS, *dict.fromkeys(edited(PATHS[node], edits[i]) for i in chosen)]
    root = (jnp.bool_(False), jnp.float32(-1), jnp.bool_(True))
    tree = mcts.plant(tables, jnp.zeros(2, jnp.uint32), jnp.int32(LAYERS), *root)
    hashes = [hash_of(path, tables) for path in known]
    tree = tree._replace(
        size=jnp.int32(len(known)),
        hashes=tree.hashes.at[: len(known)].set(jnp.stack(hashes)),
        paths=tree.paths.at[1].set(padded(PATHS[1], tables)),
        length=tree.length.at[1].set(len(PATHS[1])),
        edit=tree.edit.at[1, 1].set(2),
    )
    expected = chances(rules, node, set(known))
    words = jax.random.bits(jax.random.key(0), (1500, WORDS), jnp.uint32)
    drawn, _ = draw(tree, tables, jnp.int32(node), words)
    assert drawn.found.all()
    columns = [np.array(column)[drawn.shape] for column in tables.shapes[:4]]
    kind, k, amount, modifier = columns
    rows = np.stack([kind, drawn.start, k, amount, modifier], axis=1)
    counts = Counter(map(tuple, rows.tolist()))
    assert counts.keys() <= expected.keys()
    observed = [counts[edit] for edit in expected]
    assert chisquare(observed, 1500 * np.array([*expected.values()])).pvalue > 1e-3

"""Edits of paths against plain Python lists, tables of edits, and random paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax import edits
from cola_jax.edits import MOVE, REPEAT, SKIP, Edit
from cola_jax.path import STOP, identity, pad_path, validate

LAYERS = 9
POSITIONS = 14
paths = st.lists(st.integers(0, LAYERS - 1), min_size=1, max_size=POSITIONS)

TABLE = edits.edit_table(POSITIONS, skip=4, repeat=3, times=3, move=3)
# blocks longer than one layer may be moved as well, though the table has none
MOVES = [(MOVE, start, k, s) for k in (2, 3) for s in (-4, -1, 2, 5) for start in range(POSITIONS)]
EDITS = Edit(*(np.concatenate([a, b]) for a, b in zip(TABLE, np.array(MOVES).T, strict=True)))
EDITS = Edit(*(column.astype(np.int32) for column in EDITS))
apply_all = jax.jit(jax.vmap(edits.apply_edit, (None, 0)))
fits_all = jax.jit(edits.edits_fit)


def edited(path, kind, start, k, amount):
    """Edits a list; None where the block, or the place it moves to, is outside."""
    block, rest = path[start : start + k], path[:start] + path[start + k :]
    if len(block) < k:
        return None
    if kind == SKIP:
        return rest
    if kind == REPEAT:
        return path[:start] + block * (amount + 1) + path[start + k :]
    target = start + amount
    return rest[:target] + block + rest[target:] if 0 <= target <= len(rest) else None


def rows(edits):
    return [tuple(int(x) for x in row) for row in zip(*edits, strict=True)]


@given(paths)
def test_apply_edit_matches_lists(path):
    """Every edit of the table whose block fits; what exceeds the padding is cut."""
    out = np.asarray(apply_all(jnp.asarray(pad_path(path, POSITIONS)), EDITS))
    for row, edit in zip(out, rows(EDITS), strict=True):
        expected = edited(path, *edit)
        if expected is not None:
            cut = expected[:POSITIONS]
            assert row.tolist() == cut + [STOP] * (POSITIONS - len(cut)), (path, edit)


@given(paths, st.integers(0, 4), st.integers(0, POSITIONS + 2))
def test_edit_fits_matches_lists(path, shortest, longest):
    fits = np.asarray(fits_all(len(path), EDITS, shortest, longest))
    for fit, edit in zip(fits, rows(EDITS), strict=True):
        expected = edited(path, *edit)
        # what is longer than allowed may be made shorter
        longest_here = max(longest, len(path) - 1)
        allowed = expected is not None and shortest <= len(expected) <= longest_here
        assert fit == allowed, (path, edit)


def test_edits_take_plain_numbers():
    start = jnp.asarray(pad_path((0, 1, 2, 3), 8))
    assert edits.skip(start, 1, 2).tolist() == [0, 3] + [STOP] * 6
    assert edits.repeat(start, np.int32(2), 2, 1).tolist() == [0, 1, 2, 3, 2, 3, STOP, STOP]
    assert edits.move(start, 0, 1, jnp.int32(2)).tolist() == [1, 2, 0, 3] + [STOP] * 4


def test_apply_edit_compiles_once():
    start = pad_path((0, 1, 2, 3), 8)
    apply = jax.jit(lambda path, edit: edits.apply_edit(path, edit))  # a cache of its own
    for edit in ((SKIP, 0, 1, 0), (REPEAT, 1, 2, 2), (MOVE, 3, 1, -1)):
        apply(start, Edit(*map(jnp.int32, edit)))
    assert apply._cache_size() == 1


def test_edit_table_lists_requested_edits():
    table = rows(edits.edit_table(5, skip=2, repeat=1, times=2, move=1))
    assert len(set(table)) == len(table) == 5 * (2 + 2 + 2)
    assert {(kind, k, amount) for kind, _, k, amount in table} == {
        *((SKIP, 1, 0), (SKIP, 2, 0)),
        *((REPEAT, 1, 1), (REPEAT, 1, 2)),
        *((MOVE, 1, -1), (MOVE, 1, 1)),
    }
    assert {start for _, start, _, _ in table} == set(range(5))
    with pytest.raises(ValueError, match="no edit is allowed"):
        edits.edit_table(5, skip=0, repeat=0)


def test_format_edit_reads_well():
    assert edits.format_edit((SKIP, 5, 2, 0)) == "skip 2 at 5"
    assert edits.format_edit((REPEAT, 7, 1, 2)) == "repeat 1 at 7 x2"
    assert edits.format_edit(np.array([MOVE, 3, 1, -1])) == "move 1 at 3 by -1"


def test_random_paths_are_distinct_valid_and_reproducible():
    drawn = edits.random_paths(LAYERS, 40, seed=1)
    assert drawn == edits.random_paths(LAYERS, 40, seed=1)
    assert drawn != edits.random_paths(LAYERS, 40, seed=2)
    assert len(set(drawn)) == 40
    assert identity(LAYERS) not in drawn
    for path in drawn:
        assert validate(path, LAYERS, max_length=2 * LAYERS) == path


def test_random_paths_are_edits_of_the_identity():
    start = list(identity(5))
    table = rows(edits.edit_table(10))
    one_edit = {tuple(new) for edit in table if (new := edited(start, *edit))}
    assert set(edits.random_paths(5, 30, seed=0, edits=1)) <= one_edit
    assert any(len(path) < 5 for path in edits.random_paths(5, 30, seed=0, edits=1))
    assert any(len(path) > 5 for path in edits.random_paths(5, 30, seed=0, edits=1))


def test_random_paths_refuses_more_than_exist():
    with pytest.raises(
        ValueError, match=r"only \d+ of 100000 distinct random paths.*ask for fewer"
    ):
        edits.random_paths(2, 100_000, seed=0, edits=1)


def test_random_paths_respects_max_length():
    assert max(map(len, edits.random_paths(LAYERS, 30, seed=0, max_length=LAYERS))) <= LAYERS

"""Paths: their text form, validation and padding; edits against plain lists, and random paths."""

import operator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cola_jax.path import (
    MOVE,
    REPEAT,
    SKIP,
    STOP,
    Edit,
    edit_table,
    edited,
    edits_fit,
    format_edit,
    format_path,
    identity,
    pad_path,
    parse_edit,
    parse_path,
    path_of_parts,
    random_paths,
    validate,
)
from cola_jax.steps import ATTENTION, MLP, Step

LAYERS = 9
POSITIONS = 14
layers = st.integers(0, LAYERS - 1)
paths = st.lists(layers, min_size=1, max_size=POSITIONS)
# of blocks that repeat, as searches make them
looped_paths = st.lists(
    st.tuples(st.lists(layers, min_size=1, max_size=3), st.integers(1, 5)), min_size=1, max_size=4
).map(lambda blocks: [layer for block, times in blocks for layer in block * times])


steps = st.builds(
    lambda layer, part, share: Step(layer, part, share / 1000).id,
    *(layers, st.integers(0, 2), st.sampled_from([1000, 500, 125, 1, 2000])),
)
paths_of_steps = st.lists(
    st.tuples(st.lists(steps | layers, min_size=1, max_size=4), st.integers(1, 5)),
    min_size=1,
    max_size=4,
).map(lambda blocks: [step for block, times in blocks for step in block * times])
# of neighbours with the same part and share, which a range writes
ranges_of_steps = st.lists(
    st.tuples(layers, st.integers(1, 3), st.integers(0, 2), st.integers(1, 3)),
    min_size=1,
    max_size=5,
).map(
    lambda blocks: (
        [
            Step(layer, part, 0.5 if part == 0 else 1).id
            for first, size, part, times in blocks
            for layer in [*range(first, min(first + size, LAYERS))] * times
        ]
        * 2
    )
)


@given(st.one_of(paths, looped_paths, paths_of_steps, ranges_of_steps))
@example([Step(layer, share=0.25).id for layer in (2, 3)] + [4, Step(2, share=0.25).id] * 2)
def test_format_path_round_trips(path):
    text = format_path(path)
    assert parse_path(text, LAYERS, max_length=len(path)) == tuple(path)
    assert format_path([*path, STOP, STOP]) == text


def test_format_path_inverts_parse_path():
    for text, path in (
        ("0-5,7,7,8", (0, 1, 2, 3, 4, 5, 7, 7, 8)),
        ("0,(3)x4", (0, 3, 3, 3, 3)),
        ("(0,2-3)x2", (0, 2, 3, 0, 2, 3)),
    ):
        assert parse_path(text, LAYERS) == path
        assert parse_path(f" {text.replace(',', ' ,  ')}\n", LAYERS) == path
        assert format_path(path) == text


REFUSED = {  # texts by the error of each
    "where a layer id": ("", "0,,1", "a", "-1", "(0-1)", "(0-1)x0", "((0)x2)x2", "(0,1"),
    "range 5-3, which runs backwards: use 3-5": ("5-3",),
    r"names layer 9, but the model has layers 0\.\.8": ("0-9",),
    "has more than 18 steps": ("(0-8)x3", "(0)x999999999999"),
}


def test_parse_path_refuses_bad_text_and_long_paths():
    for message, texts in REFUSED.items():
        for text in texts:
            with pytest.raises(ValueError, match=message):
                parse_path(text, LAYERS)
    assert len(parse_path("(0-8)x2", LAYERS)) == 18
    assert len(parse_path("(0-8)x3", LAYERS, max_length=27)) == 27
    with pytest.raises(ValueError, match="has more than 3 steps"):
        parse_path("0-3", LAYERS, max_length=3)


def test_validate_refuses_bad_paths():
    for path, message in (
        (np.array([STOP]), "at least one layer"),
        ([0, 1, STOP], r"layer ids \[-1\]"),  # a list has no padding
        ([0, 9, 12], r"layer ids \[9, 12\], but the model has layers 0\.\.8"),
        ([0, STOP, 1], r"layer ids \[-1\]"),
        ([0] * 5, "path has 5 steps, but at most 4 are allowed"),
        (np.array([0.0, 1.0]), "whole numbers, not array"),
        (np.array([True]), "whole numbers, not array"),
        (np.array([[0, 1]]), "whole numbers, not array"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(path, LAYERS, max_length=4)
    assert validate(np.array([3, 3, STOP, STOP]), LAYERS) == (3, 3)


def test_pad_path_pads_or_refuses():
    padded = pad_path((1, 2), 4)
    assert padded.tolist() == [1, 2, STOP, STOP]
    assert padded.dtype == np.int32
    with pytest.raises(ValueError, match=r"3 steps but only 2 positions; pass positions=3"):
        pad_path((1, 2, 3), 2)


TABLE = edit_table(POSITIONS, skip=4, repeat=3, times=3, move=3, parts=True, shares=(0.5, 1.5))
# blocks longer than one layer may be moved as well, though the table has none
MOVES = [
    (MOVE, start, k, s, 0) for k in (2, 3) for s in (-4, -1, 2, 5) for start in range(POSITIONS)
]
EDITS = Edit(*np.concatenate([np.stack(TABLE), np.array(MOVES).T], axis=1).astype(np.int32))


def edited_list(path, kind, start, k, amount, modifier=0):
    """Edit a list; None where the block, or the place it moves to, is outside."""
    block, rest = path[start : start + k], path[:start] + path[start + k :]
    if len(block) < k:
        return None
    part, share = Step.of(modifier)[1:]
    if part and any(Step.of(step).part for step in block):
        return None
    steps = [Step.of(step) for step in block]
    changed = [
        Step(step.layer, part or step.part, step.share if share == 1 else share).id
        for step in steps
    ]
    if kind == SKIP:
        return path[:start] + changed + path[start + k :] if modifier else rest
    if kind == REPEAT:
        return path[:start] + block + changed * amount + path[start + k :]
    target = start + amount
    return rest[:target] + block + rest[target:] if 0 <= target <= len(rest) else None


def rows(edits):
    return [tuple(int(x) for x in row) for row in zip(*edits, strict=True)]


steps = st.builds(Step, layers, st.sampled_from([0, 0, 1, 2]), st.sampled_from([1.0, 0.5, 0.25]))
paths_of_steps = st.lists(steps.map(operator.attrgetter("id")), min_size=1, max_size=POSITIONS)


@given(st.one_of(paths, paths_of_steps), st.integers(0, 4), st.integers(0, POSITIONS + 2))
def test_edited_and_edits_fit_match_lists(path, shortest, longest):
    """Every edit of the table whose block fits."""
    fits = edits_fit(path, EDITS, shortest, longest)
    for fit, edit in zip(fits, rows(EDITS), strict=True):
        expected = edited_list(path, *edit)
        # what is longer than allowed may be made shorter
        longest_here = max(longest, len(path) - 1)
        allowed = expected is not None and shortest <= len(expected) <= longest_here
        assert fit == allowed, (path, edit)
        if expected is not None:
            assert edited(tuple(path), edit) == tuple(expected), (path, edit)


def test_edit_table_lists_requested_edits():
    table = rows(edit_table(5, skip=2, repeat=1, times=2, move=1))
    assert len(set(table)) == len(table) == 5 * (2 + 2 + 2)
    assert {(kind, k, amount, modifier) for kind, _, k, amount, modifier in table} == {
        *((SKIP, 1, 0, 0), (SKIP, 2, 0, 0)),
        *((REPEAT, 1, 1, 0), (REPEAT, 1, 2, 0)),
        *((MOVE, 1, -1, 0), (MOVE, 1, 1, 0)),
    }
    assert {start for _, start, *_ in table} == set(range(5))
    parts = rows(edit_table(5, skip=1, repeat=0, parts=True))
    assert {edit[-1] for edit in parts} == {
        0,
        *(Step(0, part).modifier for part in (ATTENTION, MLP)),
    }
    half = Step(0, share=0.5).modifier
    shares = rows(edit_table(5, skip=1, repeat=1, times=1, shares=(0.5,)))
    assert {(edit[0], edit[-1]) for edit in shares} == {
        (kind, modifier) for kind in (SKIP, REPEAT) for modifier in (0, half)
    }
    with pytest.raises(ValueError, match="no edit is allowed"):
        edit_table(5, skip=0, repeat=0)


TEXTS = {
    "skip 2 at 5": (SKIP, 5, 2, 0, 0),
    "repeat 1 at 7 x2": (REPEAT, 7, 1, 2, 0),
    "move 1 at 3 by -1": (MOVE, 3, 1, -1, 0),
    "move 4 at 13 by +2": (MOVE, 13, 4, 2, 0),
    "skip attention 2 at 5": (SKIP, 5, 2, 0, Step(0, MLP).modifier),  # the MLP is left
    "skip mlp 2 at 5": (SKIP, 5, 2, 0, Step(0, ATTENTION).modifier),
    "skip 2 at 5 *0.5": (SKIP, 5, 2, 0, Step(0, share=0.5).modifier),
    "repeat 2 at 5 x1 *0.125": (REPEAT, 5, 2, 1, Step(0, share=0.125).modifier),
    "repeat 2 at 5 x3 *1.5": (REPEAT, 5, 2, 3, Step(0, share=1.5).modifier),
}
OTHER_TEXTS = (
    *("", "skip 2", "skip 2 at 5 x2", "repeat 1 at 7", "move 1 at 3 x1", "loop 1 at 2"),
    *("skip 2 at 5 *1", "move 1 at 3 by +1 *0.5", "repeat mlp 1 at 7 x1", "skip mlp 2"),
)


def test_parse_edit_reads_what_format_edit_writes():
    for text, edit in TEXTS.items():
        assert format_edit(edit) == format_edit(np.array(edit)) == text
        assert parse_edit(text) == edit
    assert format_edit((SKIP, 5, 2, 0)) == "skip 2 at 5"  # as priors of whole layers have it
    for text in OTHER_TEXTS:
        with pytest.raises(ValueError, match="is no edit such as skip 2 at 5"):
            parse_edit(text)
    with pytest.raises(ValueError, match=r"2\.5 is not a share of an update"):
        parse_edit("skip 2 at 5 *2.5")


def test_random_paths_are_distinct_valid_and_reproducible():
    drawn = random_paths(LAYERS, 40, seed=1)
    assert drawn == random_paths(LAYERS, 40, seed=1)
    assert drawn != random_paths(LAYERS, 40, seed=2)
    assert len(set(drawn)) == 40
    assert identity(LAYERS) not in drawn
    for path in drawn:
        assert validate(path, LAYERS, max_length=2 * LAYERS) == path


def test_path_of_parts_runs_attention_and_mlp_together_where_both_run():
    assert format_path(path_of_parts({3, 0, 1}, [1, 2, 3])) == "0a,1,2m,3"
    assert path_of_parts((), ()) == ()


def test_random_paths_are_edits_of_the_identity():
    start = list(identity(5))
    table = rows(edit_table(10))
    one_edit = {tuple(new) for edit in table if (new := edited_list(start, *edit))}
    drawn = random_paths(5, 30, seed=0, edits=1)
    assert set(drawn) <= one_edit
    assert min(map(len, drawn)) < 5 < max(map(len, drawn))
    with pytest.raises(ValueError, match=r"only \d+ of 100000 distinct random paths"):
        random_paths(2, 100_000, seed=0, edits=1)
    assert max(map(len, random_paths(LAYERS, 30, seed=0, max_length=LAYERS))) <= LAYERS


def test_random_paths_may_have_parts_and_shares():
    drawn = random_paths(LAYERS, 60, seed=0, edits=2, parts=True, shares=(0.5,))
    found = {Step.of(step)[1:] for path in drawn for step in path}
    assert found >= {(0, 1.0), (ATTENTION, 1.0), (MLP, 1.0), (0, 0.5)}
    assert {share for _, share in found} == {1.0, 0.5}
    for path in drawn:
        assert validate(path, LAYERS, max_length=2 * LAYERS) == path

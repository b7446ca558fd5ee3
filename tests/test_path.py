"""Paths: their text form, validation and padding."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.path import STOP, format_path, pad_path, parse_path, path_length, validate

LAYERS = 9
layers = st.integers(0, LAYERS - 1)
paths = st.lists(layers, min_size=1, max_size=14)
# of blocks that repeat, as searches make them
looped_paths = st.lists(
    st.tuples(st.lists(layers, min_size=1, max_size=3), st.integers(1, 5)), min_size=1, max_size=4
).map(lambda blocks: [layer for block, times in blocks for layer in block * times])


@given(st.one_of(paths, looped_paths))
def test_format_path_round_trips(path):
    text = format_path(path)
    assert parse_path(text, LAYERS, max_length=len(path)) == tuple(path)
    assert format_path([*path, STOP, STOP]) == text


@given(paths)
def test_parse_path_ignores_spaces(path):
    text = format_path(path)
    assert parse_path(" " + text.replace(",", " ,  ") + "\n", LAYERS, 99) == tuple(path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0-5,7,7,8", (0, 1, 2, 3, 4, 5, 7, 7, 8)),
        ("0-5,(6-7)x2,8", (0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8)),
        ("0,(3)x4", (0, 3, 3, 3, 3)),
        ("(0,2-3)x2", (0, 2, 3, 0, 2, 3)),
        ("8,0,8", (8, 0, 8)),
    ],
)
def test_format_path_inverts_parse_path(text, path):
    assert parse_path(text, LAYERS) == path
    assert format_path(path) == text


def test_parse_path_reads_other_spellings():
    assert parse_path("(0-1)x1,3-3,(4)x2", LAYERS) == (0, 1, 3, 4, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' has '' where a layer id, a range like 0-5 or a group"),
        ("0,,1", "has '' where"),
        ("a", "has 'a' where"),
        ("-1", "has '-1' where"),
        ("0-", "has '0-' where"),
        ("(0-1)", r"has '\(0-1\)' where"),
        ("(0-1)x0", r"has '\(0-1\)x0' where"),
        ("((0)x2)x2", "where a layer id"),
        ("(0,1", r"has '\(0' where"),
        ("5-3", "range 5-3, which runs backwards: use 3-5"),
        ("0-9", r"names layer 9, but the model has layers 0\.\.8"),
        ("99999999999999999999", r"but the model has layers 0\.\.8"),
        ("(0-8)x3", "runs more than 18 layers"),
        ("(0)x999999999999", "runs more than 18 layers"),
    ],
)
def test_parse_path_refuses_bad_text(text, message):
    with pytest.raises(ValueError, match=message):
        parse_path(text, LAYERS)


def test_parse_path_limits_length():
    assert len(parse_path("(0-8)x2", LAYERS)) == 18
    assert len(parse_path("(0-8)x3", LAYERS, max_length=27)) == 27
    with pytest.raises(ValueError, match="runs more than 3 layers"):
        parse_path("0-3", LAYERS, max_length=3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([], "at least one layer"),
        ([STOP], "at least one layer"),
        ([0, 9, 12], r"layer ids \[9, 12\], but the model has layers 0\.\.8: \[0, 9, 12\]"),
        ([0, STOP, 1], r"layer ids \[-1\]"),
        ([-2], r"layer ids \[-2\]"),
        ([0] * 5, "path has 5 layers, but at most 4 are allowed"),
    ],
)
def test_validate_refuses_bad_paths(path, message):
    with pytest.raises(ValueError, match=message):
        validate(path, LAYERS, max_length=4)


def test_validate_drops_padding():
    assert validate(np.array([3, 3, STOP, STOP]), LAYERS) == (3, 3)


def test_pad_path_pads_or_refuses():
    padded = pad_path((1, 2), 4)
    assert padded.tolist() == [1, 2, STOP, STOP]
    assert padded.dtype == np.int32
    assert path_length(jnp.asarray([padded, padded + STOP])).tolist() == [2, 4]
    with pytest.raises(ValueError, match=r"3 layers but only 2 positions; pass positions=3"):
        pad_path((1, 2, 3), 2)

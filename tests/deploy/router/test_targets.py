"""Targets of routers: a path as counts of layers, and as segments with operations."""

import numpy as np
import pytest

from cola_jax.deploy.router import targets
from cola_jax.deploy.router.targets import KEEP, NO_OP, REPEAT, SKIP, Segment
from cola_jax.path import identity, parse_path

L = 9
EXPRESSIBLE = {  # path: counts express it
    "0-8": True,
    "1-8": True,
    "0-2,4-8": True,
    "0,8": True,
    "0-3,3,4-8": True,
    "0-3,3,5-8,8": True,
    "(0-3)x2,4-8": False,
    "0,(1-2)x2,3-8": False,
    "(0-3)x2,(4-7)x2,8": False,
}
INEXPRESSIBLE = ("0,2,1,3-8", "0,1,1,1,2-8", "(0-4)x2,5-8", "1,0,1-8", "8,0-7")


@pytest.mark.parametrize(("text", "counts"), EXPRESSIBLE.items())
def test_targets_say_the_same_path(text, counts):
    path = parse_path(text, L)
    segments = targets.segments_of_path(path, L)
    assert segments is not None
    assert tuple(layer for each in segments for layer in each.layers) == path
    assert all(1 <= segment.size <= 4 for segment in segments)
    assert [s.first for s in segments[1:]] == [s.first + s.size for s in segments[:-1]]
    found = targets.counts_of_path(path, L)
    assert (found is not None) == counts
    if found is not None:
        assert targets.path_of_counts(found) == path


@pytest.mark.parametrize("text", INEXPRESSIBLE)
def test_targets_refuse_moves_third_runs_and_long_blocks(text):
    path = parse_path(text, L)
    assert targets.counts_of_path(path, L) is None
    assert targets.segment_target(path, L) is None


def test_segments_are_few_and_the_larger_come_first():
    assert targets.segments_of_path(identity(L), L) == [
        Segment(0, 4, KEEP),
        Segment(4, 4, KEEP),
        Segment(8, 1, KEEP),
    ]
    path = parse_path("0-2,4,5,5,6-8", L)
    assert targets.segments_of_path(path, L) == [
        Segment(0, 3, KEEP),
        Segment(3, 1, SKIP),
        Segment(4, 1, KEEP),
        Segment(5, 1, REPEAT),
        Segment(6, 3, KEEP),
    ]


def test_segment_target_marks_where_segments_start():
    target = targets.segment_target(parse_path("0-3,(4-5)x2,8", L), L)
    expected = np.full(L, NO_OP)
    expected[[0, 4, 6, 8]] = KEEP, REPEAT, SKIP, KEEP
    assert target is not None
    assert target.tolist() == expected.tolist()

"""Attention of the tokens of a tile: block by block, and all blocks at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.attention import Labels, Seen
from cola_jax.execute import packed
from cola_jax.execute.packed import attend_at_once, attend_in_turn, spans_of
from cola_jax.kernels.attention import PromptAttention, Rotated

HEADS = 4
GROUPS = 2
WIDTH = 8


def labels_of(lengths: list[int], count: int) -> Labels:
    """Return the labels of rows that lie end to end; the second half of each is a branch."""
    row, branch, position = (np.full(count, value) for value in (len(lengths), -1, 0))
    start = 0
    for number, length in enumerate(lengths):
        end = start + length
        row[start:end] = number
        branch[start:end] = 0
        branch[start + length // 2 : end] = 1 + np.arange(end - start - length // 2) % 2
        position[start:end] = np.arange(length)
        start = end
    return Labels(
        *(jnp.asarray(x, jnp.int32)[None] for x in (row, np.arange(count), branch, position))
    )


def tokens_of(count: int, sinks: bool) -> Rotated:
    generator = np.random.default_rng(count)

    def normal(*shape: int) -> jnp.ndarray:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    angles = normal(1, count, WIDTH // 2)
    rotation = jnp.cos(angles), jnp.sin(angles)
    q, k, v = (normal(1, count, heads, WIDTH) for heads in (HEADS, GROUPS, GROUPS))
    return Rotated(q, k, v, rotation, rotation, normal(HEADS) if sinks else None)


@pytest.mark.parametrize(
    ("lengths", "count", "longest", "window", "softcap", "sinks"),
    [
        ([7, 26, 32, 1, 20], 96, 32, None, None, False),  # the last token of 32 begins a block
        ([60, 90], 160, 96, 11, 2.0, False),
        ([304], 304, 384, None, None, True),  # spans, and blocks that are no multiple of 16
        ([500], 512, 512, 100, None, False),
    ],
)
def test_blocks_in_turn_attend_as_all_at_once(lengths, count, longest, window, softcap, sinks):
    labels = labels_of(lengths, count)
    seen = Seen(labels, labels, None if window is None else jnp.int32(window))
    tokens = tokens_of(count, sinks)
    of_row = np.asarray(labels.row[0] == len(lengths) - 1)
    broken = np.zeros((1, count), bool)
    broken[0, np.flatnonzero(of_row)[-4:-2]] = True  # some of the last row see one of these
    kernel = PromptAttention(softcap=softcap)
    expected, found = (
        np.asarray(attend(kernel, longest, tokens, seen, jnp.asarray(broken)))
        for attend in (attend_at_once, attend_in_turn)
    )
    assert np.isnan(expected).any()
    assert np.isfinite(expected[0, ~of_row]).all()
    real = np.asarray(labels.branch[0] >= 0)
    np.testing.assert_allclose(found[0, real], expected[0, real], atol=2e-6)


def test_spans_of_long_rows_see_no_more_keys_than_they_may():
    assert spans_of(288, 96, 24) == [list(range(0, 288, 24))]
    assert spans_of(512, 512, 128) == [[0], [128], [256], [384]]
    assert [part[-1] for part in spans_of(304, 304, 38)] == [114, 266]
    assert len(spans_of(1024, 1024, 128)) == packed.SPANS

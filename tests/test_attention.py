"""Attention by blocks, against the scores of all pairs at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax import attention
from cola_jax.attention import Labels, Seen, attend, attend_by_blocks, attend_whole
from cola_jax.prompts import PADDING
from tests import oracle

TOKENS = 90


def packed(generator, rows, tokens):
    """Draw labels of prompts with continuations, several in a row, and padding at the end."""
    labels = []
    for _ in range(rows):
        row, branch, position = (np.full(tokens, value) for value in (PADDING, PADDING, 0))
        start = 0
        for prompt in range(3):
            end = start + int(generator.integers(5, tokens // 3))
            cut = int(generator.integers(start + 1, end))
            row[start:end] = prompt
            branch[start:end] = generator.integers(0, 2)
            branch[start:cut] = 0
            position[start:end] = np.arange(end - start)
            start = end
        labels.append((row, np.arange(tokens), branch, position))
    return Labels(*(jnp.asarray(np.stack(column)) for column in zip(*labels, strict=True)))


def arrays(generator, seen, heads=4, groups=2, width=8):
    """Draw queries, and keys and values with heads first."""
    rows, reads = seen.queries.order.shape
    tokens = seen.keys.order.shape[1]
    shapes = (rows, reads, heads, width), *[(rows, groups, tokens, width)] * 2
    return [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]


def seen_of(generator, rows=2, window=None, reads=None):
    labels = packed(generator, rows, TOKENS)
    queries = labels
    if reads is not None:
        places = generator.integers(0, TOKENS, (rows, reads))
        queries = Labels(*(jnp.take_along_axis(x, jnp.asarray(places), axis=1) for x in labels))
    return Seen(queries, labels, None if window is None else jnp.int32(window))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    monkeypatch.setattr(attention, "KEY_BLOCK", 32)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("reads", [None, 5])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_blocks_attend_as_all_pairs_at_once(small_blocks, window, reads, softcap, sinks):
    generator = np.random.default_rng(0)
    seen = seen_of(generator, window=window, reads=reads)
    q, k, v = arrays(generator, seen)
    bounds = softcap, jnp.arange(4.0) if sinks else None
    expected = attend_whole(q, [(k, v)], seen.mask(), *bounds)
    mixed = attend_by_blocks(q, k, v, seen, *bounds)
    seeing = np.asarray(seen.queries.row) != PADDING
    assert oracle.relative_error(mixed[seeing], expected[seeing]) < oracle.TOLERANCE
    assert np.isfinite(mixed).all()


def test_gradients_of_blocks_match(small_blocks):
    generator = np.random.default_rng(1)
    seen = seen_of(generator, window=7)
    inputs = arrays(generator, seen)
    weights = jnp.asarray(generator.normal(size=inputs[0].shape))
    weights *= (seen.queries.row != PADDING)[:, :, None, None]

    def loss(attend_all):
        return lambda q, k, v: jnp.sum(weights * attend_all(q, k, v))

    whole = jax.grad(loss(lambda q, k, v: attend_whole(q, [(k, v)], seen.mask())), (0, 1, 2))
    by_blocks = jax.grad(loss(lambda q, k, v: attend_by_blocks(q, k, v, seen)), (0, 1, 2))
    for ours, expected in zip(by_blocks(*inputs), whole(*inputs), strict=True):
        assert oracle.relative_error(ours, expected) < oracle.TOLERANCE


@pytest.mark.parametrize("window", [None, 7])
def test_seen_rules_out_no_block_with_a_pair(window):
    seen = seen_of(np.random.default_rng(2), window=window)
    pairs = np.asarray(seen.blocks(10, 15))
    mask = np.asarray(seen.mask()).reshape(2, 9, 10, 6, 15).any(axis=(2, 4))
    assert not (mask & ~pairs).any()
    assert (~pairs).sum() > 2 * 15  # more than those after the diagonal


def test_flags_are_seen_as_a_mask_shows_them(small_blocks, monkeypatch):
    generator = np.random.default_rng(4)
    seen = seen_of(generator, window=7)
    flags = jnp.asarray(generator.random((2, TOKENS)) < 0.1)
    expected = np.asarray(seen.any_of(flags))
    assert 0 < expected.sum() < expected.size
    monkeypatch.setattr(attention, "MOST_PAIRS", 1)
    np.testing.assert_array_equal(seen.any_of(flags), expected)


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_of_long_prompts_grows_with_their_tokens(gradient):
    def temporary(tokens):
        place = jnp.zeros((1, tokens), jnp.int32)
        labels = Labels(place, place, place, place)
        x = jax.ShapeDtypeStruct((1, tokens, 8, 16), jnp.float32)

        def run(q, k, v):
            return attend(q, k, v, Seen(labels, labels, jnp.int32(99))).sum()

        compiled = jax.jit(jax.grad(run, (0, 1, 2)) if gradient else run).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(32768) < 5 * temporary(8192)

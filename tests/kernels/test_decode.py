"""Attention of single tokens to pages, in a loop and at once, against all of their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_jax.attention import attend_whole
from cola_jax.kernels.decode import (
    DecodeAttention,
    Rows,
    attend_at_once,
    attend_by_pages,
    parts_of,
    put_tokens_at_once,
    put_tokens_by_rows,
)
from cola_jax.params import FULL

R, K, G, H, PAGE = 3, 2, 2, 4, 4  # rows, key heads, queries of each, their width, and a page
MOST = 3  # pages of a prompt or a text


@pytest.mark.parametrize("write", [put_tokens_at_once, put_tokens_by_rows])
def test_tokens_are_written_alike_on_every_device(write):
    buffer, values = jnp.zeros((5, 2, 6, 4)), jnp.arange(1.0, 17.0).reshape(2, 2, 4)
    expected = np.zeros(buffer.shape)
    expected[3, :, 5], expected[1, :, 0] = values
    written = write(buffer, values, jnp.array([3, 1]), jnp.array([5, 0]))
    np.testing.assert_array_equal(written, expected)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pages_of(ends, seed):
    """Makes pages in any order, NaN but for the first tokens of each row; returns them too."""
    tokens = normal(len(ends), K, MOST * PAGE, H, seed=seed)
    table = 1 + np.random.default_rng(seed).permutation(len(ends) * MOST).reshape(-1, MOST)
    buffer = np.full((1 + table.size, K, PAGE, H), np.nan, np.float32)
    for row, end in enumerate(ends):
        for token in range(end):
            buffer[table[row, token // PAGE], :, token % PAGE] = tokens[row, :, token]
    return jnp.asarray(buffer), jnp.asarray(table), tokens


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.tuples(*[st.integers(1, MOST * PAGE)] * R),
    decoded=st.tuples(*[st.integers(1, MOST * PAGE)] * R),
    window=st.one_of(st.just(FULL), st.integers(1, 2 * MOST * PAGE)),
    softcap=st.sampled_from([None, 2.0]),
    sinks=st.booleans(),
)
def test_pages_are_attended_to_as_one_row_of_keys(lengths, decoded, window, softcap, sinks):
    """Whatever is after their ends or before the window, which no other row's ends decide."""
    pages = [pages_of(ends, seed) for seed, ends in enumerate([lengths, decoded])]
    q = jnp.asarray(normal(R, 1, K * G, H, seed=7))
    column = jnp.arange(float(K * G)) if sinks else None
    rows = Rows(
        prompt_pages=pages[0][1],
        pages=pages[1][1],
        length=jnp.array(lengths),
        nth=jnp.array(decoded) - 1,
        window=jnp.full(1, window, jnp.int32),
        sinks=column,
    )
    keys = [(each[0], each[0]) for each in pages]
    parts = parts_of(rows, *keys)
    place = np.arange(MOST * PAGE)
    now = np.array(lengths)[:, None] + np.array(decoded)[:, None] - 1
    masks = [place < np.array(ends)[:, None] for ends in (lengths, decoded)]
    masks[0] &= now - place < window
    masks[1] &= now - place - np.array(lengths)[:, None] < window
    whole = [(jnp.asarray(each[2]),) * 2 for each in pages]
    mask = jnp.asarray(np.concatenate(masks, axis=1))[:, None]
    expected = attend_whole(q, whole, mask, softcap, column)
    reach = max(lengths), max(decoded)
    for mixed in (
        jax.jit(attend_by_pages, static_argnums=2)(q, parts, softcap, column),
        attend_at_once(q, parts, reach, softcap, column),
    ):
        np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)


def test_attention_to_the_cache_writes_the_token_first():
    """A row's own token is the last that it sees, on the page of its place in the text."""
    own, table, _ = pages_of([4, 4], seed=1)
    prompt, prompt_table, _ = pages_of([3, 3], seed=2)
    token = jnp.asarray(normal(2, 1, K, H, seed=3))
    at = jnp.array([4, 4])  # the first of its second page
    rows = Rows(prompt_table, table, jnp.array([3, 3]), at, jnp.full(1, 1, jnp.int32))
    q = jnp.asarray(normal(2, 1, K * G, H, seed=4))
    pairs = (token, token), (prompt, prompt), (own, own)
    mixed, (k, _) = jax.jit(DecodeAttention(), static_argnums=5)(rows, q, *pairs, (8, 8))
    np.testing.assert_array_equal(k[table[:, 1], :, 0], token[:, 0])
    # with a window of one token, that is all it sees
    np.testing.assert_allclose(mixed[:, 0], np.repeat(token[:, 0], G, axis=1), rtol=1e-6)

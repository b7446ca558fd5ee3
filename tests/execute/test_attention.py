"""KV blocks: keys and values of prompts, written and taken on the device."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute.attention import KVBlocks
from cola_jax.kernels.buffers import stored_as

BLOCKS, R, K, H = 5, 3, 2, 4  # blocks, rows, key/value heads, head width


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [8, 5])
def test_kv_blocks_hold_prompts(dtype, tokens):
    """Those of a tile of shorter rows are the beginnings of blocks."""
    empty = jnp.zeros((BLOCKS + 1, K, 8, H), stored_as(dtype, "cpu"))
    kept = tuple(normal(R, tokens, K, H, seed=seed).astype(dtype) for seed in (0, 1))
    rows = jnp.array([4, 0, 2])
    cache = KVBlocks(k=empty, v=empty).write(kept, rows)
    assert cache.k.dtype == empty.dtype
    for taken, written in zip(cache.take(rows), kept, strict=True):
        np.testing.assert_array_equal(taken[:, :, :tokens], written.transpose(0, 2, 1, 3))
        assert not taken[:, :, tokens:].any()
    assert not cache.take(jnp.array([1, 3, 5]))[0].any()

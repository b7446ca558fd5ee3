"""Buffers that hold what was written, in whatever form they keep it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cola_jax.execute.store import get, kept_as, put


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_what_is_written_is_read(dtype, platform):
    values = jnp.array([[1.5, -0.0, jnp.inf], [jnp.nan, -3e-3, 7.0]], dtype)
    buffer = jnp.zeros((4, 3), kept_as(dtype, platform))
    written = jax.jit(put)(buffer, values, jnp.array([2, 0]))
    assert written.dtype == buffer.dtype
    read = get(written, jnp.array([2, 0, 1]))
    assert read.dtype == values.dtype
    expected = jnp.concatenate([values, jnp.zeros((1, 3), dtype)])
    np.testing.assert_array_equal(read.astype(jnp.float32), expected.astype(jnp.float32))


def test_a_cpu_converts_no_buffer_of_bfloat16():
    """It would take as long for a row as for the whole buffer."""
    values, where = jnp.zeros((2, 3), "bfloat16"), jnp.array([2, 0])

    def compiled(dtype):
        buffer = jnp.zeros((999, 3), dtype)
        again = jax.jit(lambda buffer: get(put(buffer, values, where), where))
        return again.lower(buffer).compile().as_text()

    assert "f32[999" not in compiled(kept_as("bfloat16", "cpu"))

"""Buffers of attention: what was written in any form is read alike on every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.attention import attend_whole
from cola_jax.kernels.attention import (
    MOST_GATHERED,
    get,
    get_at_once,
    get_by_rows,
    put,
    put_at_once,
    put_by_rows,
    stored_as,
)


def test_attention_to_nothing_is_finite():
    """A padding row sees no token."""
    parts = [(jnp.ones((3, 2, x, 4)),) * 2 for x in (4, 2)]
    mask = jnp.zeros((3, 1, 6), bool)
    assert np.isfinite(attend_whole(jnp.ones((3, 1, 4, 4)), parts, mask)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_get_returns_what_put_wrote(dtype, platform):
    values = jnp.array([[1.5, -0.0, jnp.inf], [jnp.nan, -3e-3, 7.0]], dtype)
    buffer = jnp.zeros((4, 3), stored_as(dtype, platform))
    written = jax.jit(put)(buffer, values, jnp.array([2, 0]))
    assert written.dtype == buffer.dtype
    read = get(written, jnp.array([2, 0, 1]))
    assert read.dtype == values.dtype
    expected = jnp.concatenate([values, jnp.zeros((1, 3), dtype)])
    np.testing.assert_array_equal(read.astype(jnp.float32), expected.astype(jnp.float32))


@pytest.mark.parametrize("write", [put_at_once, put_by_rows])
@pytest.mark.parametrize("width", [2, 3])
def test_rows_are_written_alike_on_every_device(write, width):
    """Whole, or their beginnings."""
    buffer, values = jnp.ones((4, 2, 3)), jnp.arange(4.0 * width).reshape(2, 2, width)
    expected = np.ones(buffer.shape)
    expected[[3, 1], :, :width] = values
    written = jax.jit(write, donate_argnums=0)(buffer, values, jnp.array([3, 1]))
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 2, 6, 128)])
@pytest.mark.parametrize("part", [(), (slice(None), slice(2))])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_rows_are_read_alike_on_every_device(shape, part, platform):
    dtype, rows = stored_as("bfloat16", platform), jnp.array([3, 0, 3])
    buffer = jnp.arange(np.prod(shape)).reshape(shape).astype(dtype)
    by_rows = jax.jit(functools.partial(get_by_rows, part=part))(buffer, rows)
    np.testing.assert_array_equal(by_rows, get_at_once(buffer, rows, part))
    assert by_rows.dtype == dtype


def test_get_gathers_small_rows_alone_on_a_tpu():
    def lowered(width):
        buffer = jax.ShapeDtypeStruct((3, width), "bfloat16")
        taken = jax.jit(get).trace(buffer, jnp.array([2, 0]))
        return taken.lower(lowering_platforms=("tpu",)).as_text()

    assert "gather" in lowered(MOST_GATHERED // 2)
    assert "gather" not in lowered(MOST_GATHERED)


def test_stored_as_spares_a_cpu_conversions_of_a_buffer():
    """With jax 0.10, those of bfloat16 take as long for a row as for the whole buffer."""
    values, where = jnp.zeros((2, 3), "bfloat16"), jnp.array([2, 0])

    def compiled(dtype):
        buffer = jnp.zeros((999, 3), dtype)
        again = jax.jit(lambda buffer: get(put(buffer, values, where), where))
        return again.lower(buffer).compile().as_text()

    assert "f32[999" not in compiled(stored_as("bfloat16", "cpu"))

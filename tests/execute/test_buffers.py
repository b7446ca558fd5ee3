import jax.numpy as jnp

from cola_jax.execute.buffers import Buffers


def take(buffers, rows, dtype="float32"):
    return buffers.take((rows, 4), jnp.dtype(dtype), lambda: jnp.zeros((rows, 4), dtype))


def test_buffers_are_kept_while_all_fit_the_budget():
    buffers = Buffers(400)
    first = take(buffers, 10)  # 160 bytes
    buffers.give_back((first,))
    second = take(buffers, 8)  # 288 in all, of 300
    assert take(buffers, 10) is first
    buffers.give_back((first, second))
    assert take(buffers, 4) is not None
    assert not buffers.spare  # freed for 64 more
    assert buffers.taken == 64


def test_rows_of_spare_are_those_of_the_smallest_that_is_enough():
    buffers = Buffers(10_000)
    every = tuple(take(buffers, rows) for rows in (20, 10, 30))
    assert buffers.rows_of_spare((8, 4), jnp.dtype("float32")) == 8  # all are in use
    buffers.give_back(every)
    assert buffers.rows_of_spare((8, 4), jnp.dtype("float32")) == 10
    assert buffers.rows_of_spare((12, 4), jnp.dtype("float32")) == 20
    assert buffers.rows_of_spare((31, 4), jnp.dtype("float32")) == 31
    assert buffers.rows_of_spare((8, 5), jnp.dtype("float32")) == 8
    assert buffers.rows_of_spare((8, 4), jnp.dtype("bfloat16")) == 8

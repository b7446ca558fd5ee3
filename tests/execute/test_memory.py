"""The memory budget, sizes as text, and buffers that hold what was written in any form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute.memory import (
    MOST_GATHERED,
    DecodeSizes,
    Memory,
    Sizes,
    choose_decode_sizes,
    choose_sizes,
    format_bytes,
    get,
    get_at_once,
    get_by_rows,
    parse_bytes,
    put,
    put_at_once,
    put_by_rows,
    stored_as,
)


@pytest.fixture(scope="module")
def config(pair):
    return pair("qwen2-window").ours.config


def memory(budget, **changes):
    return Memory(**{"budget": budget, "sharing": 1, "itemsize": 4, "backend": "cpu"} | changes)


# Sizes


@pytest.mark.parametrize("budget", [10**5, 10**6, 10**8])
@pytest.mark.parametrize(("tokens", "reads"), [(32, 16), (96, 64)])
@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_choose_sizes_stays_within_the_budget(config, budget, tokens, reads, backend):
    sizes = choose_sizes(config, tokens, reads, memory(budget, backend=backend), wanted=10**9)
    states = (sizes.slots + 1) * tokens * config.width * 4
    outputs = (sizes.outputs + 1) * reads * config.width * 4
    assert states + outputs + sizes.unembedded * config.vocab_size * 12 <= budget
    assert states > budget / 3  # most goes to states


def test_choose_sizes_takes_no_more_slots_than_wanted(config):
    assert choose_sizes(config, 32, 16, memory(10**9), wanted=384).slots == 512


def test_choose_sizes_divides_the_budget(config):
    assert choose_sizes(config, 32, 16, memory(2 * 10**6, sharing=2), 10**9) == choose_sizes(
        config, 32, 16, memory(10**6), 10**9
    )


def test_choose_sizes_names_a_budget_that_is_enough(config):
    for sharing in (1, 2):
        with pytest.raises(ValueError, match=r"budget of 10\dB is too small") as error:
            choose_sizes(config, 32, 16, memory(100 + sharing, sharing=sharing))
        least = parse_bytes(str(error.value).split("at least ")[1].rstrip("."))
        sizes = choose_sizes(config, 32, 16, memory(least, sharing=sharing))
        assert sizes == Sizes(rows=4, slots=2, outputs=1, unembedded=8)


@pytest.mark.parametrize("budget", [10**6, 10**8])
@pytest.mark.parametrize(("backend", "rows"), [("cpu", None), ("cpu", 2), ("tpu", None)])
def test_choose_decode_sizes_stays_within_the_budget(config, budget, backend, rows):
    tokens, new, itemsize = 32, 9, 4
    sizes = choose_decode_sizes(
        config,
        tokens,
        memory(budget, backend=backend, rows=rows),
        positions=12,
        max_new_tokens=new,
        wanted=10**6,
    )
    assert sizes.positions == 16
    assert sizes.blocks == sizes.decode_slots * sizes.positions
    token = 2 * config.num_kv_heads * config.head_dim * itemsize
    blocks = (sizes.blocks + 1) * (tokens + new) * token
    # a step reads the blocks of a whole tile
    tile = sizes.decode_rows * (tokens + new) * token
    states = (sizes.slots + 1) * tokens * config.width * itemsize
    logits = sizes.unembedded * config.vocab_size * 12
    assert blocks + tile + states + logits <= budget


def test_choose_decode_sizes_takes_no_more_slots_than_wanted(config):
    fixed = {"positions": 8, "max_new_tokens": 4}
    few = choose_decode_sizes(config, 32, memory(10**9), wanted=5, **fixed)
    assert few == DecodeSizes(
        decode_slots=8,
        positions=8,
        blocks=64,
        slots=16,
        rows=4,
        decode_rows=16,
        unembedded=8,
        kept=4,
    )
    assert choose_decode_sizes(config, 32, memory(10**9), wanted=999, **fixed).decode_slots == 64
    wide = choose_decode_sizes(config, 32, memory(10**9, backend="tpu"), wanted=999, **fixed)
    assert (wide.decode_slots, wide.decode_rows, wide.unembedded) == (256, 64, 64)
    assert wide.kept == 16  # tokens that a TPU's kernel writes together


def test_choose_decode_sizes_names_a_budget_that_is_enough(config):
    fixed = {"positions": 16, "max_new_tokens": 9}
    with pytest.raises(ValueError, match="too small to decode 9 tokens after 32 on 16") as error:
        choose_decode_sizes(config, 32, memory(1), **fixed)
    least = parse_bytes(str(error.value).split("at least ")[1].rstrip("."))
    assert choose_decode_sizes(config, 32, memory(least), wanted=9, **fixed).decode_slots == 1


@pytest.mark.parametrize("rows", [0, -1])
def test_tiles_need_a_row(config, rows):
    fixed = {"positions": 8, "max_new_tokens": 4}
    for choose in (
        lambda: choose_sizes(config, 32, 16, memory(10**6, rows=rows)),
        lambda: choose_decode_sizes(config, 32, memory(10**6, rows=rows), **fixed),
    ):
        with pytest.raises(ValueError, match=f"a tile has 1 to 512 rows, not {rows}"):
            choose()


# Text


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("512MiB", 2**29), ("1.5e9", 1.5e9), (" 3 kb", 3000)]
)
def test_parse_bytes_reads_units(text, size):
    assert parse_bytes(text) == size
    assert parse_bytes(format_bytes(int(size))) >= size


@pytest.mark.parametrize("text", ["", "GB", "2XB", "two", "-1GB", "0", "nan", "inf", "1e99"])
def test_parse_bytes_refuses_other_text(text):
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


# Buffers


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
def test_rows_are_written_alike_on_every_device(write):
    buffer, values = jnp.zeros((4, 2, 3)), jnp.arange(1.0, 13).reshape(2, 2, 3)
    expected = np.zeros(buffer.shape)
    expected[[3, 1]] = values
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
    if jax.__version_info__ < (0, 11):  # newer ones need no `stored_as`
        assert "f32[999" in compiled("bfloat16")

"""The memory budget, sizes as text, and the sizes of buffers and tiles."""

import os
from types import SimpleNamespace

import jax
import pytest

from cola_jax.execute.memory import (
    ACCELERATOR,
    CPU,
    DecodeSizes,
    Memory,
    Sizes,
    choose_decode_sizes,
    choose_sizes,
    default_budget,
    device_memory,
    format_bytes,
    parse_size,
    row_tokens,
    tile_rows,
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
    assert choose_sizes(config, 32, 16, memory(10**9), wanted=384).slots == 512
    states = (sizes.slots + 1) * tokens * config.width * 4
    outputs = (sizes.outputs + 1) * reads * config.width * 4
    assert states + outputs + sizes.unembedded * config.vocab_size * 12 <= budget
    assert states > budget / 3  # most goes to states


def least_of(error):
    """Reads the budget that an error names."""
    return parse_size(str(error.value).split("at least ")[1].rstrip("."))


def test_choose_sizes_names_a_budget_that_is_enough(config):
    for sharing in (1, 2):
        with pytest.raises(ValueError, match=r"budget of 10\dB is too small") as error:
            choose_sizes(config, 32, 16, memory(100 + sharing, sharing=sharing))
        sizes = choose_sizes(config, 32, 16, memory(least_of(error), sharing=sharing))
        assert sizes == Sizes(slots=2, outputs=1, unembedded=8)
    fixed = {"positions": 16, "max_new_tokens": 9}
    with pytest.raises(ValueError, match="too small to decode 9 tokens after 32 on 16") as error:
        choose_decode_sizes(config, 32, memory(1), **fixed)
    sizes = choose_decode_sizes(config, 32, memory(least_of(error)), wanted=9, **fixed)
    assert sizes.decode_slots == 1


@pytest.mark.parametrize("budget", [2 * 10**6, 10**8])
@pytest.mark.parametrize(("backend", "tile_tokens"), [("cpu", None), ("cpu", 2), ("tpu", None)])
def test_choose_decode_sizes_stays_within_the_budget(config, budget, backend, tile_tokens):
    tokens, new, itemsize = 32, 9, 4
    sizes = choose_decode_sizes(
        config,
        tokens,
        memory(budget, backend=backend, tile_tokens=tile_tokens),
        positions=12,
        max_new_tokens=new,
        wanted=10**6,
    )
    assert sizes.positions == 16
    assert sizes.blocks == sizes.decode_slots * sizes.positions
    token = 2 * config.num_kv_heads * config.head_dim * itemsize
    blocks = (sizes.blocks + 1) * (tokens + new) * token
    # a step reads the blocks of a whole tile
    tile = sizes.rows * (tokens + new) * token
    states = (sizes.slots + 1) * tokens * config.width * itemsize
    logits = sizes.unembedded * config.vocab_size * 12
    assert blocks + tile + states + logits <= budget


def test_choose_decode_sizes_takes_no_more_slots_than_wanted(config):
    fixed = {"positions": 8, "max_new_tokens": 4}
    few = choose_decode_sizes(config, 32, memory(10**9), wanted=5, **fixed)
    assert few == DecodeSizes(8, 8, blocks=64, slots=44, rows=16, unembedded=8, kept=4)
    assert choose_decode_sizes(config, 32, memory(10**9), wanted=999, **fixed).decode_slots == 64
    wide = choose_decode_sizes(config, 32, memory(10**9, backend="tpu"), wanted=999, **fixed)
    assert (wide.decode_slots, wide.rows, wide.unembedded) == (256, 64, 64)
    assert wide.kept == 16  # tokens that a TPU's kernel writes together


@pytest.mark.parametrize("limits", [CPU, ACCELERATOR])
def test_tiles_have_about_the_tokens_of_the_limits(limits):
    """Of few numbers of tokens, with at most an eighth of a row of some length as padding."""
    shapes = {row_tokens(limits, tokens) for tokens in range(1, 4097)}
    assert len(shapes) < 60
    for tokens in range(1, 4097):
        padded = row_tokens(limits, tokens)
        assert padded % limits.multiple == 0
        assert 0 <= padded - tokens < max(limits.multiple, tokens / 4)
        rows = tile_rows(limits, padded)
        assert 1 <= rows <= 512
        if 1 < rows < 512:
            assert limits.tile_tokens / 1.5 <= rows * padded <= limits.tile_tokens * 1.5
    assert tile_rows(limits._replace(tile_tokens=10**9), 8) == 512
    assert memory(1, tile_tokens=5).limits == CPU._replace(tile_tokens=5)


# Text


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("512MiB", 2**29), ("1.5e9", 1.5e9), (" 3 kb", 3000)]
)
def test_parse_size_reads_units(text, size):
    assert parse_size(text) == size
    assert isinstance(parse_size(text), int)
    assert parse_size(format_bytes(int(size))) >= size


@pytest.mark.parametrize(
    "text", ["", "GB", "2XB", "-1GB", "0", "nan", "1e99", "0%", "101%", "50%B"]
)
def test_parse_size_refuses_other_text(text):
    with pytest.raises(ValueError, match=r"size|share"):
        parse_size(text)


MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device(platform, **stats):
    return SimpleNamespace(platform=platform, memory_stats=lambda: stats)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Returns a machine's memory under control groups: the text of a process, and of limits."""

    def of(own, limits):
        for name, limit in limits.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(limit)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr("cola_jax.execute.memory.OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr("cola_jax.execute.memory.GROUPS", tmp_path)
        devices = jax.local_devices()
        return device_memory(devices[0]) * len(devices)

    return of


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "1000000\n"}, 10**6),
        ("0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "1000000"}, 10**6),
        ("5:cpu,memory:/a\n", {"memory/a/memory.limit_in_bytes": "1000000"}, 10**6),
        ("5:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "1000000"}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("", {}, MACHINE),
    ],
)
def test_device_memory_is_within_the_limits_of_containers(machine, own, limits, expected):
    assert expected - 8 <= machine(own, limits) <= expected  # shared by up to eight devices


def test_default_budget_is_half_of_what_the_weights_leave(machine):
    gpu = device("gpu", bytes_limit=1000, bytes_in_use=600)
    assert default_budget(gpu, weights=500) == 200
    assert default_budget(gpu, weights=800) == 100  # not loaded yet
    total = machine("0::/\n", {"memory.max": "8000000"}) // len(jax.local_devices())
    assert default_budget(jax.local_devices()[0], weights=0) == total // 2
    assert default_budget(jax.local_devices()[0], weights=total // 2) == total // 4
    assert default_budget(jax.local_devices()[0], weights=2 * total) == total // 8
    with pytest.raises(ValueError, match="does not report its memory: give a memory budget"):
        default_budget(device("tpu"), weights=0)

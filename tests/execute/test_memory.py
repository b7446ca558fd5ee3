"""The memory budget, sizes as text, and the sizes of buffers and tiles."""

import dataclasses
import math
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cola_jax.execute.memory import (
    ACCELERATOR,
    CPU,
    Memory,
    PageSizes,
    Sizes,
    choose_decode_sizes,
    choose_sizes,
    count_states,
    default_budget,
    device_memory,
    format_bytes,
    held_bytes,
    parse_size,
    row_tokens,
    tile_rows,
)
from cola_jax.prompts import Prompts
from tests import oracle
from tests.execute import batches


@pytest.fixture(scope="module")
def config(model):
    return model.config


def memory(budget, **changes):
    return Memory(**{"budget": budget, "sharing": 1, "itemsize": 4, "backend": "cpu"} | changes)


def choose(config, batch, **workload):
    return choose_decode_sizes(config, 32, batch, **{"lengths": [32], "wanted": 64} | workload)


@pytest.mark.parametrize(("backend", "budget"), [("cpu", 10**5), ("cpu", 10**8), ("tpu", 10**6)])
def test_choose_sizes_stays_within_the_budget(config, backend, budget):
    for tokens, reads in ((32, 16), (96, 64)):
        sizes = choose_sizes(config, tokens, reads, memory(budget, backend=backend), wanted=10**9)
        states = (sizes.slots + 1) * tokens * config.width * 4
        outputs = (sizes.outputs + 1) * reads * config.width * 4
        assert states + outputs + sizes.unembedded * config.vocab_size * 12 <= budget
        assert states > budget / 3  # most goes to states
    assert choose_sizes(config, 32, 16, memory(10**9), wanted=385).slots == 416


def test_count_states_follows_questions_and_evaluations(config):
    a_path_each = count_states(config, 8, wave=1, evaluations=0)
    assert a_path_each == 8 * config.num_layers
    assert count_states(config, 8, wave=16, evaluations=0) == 4 * a_path_each
    assert count_states(config, 8, wave=16, evaluations=200) == 20 * a_path_each
    assert count_states(config, 16, wave=16, evaluations=200) == 40 * a_path_each


@pytest.mark.parametrize("sharing", [1, 2])
def test_choose_sizes_names_a_budget_that_is_enough(config, sharing):
    def paths(memory_budget):
        return choose_sizes(config, 32, 16, memory(memory_budget, sharing=sharing))

    def decoding(memory_budget):
        batch = memory(memory_budget, sharing=sharing)
        return choose(config, batch, wanted=9, positions=16, max_new_tokens=9)

    least = Sizes(slots=2, outputs=1, unembedded=8)
    assert paths(batches.least_budget(paths)) == least
    assert decoding(batches.least_budget(decoding)).decode_slots == 1


@pytest.mark.parametrize("budget", [3 * 10**6, 10**8])
@pytest.mark.parametrize(("backend", "tile_tokens"), [("cpu", 2), ("tpu", None)])
def test_choose_decode_sizes_stays_within_the_budget(config, budget, backend, tile_tokens):
    batch = memory(budget, backend=backend, tile_tokens=tile_tokens)
    sizes = choose(config, batch, wanted=10**6, positions=12, max_new_tokens=200)
    assert sizes.positions == 16
    token = 2 * config.kinds[0].num_kv_heads * config.kinds[0].head_dim * 4
    taken = (sizes.slots + 1) * 32 * config.width * 4 + sizes.unembedded * config.vocab_size * 12
    for pages, tokens in ((sizes.prompts, 32), (sizes.texts, 200)):
        assert (pages.most - 1) * pages.tokens < tokens <= pages.most * pages.tokens
        # at least a row of full length, and half of it for each of several
        rows = max(1, sizes.decode_slots / 2)
        assert pages.pages[0] >= rows * sizes.positions * pages.most
        # a step gathers the pages of a whole tile, but on a CPU
        read = 1 if backend == "cpu" else pages.most
        pages_in_all = pages.pages[0] + 1 + max(sizes.heights) * read
        taken += pages_in_all * pages.tokens * token
    assert taken <= budget


def test_choose_decode_sizes_has_whole_texts_where_memory_allows(config):
    """Else half of them, which rows of all ages have on average, in as many slots."""
    workload = {"positions": 8, "max_new_tokens": 320}
    whole, half = (choose(config, memory(budget), **workload) for budget in (10**9, 16 * 10**6))
    assert whole.decode_slots == half.decode_slots == 64
    assert whole.texts == PageSizes(tokens=32, most=10, pages=(64 * 8 * 10,))
    assert 64 * 8 * 5.5 <= half.texts.pages[0] < 64 * 8 * 10
    short = choose(config, memory(10**9), lengths=[32, *[8] * 31], **workload)
    assert short.prompts == whole.prompts  # a page each
    long = choose_decode_sizes(
        config, 320, memory(10**9), lengths=[320, *[8] * 31], wanted=64, **workload
    )
    assert long.prompts == PageSizes(tokens=32, most=10, pages=(math.ceil(64 * 8 * 41 / 32),))


def test_pages_fit_on_a_chip(config):
    """Of heads that are wide, or many, they have fewer tokens."""
    (kind,) = config.kinds
    heads = dataclasses.replace(kind, num_kv_heads=64, num_heads=64, head_dim=128)
    wide = dataclasses.replace(config, kinds=(heads,))
    batch = memory(10**9, backend="tpu", itemsize=2)
    sizes = choose(wide, batch, positions=8, max_new_tokens=64)
    assert sizes.texts.tokens * 64 * 128 * 2 <= 2**19
    assert sizes.texts.tokens % 16 == 0


def test_caches_have_blocks_for_the_layers_of_their_kinds(pair):
    """And a few more; a Qwen3.5 attends in a third of these layers."""
    config, fixed = pair("qwen3.5").ours.config, {"positions": 16, "max_new_tokens": 8}
    fixed["max_new_tokens"] = 40  # two pages, but of a recurrence
    attending, recurrent = math.ceil(64 * 16 * 5 / 12), math.ceil(64 * 16 * 10 / 12)
    if config.kinds[0].convolution:
        attending, recurrent = recurrent, attending
    sizes = choose(config, memory(10**9), **fixed)
    assert sizes.prompts.pages == (attending, recurrent)
    assert sizes.texts.most == 2


def test_prompts_of_a_whole_task_count_as_those_of_a_batch(pair):
    """Where layers have embeddings of their own."""
    config = pair("gemma4-e").ours.config
    few, many = (
        held_bytes(config, Prompts.plain(np.zeros((n, 8), np.int32)), 8, memory(1))
        for n in (32, 999)
    )
    assert few == many == 32 * 8 * oracle.LAYERS * 6 * 4


def test_choose_decode_sizes_takes_no_more_slots_than_wanted(config):
    workload = {"positions": 8, "max_new_tokens": 4}
    few, many, wide = (
        choose(config, memory(10**9, backend=backend), wanted=wanted, **workload)
        for wanted, backend in ((5, "cpu"), (999, "cpu"), (999, "tpu"))
    )
    assert [sizes.decode_slots for sizes in (few, many, wide)] == [8, 128, 256]
    assert [sizes.heights for sizes in (few, many, wide)] == [(8,), (8, 16, 64), (16, 64)]
    assert (few.texts.tokens, wide.texts.tokens) == (4, 16)  # those a TPU's kernel writes together


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


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("512MiB", 2**29), ("1.5e9", 1.5e9), (" 3 kb", 3000)]
)
def test_parse_size_reads_units(text, size):
    assert parse_size(text) == size
    assert isinstance(parse_size(text), int)
    assert parse_size(format_bytes(int(size))) >= size


@pytest.mark.parametrize("text", ["", "GB", "2XB", "-1GB", "0", "nan", "1e99", "0%", "101%"])
def test_parse_size_refuses_other_text(text):
    with pytest.raises(ValueError, match=r"size|share"):
        parse_size(text)


MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device(platform, **stats):
    return SimpleNamespace(platform=platform, memory_stats=lambda: stats)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Returns a machine's memory, given the groups of a process and the limits of groups."""

    def memory_of(groups, limits):
        for name, text in {"own": groups, **limits}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr("cola_jax.execute.memory.OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr("cola_jax.execute.memory.GROUPS", tmp_path)
        devices = jax.local_devices()
        return device_memory(devices[0]) * len(devices)

    return memory_of


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

"""The memory budget, and the sizes of the buffers of a batch."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from cola_jax.config import LayerConfig, ModelConfig
from cola_jax.errors import InputError, shown
from cola_jax.kernels.tpu_decode import WRITTEN, page_tokens
from cola_jax.model import recurrent_shapes
from cola_jax.prompts import Prompts

LOGITS = 3  # arrays [U, V] of float32 alive while logits are read
MOST_ROWS = 512  # each is written by an operation of its own
FEWEST_SLOTS = 2
FEWEST_POSITIONS = 8  # unembedded at a time
SIZE = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:E\d+)?) ?(%|(?:([KMGT])(I?))?B?)")
SHARE = 0.5  # of the memory that is free, by default
# Evaluations of a search for which there are as many slots as a path has layers. Each adds a
# quarter of these as states, and keeping 40 % of all leaves 2 % to be run again after 100
# simulations, 4 % after 200 (8 questions, SmolLM2, ARC-Easy); keeping all takes 1.5 GB more there.
EVALUATIONS_KEPT = 10
PATHS_KEPT = 4  # of a question in a single wave, whose states have slots
SPARED = 0.25  # of the blocks of a cache, for paths with more layers of its kinds than the model
GROUPS = Path("/sys/fs/cgroup")  # limits of containers and services on Linux
OWN_GROUPS = Path("/proc/self/cgroup")


class Limits(NamedTuple):
    """The sizes that suit a kind of device."""

    tile_tokens: int  # enough that reading a layer's weights pays off
    heights: tuple[float, ...]  # of smaller tiles, for what is left over: parts of `tile_tokens`
    unit: int  # of the tokens of tiles
    page: int  # tokens of a state that are read and written together
    multiple: int  # of the tokens of prefixes and of rows that run without a plan
    threads: int  # batches that share a worker: the host plans one while devices run another
    questions: int  # of a batch: with more of them, fewer tiles are filled in part
    batch_tokens: int  # of the prompts of a batch: with more, a wave would take minutes
    outputs: int  # paths whose last layers are kept until they are unembedded
    positions: int  # unembedded at a time
    prefix_states: int  # of a common prefix, where paths differ
    decode_slots: int
    decode_rows: tuple[int, ...]  # heights of tiles
    decode_fixed: int  # rows that take as long as a tile takes beside its rows
    decode_positions: int  # rows whose logits are made at a time while decoding
    decode_questions: int  # of a batch whose answers are decoded
    decode_page: int  # tokens whose keys and values are kept together, at most
    decode_multiple: int  # of the tokens of a page


# A CPU packs a layer's weights for every product: tiles of 288 tokens take 7 to 10 % less a token
# than those of 144.
CPU = Limits(
    tile_tokens=288,
    heights=(2 / 3, 1 / 3, 1 / 6),
    unit=16,
    page=1,
    multiple=8,
    threads=1,
    questions=32,
    batch_tokens=2048,
    outputs=256,
    positions=128,
    prefix_states=1024,
    decode_slots=128,
    decode_rows=(8, 16, 64),
    decode_fixed=11,
    decode_positions=64,
    decode_questions=256,
    decode_page=32,
    decode_multiple=1,
)
ACCELERATOR = Limits(
    tile_tokens=2048,
    heights=(1 / 2, 1 / 4, 1 / 8),
    unit=128,
    page=16,
    multiple=16,
    threads=2,
    questions=64,
    batch_tokens=2**20,
    outputs=1024,
    positions=256,
    prefix_states=4096,
    decode_slots=256,
    decode_rows=(16, 64),
    decode_fixed=256,
    decode_positions=64,
    decode_questions=1024,
    decode_page=128,
    decode_multiple=WRITTEN,
)


def limits_of(backend: str) -> Limits:
    """Return the limits of a backend."""
    return CPU if backend == "cpu" else ACCELERATOR


def default_limits() -> Limits:
    """Return the limits of the backend that JAX uses."""
    return limits_of(jax.default_backend())


class Memory(NamedTuple):
    """The memory for the buffers of a device, and the facts that decide their sizes."""

    budget: int  # bytes for all buffers of `sharing` batches together
    sharing: int
    itemsize: int  # bytes of an activation
    backend: str
    tile_tokens: int | None = None  # chosen by backend when None

    @property
    def limits(self) -> Limits:
        """The limits of the backend."""
        limits = limits_of(self.backend)
        return limits if self.tile_tokens is None else limits._replace(tile_tokens=self.tile_tokens)

    def for_batch(self, least: int, task: str) -> int:
        """Return the bytes for a batch; InputError where they are less than `least`."""
        if self.budget // self.sharing < least:
            raise InputError(
                f"a memory budget of {format_bytes(self.budget)} is too small to {task}: give at "
                f"least {format_bytes(self.sharing * least)}."
            )
        return self.budget // self.sharing


class Sizes(NamedTuple):
    """The shapes that programs depend on, beside the model's own and the tokens."""

    slots: int  # S
    outputs: int  # O, paths whose last layer is kept until it is unembedded
    unembedded: int  # U, positions unembedded at a time


def count_states(config: ModelConfig, questions: int, wave: int, evaluations: int) -> int:
    """Return the number of states to keep, of questions with so many paths a wave and in all."""
    paths = max(min(wave, PATHS_KEPT), evaluations // EVALUATIONS_KEPT)
    return questions * paths * config.num_layers


def choose_sizes(
    config: ModelConfig, tokens: int, reads: int, memory: Memory, wanted: int = 0, held: int = 0
) -> Sizes:
    """Choose the sizes of a batch for T and Q, and the most states that it can use.

    `held` are the bytes of its prompts, as `held_bytes`.
    Raises InputError where the budget is too small for a path, naming one that is enough.
    """
    state, output = (n * config.state_width * memory.itemsize for n in (tokens, reads))
    logits = LOGITS * 4 * config.vocab_size
    # padding rows write to one more slot and one more output
    least = (FEWEST_SLOTS + 1) * state + 2 * output + FEWEST_POSITIONS * logits + held
    budget = memory.for_batch(least, f"run paths of {tokens} tokens")
    # of the rest, an eighth each for outputs and logits, which need no more than a few
    eighth = (budget - least) // 8
    most = floor_power(FEWEST_POSITIONS + eighth // logits)
    unembedded = int(np.clip(most, FEWEST_POSITIONS, memory.limits.positions))
    outputs = int(np.clip(1 + eighth // output, 1, memory.limits.outputs))
    slots = (budget - held - unembedded * logits - (outputs + 1) * output) // state - 1
    return Sizes(min(slots, few_sizes(max(wanted, FEWEST_SLOTS))), outputs, unembedded)


class PageSizes(NamedTuple):
    """Pages of keys and values: those of prompts, or those of decoded texts."""

    tokens: int  # X, of a page
    most: int  # of the longest prompt or text at a layer
    pages: tuple[int, ...]  # M of each cache


class DecodeSizes(NamedTuple):
    """The shapes of decoding, beside the model's own and the tokens of prompts and texts."""

    decode_slots: int  # W, rows decoded at a time
    positions: int  # P, of the longest path
    prompts: PageSizes
    texts: PageSizes
    prefilled: int  # rows whose prompts run at a time
    slots: int  # S, hidden states while they run
    heights: tuple[int, ...]  # R of the tiles of a step
    unembedded: int  # U, rows unembedded at a time


def choose_decode_sizes(
    config: ModelConfig,
    tokens: int,
    memory: Memory,
    *,
    lengths: Sequence[int] | np.ndarray,
    positions: int,
    max_new_tokens: int,
    wanted: int = 1,
    prefix: int = 0,
    held: int = 0,
) -> DecodeSizes:
    """Choose the sizes of a decoder of at most `wanted` rows at a time.

    Prompts have these lengths, and up to T tokens with padding, of which the first `prefix` are run
    elsewhere; `positions` are the layers of the longest path, and `held` the bytes of `held_bytes`.
    Rows take pages as they decode: there are as many slots as have room for texts of half the
    length, which rows of all ages have on average, and pages for whole texts where memory allows.
    Raises InputError where the budget is too small for a row, naming one that is enough.
    """
    limits = memory.limits
    itemsize = memory.itemsize
    positions = round_up(positions, 8)  # few shapes for paths of many lengths
    prefill_rows = tile_rows(limits, limits.multiple)  # at most
    state = (tokens - prefix) * config.state_width * itemsize
    logits = LOGITS * 4 * config.vocab_size
    grows = np.array(growing_caches(config))
    layers = np.bincount(layer_caches(config), minlength=len(grows))
    shares = np.minimum(1, (1 + SPARED) * layers / config.num_layers)

    token = max(kind.num_kv_heads * kind.head_dim for kind in config.kinds) * itemsize

    def page_of(tokens: int, multiple: int) -> tuple[int, int, np.ndarray]:
        """Return the tokens of a page, the pages of so many tokens, and the bytes of a page."""
        size = min(limits.decode_page, page_tokens(token), round_up(tokens, multiple))
        return size, -(-tokens // size), np.array(block_bytes(config, size, itemsize))

    prompt_size, most_prompt, prompt_bytes = page_of(tokens, 1)
    text_size, most_text, text_bytes = page_of(max_new_tokens, limits.decode_multiple)
    mean_prompt = float(np.mean([-(-length // prompt_size) for length in lengths]))
    half = (most_text + 1) / 2
    # what a tile of a step reads: a CPU reads page by page, others gather all
    read = prompt_bytes + text_bytes
    if memory.backend != "cpu":
        read = most_prompt * prompt_bytes + most_text * text_bytes

    def pages_of(slots: int, most: int, mean: float) -> tuple[int, ...]:
        """Return the pages of each cache, enough for the longest path of layers of one kind."""
        rows = np.maximum(positions, np.ceil(slots * positions * shares))
        least = positions * np.where(grows, most, 1)
        pages = np.maximum(least, np.ceil(rows * np.where(grows, mean, 1)))
        return tuple(pages.astype(int).tolist())

    def sizes_of(slots: int, mean_text: float) -> DecodeSizes:
        prefilled = min(slots, limits.questions)
        return DecodeSizes(
            decode_slots=slots,
            positions=positions,
            prompts=PageSizes(prompt_size, most_prompt, pages_of(slots, most_prompt, mean_prompt)),
            texts=PageSizes(text_size, most_text, pages_of(slots, most_text, mean_text)),
            prefilled=prefilled,
            slots=prefilled + 2 * prefill_rows,
            heights=tuple(n for n in limits.decode_rows if n < 2 * slots) or limits.decode_rows[:1],
            unembedded=min(limits.decode_positions, floor_power(slots)),
        )

    def taken(sizes: DecodeSizes) -> int:
        return (
            held
            + (sizes.slots + 1) * state
            + (sizes.unembedded + 1) * logits
            + int((np.array(sizes.prompts.pages) + 1) @ prompt_bytes)
            + int((np.array(sizes.texts.pages) + 1) @ text_bytes)
            + max(sizes.heights) * int(read.sum())
        )

    task = f"decode {max_new_tokens} tokens after {tokens} on {positions} layers"
    budget = memory.for_batch(taken(sizes_of(1, half)), task)
    most = min(limits.decode_slots, ceil_power(wanted))
    slots = next(n for n in range(most, 0, -1) if taken(sizes_of(n, half)) <= budget)
    means = np.linspace(most_text, half, 9).tolist()
    return next(sizes for mean in means if taken(sizes := sizes_of(slots, mean)) <= budget)


def held_bytes(config: ModelConfig, prompts: Prompts, tokens: int, memory: Memory) -> int:
    """Return the bytes of what a batch of prompts of T tokens keeps on a device, whatever the path.

    What layers have of their own for tokens, and the embeddings of pictures.
    """
    of_token = config.num_layers * config.layer_input * memory.itemsize
    pictures = 0 if prompts.embeddings is None else prompts.embeddings[0].nbytes
    questions = round_questions(min(len(prompts.ids), memory.limits.questions))
    return questions * (tokens * of_token + pictures)


def kept_by(config: LayerConfig) -> tuple[Any, ...]:
    """Return what layers of a kind keep: the shapes of a recurrence, or of keys for a token."""
    if config.convolution:
        return recurrent_shapes(config)
    return config.num_kv_heads, config.head_dim


def caches_of(config: ModelConfig) -> list[int]:
    """Return the number of the cache of each kind of layer; those that keep the same share one."""
    distinct = distinct_caches(config)
    return [distinct.index(kept_by(kind)) for kind in config.kinds]


def growing_caches(config: ModelConfig) -> list[bool]:
    """Return whether what each cache keeps grows with the tokens; a recurrence's does not."""
    kinds = {kept_by(kind): kind for kind in config.kinds}
    return [not kind.convolution for kind in kinds.values()]


def distinct_caches(config: ModelConfig) -> list[tuple[Any, ...]]:
    """Return what each cache keeps, as `kept_by`."""
    return list(dict.fromkeys(kept_by(kind) for kind in config.kinds))


def layer_caches(config: ModelConfig) -> list[int]:
    """Return the number of the cache of each layer."""
    of_kind = caches_of(config)
    return [of_kind[config.kind_of(layer)] for layer in range(config.num_layers)]


def block_bytes(config: ModelConfig, tokens: int, itemsize: int) -> list[int]:
    """Return the bytes of a block of each cache after `tokens` tokens.

    Layers that attend keep keys and values, and recurrent ones what they carry, in float32.
    """
    sizes = {
        kept_by(each): 4 * sum(map(math.prod, kept_by(each)))
        if each.convolution
        else 2 * tokens * itemsize * math.prod(kept_by(each))
        for each in config.kinds
    }
    return list(sizes.values())


def tile_rows(limits: Limits, tokens: int) -> int:
    """Return R of tiles whose rows have `tokens` tokens."""
    return min(max(1, round(limits.tile_tokens / tokens)), MOST_ROWS)


def row_tokens(limits: Limits, tokens: int) -> int:
    """Round tokens up to one of few numbers, so that at most an eighth of a long row is padding."""
    return round_up(tokens, max(limits.multiple, ceil_power(tokens) // 8))


def parse_size(text: str) -> int | float:
    """Read a size in bytes, such as 2GB, 512MiB or 1.5e9, or a share such as 50% as a float.

    Raises InputError for other text, and for values out of range.
    """
    match = SIZE.fullmatch(text.strip().upper())
    if match is None:
        raise InputError(
            f"{shown(text)} is not a size: write it as 2GB, 512MiB, 1500000000 or 50%."
        )
    number, unit, prefix, binary = match.groups()
    if unit == "%":
        if not 0 < float(number) <= 100:
            raise InputError(f"a share of {shown(text)} is out of range: give one up to 100%.")
        return float(number) / 100
    size = float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " ")
    if not 0 < size < 2**63:
        raise InputError(f"a size of {shown(text)} is out of range.")
    return int(size)


def format_bytes(size: int) -> str:
    """Write a size for people, rounded up in the last digit, so that it is enough."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{-(-size * 10 // unit) / 10:g}{name}"
    return f"{size}B"


def round_up(size: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-size // multiple) * multiple


def few_sizes(size: int) -> int:
    """Round up to one of few numbers, at most an eighth more."""
    return round_up(size, max(1, ceil_power(size) // 16))


def floor_power(size: int) -> int:
    """Round down to a power of two, 0 for 0."""
    return 1 << (size.bit_length() - 1) if size else 0


def round_questions(questions: int) -> int:
    """Round a number of questions up to one of few, so that a smaller batch compiles nothing."""
    return ceil_power(max(questions, 8))


def ceil_power(size: int) -> int:
    """Round up to a power of two."""
    return 1 << (size - 1).bit_length()


def default_budget(device: Any, weights: int) -> int:
    """Return the bytes that buffers may take on a device: half of the memory beside the weights.

    `weights` are their bytes on the device, loaded or not yet. On an accelerator, memory that
    others use is left out. A CPU's share is one of all memory, so that a run that is resumed on the
    same machine cuts its matrix products as before.
    """
    memory = device_memory(device)
    if device.platform == "cpu":
        return int(SHARE * max(memory - weights, memory / 4))  # the rest may be swapped
    return int(SHARE * (memory - max(weights, device.memory_stats()["bytes_in_use"])))


def device_memory(device: Any) -> int:
    """Return the bytes of a device's memory; those of a machine, over its CPU devices."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min([machine, *group_limits()]) // len(jax.local_devices(backend="cpu"))
    stats: Any = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise InputError(f"{device} does not report its memory: give a memory budget in bytes.")
    return stats["bytes_limit"]


def group_limits() -> Iterator[int]:
    """Yield the memory limits of the control groups that this process is in, of both versions."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = GROUPS
        name = "memory.max"
        if controllers:
            root = GROUPS / "memory"
            name = "memory.limit_in_bytes"
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            try:
                yield int((root / folder / name).read_text())
            except (OSError, ValueError):  # no limit: "max", or no such file
                continue

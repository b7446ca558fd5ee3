"""How large the buffers of a batch are: slots, outputs and pieces of logits, in a memory budget."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from cola_jax.config import ModelConfig

SHARE = 0.5  # of an accelerator's free memory, by default
HOST_SHARE = 0.25  # of a machine's memory, which its programs and the weights need as well
LOGITS = 3  # arrays [U, V] of float32 alive while logits are read
FEWEST_SLOTS = 2
FEWEST_PLACES, MOST_PLACES = 8, 256
MOST_OUTPUTS = (1024, 256)  # elsewhere, and on a CPU, where more paths at a time save nothing
MOST_SEATS = (256, 64)
ABREAST = (64, 16)  # rows of a decoding step that run a layer together
MOST_PIECE = (64, 16)  # rows of which logits are made at a time while decoding


class Memory(NamedTuple):
    """What buffers may take on each device, and what decides how much they need."""

    budget: int  # bytes for all buffers, of `sharing` batches or decoders together
    sharing: int
    itemsize: int  # bytes of an activation
    backend: str
    rows: int | None = None  # R of a tile; chosen by backend and tokens when None


class Sizes(NamedTuple):
    """The shapes that decide what is compiled, beside the model's own and the tokens."""

    rows: int  # R, states in a tile
    slots: int  # S
    outputs: int  # O, paths whose last layer is kept until it is unembedded
    piece: int  # U, positions unembedded at a time


def choose_sizes(
    config: ModelConfig,
    tokens: int,
    reads: int,
    memory: Memory,
    wanted: int = FEWEST_SLOTS,
) -> Sizes:
    """Chooses the sizes of one batch.

    Args:
      tokens: T; `reads`: Q.
      wanted: the states that the batch may ever hold; there are no more slots than that.

    Raises ValueError where the budget is too small for one path, naming one that is enough.
    """
    _, sharing, itemsize, backend, rows = memory
    budget = memory.budget // sharing
    rows = default_rows(backend, tokens) if rows is None else rows
    check_rows(rows)
    state, output = (n * config.width * itemsize for n in (tokens, reads))
    logits = LOGITS * 4 * config.vocab_size
    # one more slot and one more output take what padding rows write
    least = (FEWEST_SLOTS + 1) * state + 2 * output + FEWEST_PLACES * logits
    if budget < least:
        raise ValueError(
            f"a memory budget of {format_bytes(sharing * budget)} is too small to run paths of "
            f"{tokens} tokens: give at least {format_bytes(sharing * least)}."
        )
    # of what is left, an eighth each for outputs and logits, which need no more than a few
    eighth = (budget - least) // 8
    piece = int(np.clip(floor_power(FEWEST_PLACES + eighth // logits), FEWEST_PLACES, MOST_PLACES))
    outputs = int(np.clip(1 + eighth // output, 1, MOST_OUTPUTS[backend == "cpu"]))
    slots = (budget - piece * logits - (outputs + 1) * output) // state - 1
    return Sizes(rows, min(slots, ceil_power(wanted)), outputs, piece)


class DecodeSizes(NamedTuple):
    """The shapes of decoding, beside the model's own and the tokens of prompts and texts."""

    seats: int  # W, rows decoded at a time
    positions: int  # P, of the longest path
    cells: int  # M, of keys and values: for prompts, and as many for what rows decode
    slots: int  # S, hidden states while prompts run
    tile: int  # R of prompts
    abreast: int  # R of a decoding step
    piece: int  # U, rows unembedded at a time


def choose_decode_sizes(
    config: ModelConfig,
    tokens: int,
    memory: Memory,
    *,
    positions: int,
    max_new_tokens: int,
    wanted: int = 1,
) -> DecodeSizes:
    """Chooses the sizes of a decoder.

    Args:
      tokens: T of the prompts; `positions`: layers of the longest path.
      wanted: the rows that there will ever be at a time.

    Raises ValueError where the budget is too small for one row, naming one that is enough.
    """
    _, sharing, itemsize, backend, rows = memory
    budget = memory.budget // sharing
    positions = -(-positions // 8) * 8  # few shapes for paths of many lengths
    tile = default_rows(backend, tokens) if rows is None else rows
    abreast = ABREAST[backend == "cpu"] if rows is None else rows
    check_rows(tile)
    state = tokens * config.width * itemsize
    cell = 2 * config.num_kv_heads * config.head_dim * (tokens + max_new_tokens) * itemsize
    logits = LOGITS * 4 * config.vocab_size
    seat = positions * cell + state + logits
    # beside the seats: tiles of prompts, all that a tile of a step sees, and what padding has
    spare = (2 * tile + 1) * state + (abreast + 1) * cell + logits
    if budget < seat + spare:
        raise ValueError(
            f"a memory budget of {format_bytes(sharing * budget)} is too small to decode "
            f"{max_new_tokens} tokens behind {tokens} on {positions} layers: give at least "
            f"{format_bytes(sharing * (seat + spare))}."
        )
    most = min(MOST_SEATS[backend == "cpu"], ceil_power(wanted))
    seats = int(np.clip((budget - spare) // seat, 1, most))
    piece = min(MOST_PIECE[backend == "cpu"], ceil_power(seats))
    return DecodeSizes(seats, positions, seats * positions, seats + 2 * tile, tile, abreast, piece)


def check_rows(rows: int) -> None:
    """Raises ValueError for tiles of no rows."""
    if rows < 1:
        raise ValueError(f"a tile needs at least 1 row, it is to have {rows}.")


def default_rows(backend: str, tokens: int) -> int:
    """Returns R: enough rows that a layer's weights are worth reading.

    A CPU multiplies few rows no faster than some more: about 144 tokens at a time are best.
    """
    return max(1, round(144 / tokens)) if backend == "cpu" else 16


def default_budget(device: Any) -> int:
    """Returns the bytes that a device gives to buffers: a share of what is free on it."""
    if device.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(HOST_SHARE * memory) // len(jax.local_devices(backend="cpu"))
    stats: Any = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise ValueError(f"{device} does not tell its memory: give a memory budget.")
    return int(SHARE * (stats["bytes_limit"] - stats["bytes_in_use"]))


def parse_bytes(text: str) -> int:
    """Reads a size such as 2GB, 512MiB or 1.5e9; ValueError for anything else."""
    units = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    number = text.strip().rstrip("BbIiKkMmGgTt")
    unit = text.strip()[len(number) :].upper()
    try:
        size = float(number) * units[unit]
    except (ValueError, KeyError):
        raise ValueError(
            f"{text!r} is not a size: write it as 2GB, 512MiB or 1500000000."
        ) from None
    if not 0 < size < 2**63:
        raise ValueError(f"a size of {text!r} is out of range.")
    return int(size)


def format_bytes(size: int) -> str:
    """Writes a size for people, rounded up in the last digit, so that it is enough."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{-(-size * 10 // unit) / 10:g}{name}"
    return f"{size}B"


def floor_power(size: int) -> int:
    """Rounds down to a power of two, 0 for 0."""
    return 1 << (size.bit_length() - 1) if size else 0


def capacity(questions: int) -> int:
    """Rounds a number of questions up to one of few, so that a last group compiles nothing."""
    return ceil_power(max(questions, 8))


def ceil_power(size: int) -> int:
    """Rounds up to a power of two."""
    return 1 << (size - 1).bit_length()

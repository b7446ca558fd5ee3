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


class Sizes(NamedTuple):
    """The shapes that decide what is compiled, beside the model's own and the tokens."""

    rows: int  # R, states in a tile
    slots: int  # S
    outputs: int  # O, paths whose last layer is kept until it is unembedded
    piece: int  # U, positions unembedded at a time


def choose_sizes(
    config: ModelConfig,
    *,
    tokens: int,
    reads: int,
    itemsize: int,
    budget: int,
    backend: str,
    wanted: int,
    rows: int | None = None,
) -> Sizes:
    """Chooses the sizes of one batch.

    Args:
      tokens: T; `reads`: Q; `itemsize`: bytes of an activation.
      budget: bytes for all buffers of the batch, on each device.
      wanted: the states that the batch may ever hold; there are no more slots than that.
      rows: R, chosen by backend and tokens when None.

    Raises ValueError where the budget is too small for one path, naming the smallest.
    """
    rows = rows or default_rows(backend, tokens)
    if rows < 1:
        raise ValueError(f"a tile needs at least 1 row, it is to have {rows}.")
    state, output = (n * config.width * itemsize for n in (tokens, reads))
    logits = LOGITS * 4 * config.vocab_size
    piece = int(np.clip(floor_power(budget // 8 // logits), 8, 256))
    outputs = int(np.clip(budget // 8 // output, 1, 1024))
    left = budget - piece * logits - (outputs + 1) * output
    slots = min(left // state - 1, ceil_power(max(wanted, FEWEST_SLOTS)))
    if slots < FEWEST_SLOTS:
        least = (FEWEST_SLOTS + 1) * state + 2 * output + 8 * logits
        # an eighth may go to each of the other two
        least = max(least, 8 * (FEWEST_SLOTS + 1) * state // 6)
        raise ValueError(
            f"a memory budget of {format_bytes(budget)} is too small to run one path of {tokens} "
            f"tokens: give at least {format_bytes(least)}."
        )
    return Sizes(rows, slots, outputs, piece)


def default_rows(backend: str, tokens: int) -> int:
    """Returns R: enough rows that a layer's weights are worth reading.

    A CPU's caches hold few activations, so that there about 96 tokens at a time are best.
    """
    return max(1, 96 // tokens) if backend == "cpu" else 16


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


def ceil_power(size: int) -> int:
    """Rounds up to a power of two."""
    return 1 << (size - 1).bit_length()

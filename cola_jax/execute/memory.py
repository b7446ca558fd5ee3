"""The memory budget: how large the buffers of a batch are, and how they are read and written."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, shown

LOGITS = 3  # arrays [U, V] of float32 alive while logits are read
MOST_ROWS = 512  # each is written by an operation of its own
FEWEST_SLOTS = 2
FEWEST_POSITIONS, MOST_POSITIONS = 8, 256  # unembedded at a time
MOST_OUTPUTS = (1024, 256)  # elsewhere, and on a CPU, where more paths at a time save nothing
MOST_DECODE_SLOTS = (256, 64)
DECODE_ROWS = (64, 16)  # rows of a decode step that run a layer together
WRITTEN = 16  # decoded tokens that a TPU's kernel writes together
MULTIPLE = (WRITTEN, 1)  # of the tokens of a decoded block
MOST_DECODE_POSITIONS = (64, 16)  # rows whose logits are made at a time while decoding
MOST_GATHERED = 2**19  # bytes of a row; to gather longer ones, libtpu 0.0.42 copies the buffer
LANES = 128  # of a TPU, in an array's last axis
FLOATS, BITS = jnp.dtype("bfloat16"), jnp.dtype("uint16")


class Memory(NamedTuple):
    """What buffers may take on each device, and what decides how much they need."""

    budget: int  # bytes for all buffers of `sharing` batches together
    sharing: int
    itemsize: int  # bytes of an activation
    backend: str
    rows: int | None = None  # R of a tile; chosen by backend and tokens when None


class Sizes(NamedTuple):
    """The shapes that decide what is compiled, beside the model's own and the tokens."""

    rows: int  # R, states in a tile
    slots: int  # S
    outputs: int  # O, paths whose last layer is kept until it is unembedded
    unembedded: int  # U, positions unembedded at a time


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
      wanted: the states that the batch can use; there are no more slots than that.

    Raises ValueError where the budget is too small for one path, naming one that is enough.
    """
    _, sharing, itemsize, backend, rows = memory
    budget = memory.budget // sharing
    rows = default_rows(backend, tokens) if rows is None else rows
    check_tile_rows(rows)
    state, output = (n * config.width * itemsize for n in (tokens, reads))
    logits = LOGITS * 4 * config.vocab_size
    # one more slot and one more output take what padding rows write
    least = (FEWEST_SLOTS + 1) * state + 2 * output + FEWEST_POSITIONS * logits
    if budget < least:
        raise InputError(
            f"a memory budget of {format_bytes(sharing * budget)} is too small to run paths of "
            f"{tokens} tokens: give at least {format_bytes(sharing * least)}."
        )
    # of what is left, an eighth each for outputs and logits, which need no more than a few
    eighth = (budget - least) // 8
    most = floor_power(FEWEST_POSITIONS + eighth // logits)
    unembedded = int(np.clip(most, FEWEST_POSITIONS, MOST_POSITIONS))
    outputs = int(np.clip(1 + eighth // output, 1, MOST_OUTPUTS[backend == "cpu"]))
    slots = (budget - unembedded * logits - (outputs + 1) * output) // state - 1
    return Sizes(rows, min(slots, ceil_power(wanted)), outputs, unembedded)


class DecodeSizes(NamedTuple):
    """The shapes of decoding, beside the model's own and the tokens of prompts and texts."""

    decode_slots: int  # W, rows decoded at a time
    positions: int  # P, of the longest path
    blocks: int  # M, KV blocks: for prompts, and as many for decoded tokens
    slots: int  # S, hidden states while prompts run
    rows: int  # R of prefill
    decode_rows: int  # R of a decode step
    unembedded: int  # U, rows unembedded at a time
    kept: int  # X, the most decoded tokens of a row, rounded up


def choose_decode_sizes(
    config: ModelConfig,
    tokens: int,
    memory: Memory,
    *,
    positions: int,
    max_new_tokens: int,
    wanted: int = 1,
    fixed: bool = False,
    prefix: int = 0,
) -> DecodeSizes:
    """Chooses the sizes of a decoder.

    Args:
      tokens: T of the prompts, of which the first `prefix` are run elsewhere; `positions`: layers
        of the longest path.
      wanted: the most rows that there will be at a time.
      fixed: whether the logits of a row may not depend on how many rows there are.

    Raises ValueError where the budget is too small for one row, naming one that is enough.
    """
    _, sharing, itemsize, backend, rows = memory
    budget = memory.budget // sharing
    positions = -(-positions // 8) * 8  # few shapes for paths of many lengths
    cpu = backend == "cpu"
    prefill_rows = default_rows(backend, tokens - prefix) if rows is None else rows
    decode_rows = DECODE_ROWS[cpu] if rows is None else rows
    check_tile_rows(prefill_rows)
    state = (tokens - prefix) * config.width * itemsize
    kept = -(-max_new_tokens // MULTIPLE[cpu]) * MULTIPLE[cpu]
    block = 2 * config.num_kv_heads * config.head_dim * (tokens + kept) * itemsize
    logits = LOGITS * 4 * config.vocab_size
    slot = positions * block + state + logits
    # beside the decode slots: prefill tiles, all that a tile of a step reads, and padding
    spare = (2 * prefill_rows + 1) * state + (decode_rows + 1) * block + logits
    if budget < slot + spare:
        raise InputError(
            f"a memory budget of {format_bytes(sharing * budget)} is too small to decode "
            f"{max_new_tokens} tokens after {tokens} on {positions} layers: give at least "
            f"{format_bytes(sharing * (slot + spare))}."
        )
    most = min(MOST_DECODE_SLOTS[cpu], ceil_power(wanted))
    decode_slots = int(np.clip((budget - spare) // slot, 1, most))
    return DecodeSizes(
        decode_slots=decode_slots,
        positions=positions,
        blocks=decode_slots * positions,
        slots=decode_slots + 2 * prefill_rows,
        rows=prefill_rows,
        decode_rows=decode_rows,
        # rounding depends on how many rows a matrix product has
        unembedded=MOST_DECODE_POSITIONS[cpu]
        if fixed
        else min(MOST_DECODE_POSITIONS[cpu], ceil_power(decode_slots)),
        kept=kept,
    )


def check_tile_rows(rows: int) -> None:
    """Raises ValueError for tiles without rows, and those that take minutes to compile."""
    if not 1 <= rows <= MOST_ROWS:
        raise InputError(f"a tile has 1 to {MOST_ROWS} rows, not {rows:,}.")


def default_rows(backend: str, tokens: int) -> int:
    """Returns R: enough rows that reading a layer's weights pays off.

    A CPU multiplies a few rows no faster than some more: about 144 tokens at a time are best.
    """
    return max(1, round(144 / tokens)) if backend == "cpu" else 16


def parse_share(text: str) -> float | None:
    """Reads a share such as 50%; None for anything else. ValueError for one out of range."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / 100
    except ValueError:
        return None
    if not percent or rest:
        return None
    if not 0 < share <= 1:
        raise InputError(f"a share of {shown(text)} is out of range: give one up to 100%.")
    return share


def parse_bytes(text: str) -> int:
    """Reads a size such as 2GB, 2G, 512MiB or 1.5e9; ValueError for anything else."""
    units = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    units |= {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    number = text.strip().rstrip("BbIiKkMmGgTt")
    unit = text.strip()[len(number) :].upper()
    try:
        size = float(number) * units[unit]
    except (ValueError, KeyError):
        raise InputError(
            f"{shown(text)} is not a size: write it as 2GB, 512MiB, 1500000000 or 50%."
        ) from None
    if not 0 < size < 2**63:
        raise InputError(f"a size of {shown(text)} is out of range.")
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
    """Rounds a number of questions up to one of few, so that a smaller batch compiles nothing."""
    return ceil_power(max(questions, 8))


def ceil_power(size: int) -> int:
    """Rounds up to a power of two."""
    return 1 << (size - 1).bit_length()


def stored_as(dtype: Any, platform: str) -> jnp.dtype:
    """Returns the dtype in which a buffer stores values of a dtype.

    XLA's CPU compiler updates no bfloat16 buffer in place: it converts all of it to float32 and
    back for each row that is written, and for a gather. So on a CPU such a buffer holds bits: a
    wave of 24 paths through SmolLM2's shapes in bfloat16 took 114 s before, and 2.8 s since.
    """
    dtype = jnp.dtype(dtype)
    return BITS if platform == "cpu" and dtype == FLOATS else dtype


def get(
    buffer: Shaped[Array, " S *X"], rows: Int[Array, " R"], *part: slice
) -> Float[Array, " R *Y"]:
    """Takes rows, or a part of each, as the floats that were written."""
    at_once, by_rows = (functools.partial(f, part=part) for f in (get_at_once, get_by_rows))
    on_tpu = by_rows if buffer.nbytes > MOST_GATHERED * len(buffer) else at_once
    values = jax.lax.platform_dependent(buffer, rows, tpu=on_tpu, default=at_once)
    return jax.lax.bitcast_convert_type(values, FLOATS) if values.dtype == BITS else values


def get_at_once(buffer: Array, rows: Array, part: tuple[slice, ...] = ()) -> Array:
    """Reads rows in one operation."""
    return buffer[rows, *part]


def get_by_rows(buffer: Array, rows: Array, part: tuple[slice, ...] = ()) -> Array:
    """Reads rows one by one: to gather large rows, a TPU's compiler may copy the whole buffer.

    The constraint keeps it from copying the buffer to the order of axes in which the values are
    used. Arrays of other widths than whole lanes have an order of their own in memory.
    """
    taken = [jax.lax.dynamic_index_in_dim(buffer, row, keepdims=False)[part] for row in rows]
    values = jnp.stack(taken)
    if values.shape[-1] % LANES:
        return values
    return with_layout_constraint(values, Layout(tuple(range(values.ndim))))


def put(
    buffer: Shaped[Array, " S *X"], values: Float[Array, " R *X"], rows: Int[Array, " R"]
) -> Shaped[Array, " S *X"]:
    """Writes rows, in place where the buffer is donated."""
    values = as_stored(buffer, values)
    return jax.lax.platform_dependent(buffer, values, rows, cuda=put_at_once, default=put_by_rows)


def put_at_once(buffer: Array, values: Array, rows: Array) -> Array:
    """Writes rows in one operation: on a GPU each costs a kernel."""
    return buffer.at[rows].set(values, mode="promise_in_bounds")


def put_by_rows(buffer: Array, values: Array, rows: Array) -> Array:
    """Writes rows one by one: elsewhere than on a GPU, a scatter may copy the buffer."""
    for row in range(len(values)):
        buffer = jax.lax.dynamic_update_index_in_dim(buffer, values[row], rows[row], 0)
    return buffer


def as_stored(buffer: Shaped[Array, "*S"], values: Float[Array, "*X"]) -> Shaped[Array, "*X"]:
    """Returns values as a buffer stores them."""
    return jax.lax.bitcast_convert_type(values, BITS) if buffer.dtype == BITS else values

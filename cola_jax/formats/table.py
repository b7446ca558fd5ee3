"""The conversion table: a row for each weight, the source that it reads, and the conversion."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from einops import rearrange
from einops.parsing import ParsedExpression

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, printed, shorten, shown
from cola_jax.int8 import INPUTS, Int8, quantize
from cola_jax.params import axis_sizes, shapes

Q8_BLOCK = 32  # values of GGUF's Q8_0 with a scale, along the last axis
COUNTERS = {"i": "L", "e": "E"}  # placeholders in names, and our axis of layers or experts


class Row(NamedTuple):
    """A weight: our field, their name, and both layouts as an einops pattern, theirs first."""

    ours: str
    theirs: str
    pattern: str
    offset: float = 0.0  # added to their values


class Tensors(Protocol):
    """The tensors of a checkpoint by name; their shapes are known before any data is read."""

    @property
    def place(self) -> Path: ...  # the file or folder, for errors

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> np.ndarray:
        """Read one tensor; each name is read once, in any order."""
        ...


Q8 = Mapping[str, Callable[[], Int8]]  # tensors in blocks of eight bits by name, to be read


class Source(NamedTuple):
    """A checkpoint opened for conversion, of which only names and shapes have been read."""

    config: ModelConfig
    rows: tuple[Row, ...]
    tensors: Tensors
    dtype: np.dtype  # of the converted weights, unless the caller asks for another
    write_tokenizer: Callable[[Path], None]  # writes into an existing directory
    origin: dict[str, Any]  # recorded in the metadata
    stop_tokens: tuple[int, ...]  # empty where only the tokenizer can tell
    q8: Q8 = MappingProxyType({})  # the tensors that are stored so, unread


def check(
    tensors: Tensors,
    rows: tuple[Row, ...],
    config: ModelConfig,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Compare the names and shapes of a checkpoint with its table, before data is read.

    Raises a ValueError that lists all missing, unmapped and mis-shaped tensors.
    """
    wanted = {name: shape for row in rows for _, name, shape in expected(row, config)}
    stored = {name: shape for name, shape in tensors.shapes.items() if not ignored(name)}
    problems = []
    if missing := sorted(set(wanted) - set(stored)):
        problems.append(f"missing {shorten(missing)}")
    if unmapped := sorted(set(stored) - set(wanted)):
        problems.append(f"unmapped {shorten([printed(name) for name in unmapped])}")
    misshaped = [
        f"{name} is {shown(tuple(stored[name]))} and should be {wanted[name]}"
        for name in sorted(set(wanted) & set(stored))
        if tuple(stored[name]) != wanted[name]
    ]
    if misshaped:
        problems.append(f"mis-shaped {shorten(misshaped)}")
    if problems:
        raise InputError(
            f"{tensors.place}: the checkpoint's tensors do not match its config: "
            f"{'; '.join(problems)}. Is the download complete, and the config the one it was saved "
            "with?"
        )


def expected(
    row: Row, config: ModelConfig
) -> Iterator[tuple[tuple[int, ...], str, tuple[int, ...]]]:
    """Yield each tensor of a row: its index in our array, and its name and shape in theirs."""
    sizes = axis_sizes(config)
    shape = tuple(math.prod(sizes[name] for name in axis) for axis in parse_theirs(row).composition)
    counters = [counter for counter in COUNTERS if f"{{{counter}}}" in row.theirs]
    for index in np.ndindex(*(sizes[COUNTERS[counter]] for counter in counters)):
        yield index, row.theirs.format(**dict(zip(counters, index, strict=True))), shape


def parse_theirs(row: Row) -> Any:
    """Parse the left side of a row's pattern, as einops does; a 1 is an axis without names."""
    return ParsedExpression(row.pattern.split(" -> ")[0])


def stack(
    tensors: Tensors,
    rows: tuple[Row, ...],
    config: ModelConfig,
    dtype: np.dtype,
    on_progress: Callable[[int], None] = lambda nbytes: None,
    q8: Q8 | None = None,
) -> Iterator[tuple[str, np.ndarray | Int8]]:
    """Yield each weight under our field name, stacked over layers.

    Reads one tensor at a time into a preallocated array, and starts a weight only when the
    previous one has been consumed. `on_progress` receives the bytes converted since its last call.
    With `q8`, layers have their matrices in eight bits, and these tensors keep their blocks.
    Raises InputError for a tensor with values that are not finite.
    """
    for row in rows:
        is_int8, scales = q8 is not None and row.ours in INPUTS, []
        array = np.empty(shapes(config)[row.ours], np.int8 if is_int8 else dtype)
        sizes = axis_sizes(config)
        sizes = {name: sizes[name] for name in parse_theirs(row).identifiers}
        blocks = q8 if is_int8 and has_blocks(row, config, q8 or {}) else None
        for index, name, _ in expected(row, config):
            target = floats = array[index]  # a view
            with np.errstate(over="ignore", invalid="ignore"):  # is reported below
                if is_int8:
                    weight = read_int8(tensors, row, name, sizes, blocks)
                    target[...], floats = weight.values, weight.scale
                    scales.append(floats)
                else:
                    values = rearrange(tensors.read(name), row.pattern, **sizes)
                    target[...] = values + row.offset if row.offset else values
            if not np.isfinite(floats).all():
                raise InputError(
                    f"{tensors.place}: tensor {name} has values that are not finite in {dtype}: "
                    "the file is damaged, or needs another --dtype."
                )
            on_progress(target.nbytes)
        if not is_int8:
            yield row.ours, array
            continue
        stacks = array.shape[: array.ndim - scales[0].ndim]
        scale = np.stack(scales).reshape(*stacks, *scales[0].shape)
        yield row.ours, Int8(array, scale)


def has_blocks(row: Row, config: ModelConfig, q8: Q8) -> bool:
    """Return whether all tensors of a row are in blocks, each of them within one of our axes."""
    innermost = axis_sizes(config)[parse_theirs(row).composition[-1][-1]]
    return innermost % Q8_BLOCK == 0 and all(name in q8 for _, name, _ in expected(row, config))


def read_int8(
    tensors: Tensors, row: Row, name: str, sizes: dict[str, int], blocks: Q8 | None
) -> Int8:
    """Read a tensor in our layout, in its blocks or else rounded by output channel."""
    if blocks is None:
        return quantize(rearrange(tensors.read(name), row.pattern, **sizes), INPUTS[row.ours])
    weight, innermost = blocks[name](), parse_theirs(row).composition[-1][-1]
    of_scale = sizes | {innermost: sizes[innermost] // Q8_BLOCK}
    scale = rearrange(weight.scale, row.pattern, **of_scale)
    return Int8(rearrange(weight.values, row.pattern, **sizes), scale)


def unstack(
    weights: Iterable[tuple[str, np.ndarray]],
    rows: tuple[Row, ...],
    config: ModelConfig,
    path: Sequence[int],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a checkpoint by their names there, one by one.

    `weights` are ours, by field name, stacked over the layers of the original; `rows` and `config`
    are those of the model to write, whose layer i is layer `path[i]` of the original. The inverse
    of `stack`, in the dtype of `weights`.
    """
    table = {row.ours: row for row in rows}
    for field, array in weights:
        row = table[field]
        theirs, ours = row.pattern.split(" -> ")
        of_layers = "{i}" in row.theirs
        for index, name, _ in expected(row, config):
            values = array[(path[index[0]], *index[1:])] if of_layers else array
            values = rearrange(values, f"{ours} -> {theirs}")
            yield name, np.ascontiguousarray(values - row.offset if row.offset else values)

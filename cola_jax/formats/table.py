"""The conversion table: a row for each weight, the source that it reads, and the conversion."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from einops import rearrange
from einops.parsing import ParsedExpression

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, printed, shorten, shown
from cola_jax.params import axis_sizes, shapes

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


class Source(NamedTuple):
    """A checkpoint opened for conversion, of which only names and shapes have been read."""

    config: ModelConfig
    rows: tuple[Row, ...]
    tensors: Tensors
    dtype: np.dtype  # of the converted weights, unless the caller asks for another
    write_tokenizer: Callable[[Path], None]  # writes into an existing directory
    origin: dict[str, Any]  # recorded in the metadata
    stop_tokens: tuple[int, ...]  # empty where only the tokenizer can tell


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
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each weight under our field name, stacked over layers.

    Reads one tensor at a time into a preallocated array, and starts a weight only when the
    previous one has been consumed. `on_progress` receives the bytes converted since its last call.
    Raises InputError for a tensor with values that are not finite.
    """
    for row in rows:
        array = np.empty(shapes(config)[row.ours], dtype)
        sizes = axis_sizes(config)
        sizes = {name: sizes[name] for name in parse_theirs(row).identifiers}
        for index, name, _ in expected(row, config):
            values = rearrange(tensors.read(name), row.pattern, **sizes)
            target = array[index]  # a view
            with np.errstate(over="ignore"):  # overflow in the new dtype is reported below
                target[...] = values + row.offset if row.offset else values
            if not np.isfinite(target).all():
                raise InputError(
                    f"{tensors.place}: tensor {name} has values that are not finite in {dtype}: "
                    "the file is damaged, or needs another --dtype."
                )
            on_progress(target.nbytes)
        yield row.ours, array


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

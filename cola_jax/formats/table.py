"""The conversion table: a row for each weight, the source that it reads, and the conversion."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from einops import rearrange
from einops.parsing import ParsedExpression

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, printed, shorten, shown
from cola_jax.params import (
    INPUTS,
    INT8,
    KEYS,
    VALUES,
    Int8,
    axis_sizes,
    field_of,
    kind_of_weight,
    quantize,
    shapes,
    weight_bytes,
)
from cola_jax.progress import OnProgress, ignore_progress
from cola_jax.steps import ATTENTION, MLP, layer_of, missing_part

Q8_BLOCK = 32  # values of GGUF's Q8_0 and Q4_0 with a scale, along the last axis
COUNTERS = ("i", "e")  # placeholders in names, of the layer and the expert
# our fields of the weights without which a part adds nothing
OUTPUTS = {
    ATTENTION: ("o", "o_bias"),
    MLP: ("down", "down_bias", "expert_down", "expert_down_bias"),
}


class Part(NamedTuple):
    """The place of a weight in a tensor that joins several along one of its axes."""

    sizes: tuple[str, ...]  # of all that are joined, in axis letters: ("N H", "K H", "K H")
    number: int
    axis: int = 0
    interleaved: bool = False  # one entry of each in turn, instead of one after the other
    groups: str = ""  # an axis letter: all are joined in each of so many groups, on the first axis

    def view(self, tensor: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """View the weight in the joined tensor; groups have an axis of their own, before its."""
        axis = self.axis
        if self.groups:
            tensor = tensor.reshape(sizes[self.groups], -1, *tensor.shape[1:])
            axis = 1
        if self.interleaved:
            piece = slice(self.number, None, len(self.sizes))
        else:
            ends = [0, *itertools.accumulate(self.lengths(sizes))]
            piece = slice(ends[self.number], ends[self.number + 1])
        return tensor[(*(slice(None),) * axis, piece)]

    def length(self, sizes: Mapping[str, int]) -> int:
        """Return the length of the joined axis."""
        return sum(self.lengths(sizes)) * (sizes[self.groups] if self.groups else 1)

    def lengths(self, sizes: Mapping[str, int]) -> list[int]:
        """Return the length of each weight along the axis."""
        return [math.prod(sizes[name] for name in letters.split()) for letters in self.sizes]


class Row(NamedTuple):
    """A weight: our field, their name, and both layouts as an einops pattern, theirs first."""

    ours: str
    theirs: str
    pattern: str  # of the part, where the tensor joins several weights
    offset: float = 0.0  # added to their values
    part: Part | None = None
    older: str | None = None  # another name that some files have


Table = Mapping[str, Row]  # by our field


def make_table(*rows: Row, base: Table = MappingProxyType({})) -> Table:
    """Return a table of rows, which extend those of another or replace them."""
    return {**base, **{row.ours: row for row in rows}}


def rows_of(table: Table, config: ModelConfig) -> tuple[Row, ...]:
    """Return the rows of the weights that a model of this config has."""

    def row_of(name: str) -> Row:
        # layers of another kind have a weight under the same name, unless the table says otherwise
        return table[name] if name in table else table[field_of(name)]._replace(ours=name)

    return tuple(map(row_of, shapes(config)))


class Tensors(Protocol):
    """The tensors of a checkpoint by name; their shapes are known before any data is read."""

    @property
    def place(self) -> Path: ...  # the file or folder, for errors

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> np.ndarray:
        """Read one tensor, in any order; one that joins several weights is read for each."""
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
    q8: Mapping[str, Callable[[], Int8]] = MappingProxyType({})  # readers of tensors in blocks
    tower: Callable[[], str] | None = None  # reads the parts for pictures, and returns their digest


class Texts(NamedTuple):
    """The parts of a source that texts need: all but its weights."""

    config: ModelConfig
    write_tokenizer: Callable[[Path], None]
    stop_tokens: tuple[int, ...]


def texts_of(source: Source) -> Texts:
    """Return the parts of a source that texts need."""
    return Texts(source.config, source.write_tokenizer, source.stop_tokens)


def local_origin(kind: str, place: Path, license: Any) -> dict[str, Any]:
    """Return the record of a local source; a license that is not a text is not known."""
    license = license if isinstance(license, str) else None
    return {"kind": kind, "name": str(place.resolve()), "revision": None, "license": license}


def check(
    tensors: Tensors,
    rows: tuple[Row, ...],
    config: ModelConfig,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Raise InputError that names missing, unmapped and mis-shaped tensors, before data is read."""
    wanted = {name: shape for row in rows for _, name, shape in expected(row, config)}
    stored = {name: tuple(x) for name, x in tensors.shapes.items() if not ignored(name)}
    problems = {
        "missing": sorted(wanted.keys() - stored.keys()),
        "unmapped": [printed(name) for name in sorted(stored.keys() - wanted.keys())],
        "mis-shaped": [
            f"{name} is {shown(stored[name])} and should be {wanted[name]}"
            for name in sorted(wanted.keys() & stored.keys())
            if stored[name] != wanted[name]
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind} {shorten(names)}" for kind, names in problems.items() if names)
        raise InputError(
            f"{tensors.place}: the checkpoint's tensors do not match its config: {listed}. Is the "
            "download complete, and the config the one it was saved with?"
        )


def unused_names(rows: Sequence[Row], config: ModelConfig) -> set[str]:
    """Return the names of keys and values in files, of layers that share those of others."""
    sharing = [i for i, source in enumerate(config.keys_of) if source is not None]
    own = [row.theirs for row in rows if row.ours in KEYS | VALUES]
    return {theirs.format(i=layer) for theirs in own for layer in sharing}


def expected(
    row: Row, config: ModelConfig
) -> Iterator[tuple[tuple[int, ...], str, tuple[int, ...]]]:
    """Yield each tensor of a row: its index in our array, and its name and shape in theirs."""
    sizes = sizes_of(row, config)
    layers = config.layers_of(kind_of_weight(row.ours))
    shape = [math.prod(sizes[name] for name in axis) for axis in parse_theirs(row).composition]
    if row.part is not None:
        shape[row.part.axis] = row.part.length(sizes)
    counters = [counter for counter in COUNTERS if f"{{{counter}}}" in row.theirs]
    counts = {"i": len(layers), "e": sizes["E"]}
    for index in np.ndindex(*(counts[counter] for counter in counters)):
        numbers = dict(zip(counters, index, strict=True))
        if counters[:1] == ["i"]:
            numbers["i"] = layers[index[0]]
        yield index, row.theirs.format(**numbers), tuple(shape)


def parse_theirs(row: Row) -> Any:
    """Parse the left side of a row's pattern, as einops does; a 1 is an axis without names."""
    return ParsedExpression(row.pattern.split(" -> ")[0])


def stack(
    source: Source,
    dtype: np.dtype | None = None,
    *,
    int8: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[tuple[str, np.ndarray | Int8]]:
    """Yield each weight under our field name, stacked over layers.

    Reads one tensor at a time, and starts a weight only when the previous one has been consumed.
    With `int8`, the matrices of layers get eight bits, where tensors in Q8_0 or Q4_0 keep their
    blocks; all else has `dtype`, by default the source's. Calls `on_progress` with the bytes
    converted so far and the total. Raises InputError for a tensor with values that are not finite.
    """
    config, dtype = source.config, source.dtype if dtype is None else dtype
    total, done = weight_bytes(config, INT8 if int8 else dtype, dtype), 0
    for row in source.rows:
        shape, to_int8, scales = shapes(config)[row.ours], int8 and field_of(row.ours) in INPUTS, []
        array = np.empty(shape, np.int8 if to_int8 else dtype)
        in_blocks = to_int8 and has_blocks(source, row)
        for index, name, _ in expected(row, config):
            target = floats = array[index]  # a view
            with np.errstate(over="ignore", invalid="ignore"):  # is reported below
                if to_int8:
                    weight = read_int8(source, row, name, in_blocks)
                    target[...], floats = weight.values, weight.scale
                    scales.append(floats)
                else:
                    target[...] = read_floats(source, row, name)
            if not np.isfinite(floats).all():
                raise InputError(
                    f"{source.tensors.place}: tensor {name} has values that are not finite in "
                    f"{dtype}: the file is damaged, or needs another --dtype."
                )
            done += target.nbytes
            on_progress(done, total)
        if to_int8:
            of_layers = shape[: len(shape) - scales[0].ndim]
            yield row.ours, Int8(array, np.stack(scales).reshape(*of_layers, *scales[0].shape))
        else:
            yield row.ours, array


def has_blocks(source: Source, row: Row) -> bool:
    """Return whether all tensors of a row are in blocks, each within one of our axes."""
    innermost = sizes_of(row, source.config)[parse_theirs(row).composition[-1][-1]]
    names = (name for _, name, _ in expected(row, source.config))
    return innermost % Q8_BLOCK == 0 and all(name in source.q8 for name in names)


def read_floats(source: Source, row: Row, name: str) -> np.ndarray:
    """Read a tensor in our layout."""
    values = take_part(row, source.tensors.read(name), source.config)
    values = rearrange(values, row.pattern, **row_sizes(row, source.config))
    return values + row.offset if row.offset else values


def read_int8(source: Source, row: Row, name: str, in_blocks: bool) -> Int8:
    """Read a tensor in our layout, in its blocks or else rounded by output channel."""
    if not in_blocks:
        return quantize(read_floats(source, row, name), INPUTS[field_of(row.ours)])
    sizes, innermost = row_sizes(row, source.config), parse_theirs(row).composition[-1][-1]
    weight, of_scale = source.q8[name](), sizes | {innermost: sizes[innermost] // Q8_BLOCK}
    values, scale = (
        take_part(row, array, source.config) for array in (weight.values, weight.scale)
    )
    scale = rearrange(scale, row.pattern, **of_scale)
    return Int8(rearrange(values, row.pattern, **sizes), scale)


def take_part(row: Row, tensor: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Return the part of a tensor that is the row's; all of it where it joins no others."""
    if row.part is None:
        return tensor
    view = row.part.view(tensor, sizes_of(row, config))
    return view.reshape(-1, *view.shape[2:]) if row.part.groups else view


def row_sizes(row: Row, config: ModelConfig) -> dict[str, int]:
    """Return the size of every axis letter in a row's pattern."""
    sizes = sizes_of(row, config)
    return {name: sizes[name] for name in parse_theirs(row).identifiers}


def sizes_of(row: Row, config: ModelConfig) -> dict[str, int]:
    """Return the size of every axis letter for the kind of layers of a row."""
    return axis_sizes(config, kind_of_weight(row.ours))


def unstack(
    weights: Iterable[tuple[str, np.ndarray]],
    rows: tuple[Row, ...],
    config: ModelConfig,
    path: Sequence[int],
    places: Sequence[int],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a checkpoint by their names there, one by one.

    `weights` are ours, by field name, stacked over the layers of the original; `rows` and `config`
    are those of the model to write, whose layer i is that of the step `path[i]`, at `places[i]` of
    its stack. Where a step lacks a part, the weights of its output are zeros. The inverse of
    `stack`, in the dtype of `weights`. Tensors that join several weights are held until all of
    these have come.
    """
    table, joined = {row.ours: row for row in rows}, Joined(config)
    for field, array in weights:
        if field not in table:  # of a kind of layers that the model to write lacks
            continue
        row = table[field]
        theirs, ours = row.pattern.split(" -> ")
        of_layers, of_kind = "{i}" in row.theirs, config.layers_of(kind_of_weight(field))
        if "L" in ours.split():  # of all layers in one tensor
            layers = [layer_of(step) for step in path]
            array = array.take(layers, axis=ours.split().index("L"))
        for index, name, shape in expected(row, config):
            values = array
            if of_layers:
                place = of_kind[index[0]]
                values = array[(places[place], *index[1:])]
                if is_left_out(row, path[place]):
                    values = np.zeros_like(values)
            values = rearrange(values, f"{ours} -> {theirs}", **row_sizes(row, config))
            values = np.ascontiguousarray(values - row.offset if row.offset else values)
            if row.part is not None:
                values = joined.add(row, name, shape, values)
            if values is not None:
                yield name, values


def is_left_out(row: Row, step: int) -> bool:
    """Return whether a row is of the output of the part that a step lacks."""
    missing = missing_part(step)
    return missing is not None and field_of(row.ours) in OUTPUTS[missing]


def output_names(table: Table, part: int) -> list[str]:
    """Return the last names of the modules whose weights end a part, such as `o_proj`."""
    names = [row.theirs for row in table.values() if field_of(row.ours) in OUTPUTS[part]]
    ends = (re.sub(r"[._](?:weight|bias)$", "", name).rpartition(".")[2] for name in names)
    return list(dict.fromkeys(ends))


class Joined:
    """The tensors that join several weights and lack some of them."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.tensors: dict[str, np.ndarray] = {}
        self.missing: dict[str, set[int]] = {}

    def add(
        self, row: Row, name: str, shape: tuple[int, ...], values: np.ndarray
    ) -> np.ndarray | None:
        """Put a weight into its tensor; return the tensor once it is complete."""
        assert row.part is not None
        tensor = self.tensors.setdefault(name, np.empty(shape, values.dtype))
        missing = self.missing.setdefault(name, {*range(len(row.part.sizes))})
        view = row.part.view(tensor, sizes_of(row, self.config))
        view[...] = values.reshape(view.shape)
        missing.remove(row.part.number)
        return None if missing else self.tensors.pop(name)

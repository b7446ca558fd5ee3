"""Tiles: rows that run a layer together, with the slots and KV blocks that each reads and writes.

All of it is numpy on the host. Prefill and decoding plan alike: rows that need the same layer next
are packed into tiles.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

NONE = -1  # the slot of a state that has none, and the parent of a root


class Columns(NamedTuple):
    """What the device needs to know about the rows of a tile: integers, or arrays [n] of them."""

    layer: Any
    source: Any  # slots read
    target: Any  # slots written; by padding rows the padding slot
    question: Any
    block: Any = 0  # KV blocks written
    prompt_block: Any = 0  # KV blocks of the prefix that rows continue, or of their prompts


WIDTH = len(Columns._fields)


class TileShape(NamedTuple):
    """The shape of a tile: R rows of T tokens, of which a last layer computes Q positions."""

    rows: int
    tokens: int
    reads: int = 1


class Layout(NamedTuple):
    """The shapes of tiles, and the smallest that each question fits."""

    shapes: Sequence[TileShape]  # in ascending order of their tokens
    shape: Int[np.ndarray, " B"]
    length: Int[np.ndarray, " B"]  # tokens

    @classmethod
    def of_shape(cls, shape: TileShape, questions: int = 1) -> "Layout":
        """Return the layout of questions that all fill the tokens of a single shape."""
        length = np.full(questions, shape.tokens, np.int32)
        return cls((shape,), np.zeros(questions, np.int32), length)

    @property
    def rows(self) -> int:
        """The largest number of rows of a tile."""
        return max(shape.rows for shape in self.shapes)

    @property
    def tokens(self) -> int:
        """The largest number of tokens of a row."""
        return self.shapes[-1].tokens

    def tile_ends(self, shapes: Sequence[int]) -> list[int]:
        """Return where tiles end in rows that need these shapes, the longest first.

        Each tile has the shape of its first row.
        """
        ends, end = [], 0
        while end < len(shapes):
            end = min(end + self.shapes[shapes[end]].rows, len(shapes))
            ends.append(end)
        return ends


class Step(NamedTuple):
    """Rows that run the same layer next, the shapes that they need, and the ends of their tiles."""

    columns: Columns
    shapes: Sequence[int]
    ends: list[int]


class Tiles(NamedTuple):
    """N tiles of up to R rows each, in the order in which they run."""

    table: Int[np.ndarray, "N F R"]  # the F `Columns` of each row
    shape: Int[np.ndarray, " N"]  # indices into the shapes of a layout

    @property
    def layer(self) -> Int[np.ndarray, " N"]:
        """The layer that each tile runs."""
        return self.table[:, 0, 0]

    def parts(self, size: int) -> Iterator["Tiles"]:
        """Cut into parts of at most `size` tiles."""
        for start in range(0, len(self.table), size):
            yield Tiles(*(column[start : start + size] for column in self))

    def runs(self, same_layer: bool) -> Iterator[tuple[int, int, int, int]]:
        """Yield (layer, shape, first tile, end) of neighbours of the same shape, and layer."""
        changes = np.diff(self.shape, append=NONE) != 0
        if same_layer:
            changes |= np.diff(self.layer, append=NONE) != 0
        ends = (np.flatnonzero(changes) + 1).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield int(self.layer[start]), int(self.shape[start]), start, end


def pad_rows(values: np.ndarray, rows: int) -> np.ndarray:
    """Append zeros to [n, ...] up to `rows` rows."""
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


def pack_tiles(steps: Sequence[Step], layout: Layout, padding: Columns) -> Tiles:
    """Pack the rows of steps into tiles, which are filled up with `padding` rows."""
    bounds = [[0, *step.ends] for step in steps]
    sizes = np.array([e - s for each in bounds for s, e in itertools.pairwise(each)], np.int64)
    shapes = [step.shapes[s] for step, each in zip(steps, bounds, strict=True) for s in each[:-1]]
    table = np.empty((len(sizes), WIDTH, layout.rows), np.int32)
    table[:] = np.array(padding, np.int32)[:, None]
    if steps:
        rows = np.array([step.ends[-1] for step in steps])
        tile = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(tile)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        columns = zip(*(step.columns for step in steps), strict=True)
        for i, values in enumerate(columns):
            if isinstance(values[0], np.ndarray):
                table[tile, i, place] = np.concatenate(values)
            else:
                table[tile, i, place] = np.repeat(values, rows)
        table[:, 0] = table[:, 0, :1]
    return Tiles(table, np.array(shapes, np.int32))


class Chunk(NamedTuple):
    """A pass over the device: embed prompts, run tiles, run the last layer of every path."""

    embedded: np.ndarray  # [n, 2] question and slot of the embeddings to write first
    tiles: Tiles
    last: Tiles  # which writes to rows of the output
    paths: np.ndarray  # [n] numbers of the paths in the wave, in the order of `last`


class Cost(NamedTuple):
    """Counts of a plan: layers run on a state, and tokens of these states."""

    useful: int = 0  # of all paths, each run in full
    unique: int = 0  # run, without the last layers of the paths
    last: int = 0  # last layers, run at the read positions
    tokens: int = 0  # of the states run
    token_rows: int = 0  # of their tiles, padding included
    hits: int = 0  # saved by states held from earlier waves
    evicted: int = 0  # states that lost their slot

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

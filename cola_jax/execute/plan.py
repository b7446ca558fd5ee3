"""The plan of a wave: which states to compute, in which tiles, from and into which slots.

All of it is numpy on the host. Prefill and decoding plan alike: rows that need the same layer next
are packed into tiles.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

NONE = -1  # the slot of a state that is not held, and the parent of a root


class Columns(NamedTuple):
    """What the device must know of the rows of a tile: integers, or arrays [n] of them."""

    layer: Any
    source: Any  # slots read
    target: Any  # slots written; by padding rows the padding slot
    question: Any
    block: Any = 0  # KV blocks written
    prompt_block: Any = 0  # KV blocks of what rows continue, or of their prompts


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
    def of_one(cls, shape: TileShape, questions: int = 1) -> "Layout":
        """Return the layout of questions that all fill the tokens of one shape."""
        length = np.full(questions, shape.tokens, np.int32)
        return cls((shape,), np.zeros(questions, np.int32), length)

    @property
    def rows(self) -> int:
        """The most rows of a tile."""
        return max(shape.rows for shape in self.shapes)

    @property
    def tokens(self) -> int:
        """The most tokens of a row."""
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
    """Rows [n] that run the same layer next, cut into tiles, and the numbers of their states."""

    columns: Columns
    state: np.ndarray
    shapes: list[int]  # of each tile
    ends: list[int]


class Tiles(NamedTuple):
    """N tiles of up to R rows each, in the order in which they run."""

    table: Int[np.ndarray, "N F R"]  # the F `Columns` of each row
    state: Int[np.ndarray, "N R"]  # numbers of the states, NONE for padding
    shape: Int[np.ndarray, " N"]  # indices into the shapes of a layout

    @property
    def layer(self) -> Int[np.ndarray, " N"]:
        """The layer that each tile runs."""
        return self.table[:, 0, 0]

    @property
    def target(self) -> Int[np.ndarray, "N R"]:
        """The slot that each row writes."""
        return self.table[:, Columns._fields.index("target")]

    def with_columns(self, **columns: Int[np.ndarray, "N R"]) -> "Tiles":
        """Replace columns of the table."""
        table = self.table.copy()
        for name, values in columns.items():
            table[:, Columns._fields.index(name)] = values
        return self._replace(table=table)

    def parts(self, size: int) -> Iterator["Tiles"]:
        """Cut into parts of at most `size` tiles."""
        for start in range(0, len(self.table), size):
            yield Tiles(*(column[start : start + size] for column in self))

    def runs(self, same_layer: bool) -> Iterator[tuple[int, int, int, int]]:
        """Yield (layer, shape, first tile, end) of neighbours of one shape, and of one layer."""
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
    """Put the rows of steps into tiles; `padding` is what rows that fill up a tile have."""
    ends = [[0, *step.ends] for step in steps]
    sizes = np.array([e - s for one in ends for s, e in itertools.pairwise(one)], np.int64)
    table = np.empty((len(sizes), WIDTH, layout.rows), np.int32)
    table[:] = np.array(padding, np.int32)[:, None]
    state = np.full((len(sizes), layout.rows), NONE, np.int32)
    shape = np.array([shape for step in steps for shape in step.shapes], np.int32)
    if steps:
        rows = np.array([len(step.state) for step in steps])
        tile = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(tile)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        columns = zip(*(step.columns for step in steps), strict=True)
        for i, values in enumerate(columns):
            if isinstance(values[0], np.ndarray):
                table[tile, i, place] = np.concatenate(values)
            else:
                table[tile, i, place] = np.repeat(values, rows)
        state[tile, place] = np.concatenate([step.state for step in steps])
        table[:, 0] = table[:, 0, :1]
    return Tiles(table, state, shape)


class Nodes:
    """The prefixes of sorted paths as arrays, and `grid` [n, 1 + P], the node of each prefix."""

    def __init__(self, rows: np.ndarray, held: np.ndarray | None = None):
        """Number the prefixes of sorted rows [n, 1 + P]; `held` are the slots that they have."""
        count, width = rows.shape
        depths = np.arange(width)
        self.rows = rows
        self.length = (rows[:, 1:] > 0).sum(axis=1)
        self.inside = depths <= self.length[:, None]
        fresh = np.ones(rows.shape, bool)  # the first path, in this order, with this prefix
        fresh[1:] = ~np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
        first = np.maximum.accumulate(np.where(fresh, np.arange(count)[:, None], 0), axis=0)
        fresh &= self.inside
        numbers = np.cumsum(fresh).reshape(rows.shape) - 1
        self.grid = np.where(self.inside, numbers[first, depths], 0)

        path, self.depth = np.nonzero(fresh)
        self.layer = rows[path, self.depth].astype(np.int32) - 1  # meaningless at a root
        self.parent = np.where(self.depth > 0, self.grid[path, self.depth - 1], NONE)
        self.question = rows[path, 0].astype(np.int32)
        through = np.bincount(self.grid[self.inside], minlength=len(path))
        # of two states on equally many paths, the deeper one is one layer away from the other
        self.value = through * width - self.depth
        self.slot = np.full(len(path), NONE, np.int32)
        if held is not None:
            has_slot = held != NONE
            self.slot[self.grid[has_slot]] = held[has_slot]
        self.pinned = np.zeros(len(path), bool)  # which keep their slots even if nothing reads them


def lexicographic(rows: np.ndarray) -> np.ndarray:
    """Sort rows of uint16; return their order [n]."""
    # big-endian bytes compare as the numbers do, in one pass for all columns
    text = np.ascontiguousarray(rows.astype(">u2")).view(f"S{2 * rows.shape[1]}")
    return np.argsort(text[:, 0], kind="stable")


class Chunk(NamedTuple):
    """One pass over the device: embed prompts, run tiles, run the last layer of every path.

    The targets of `last` are rows of the output; row i is that of path `paths[i]` of the wave.
    """

    embedded: np.ndarray  # [n, 2] question and slot of the embeddings to write first
    tiles: Tiles
    last: Tiles
    paths: np.ndarray  # [n]


class Cost(NamedTuple):
    """What a plan saves and wastes: layers run on one state, and tokens that these have."""

    useful: int = 0  # of all paths, each run in full
    unique: int = 0  # run, without the last layers of the paths
    last: int = 0  # last layers, run at the read positions
    tokens: int = 0  # of the states run
    token_rows: int = 0  # of their tiles, padding included
    hits: int = 0  # saved by states held from earlier waves
    evicted: int = 0  # states that lost their slot

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

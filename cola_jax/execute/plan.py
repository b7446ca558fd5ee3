"""The plan of a wave: which states to compute, in which tiles, from and into which slots.

All of it is numpy on the host. Prefill and decoding plan alike: steps of rows that need the same
layer next are packed into tiles.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

NONE = -1  # the slot of a state that is not held, and the parent of a root


class Step(NamedTuple):
    """Rows [n] that run the same layer next; see `Tiles` for the fields."""

    layer: int
    source: np.ndarray
    target: np.ndarray
    question: np.ndarray
    block: np.ndarray | None = None
    prompt_block: np.ndarray | None = None
    state: np.ndarray | None = None


class Tiles(NamedTuple):
    """N tiles of R rows each, in the order in which they run.

    Arrays of numpy on the host, and of JAX in a program, which takes one tile at a time.
    """

    layer: Int[Any, "*N"]
    source: Int[Any, "*N R"]  # slots read
    target: Int[Any, "*N R"]  # slots written; by padding rows the padding slot
    question: Int[Any, "*N R"]  # rows of the view
    block: Int[Any, "*N R"] | None = None  # KV blocks written; None without a cache
    prompt_block: Int[Any, "*N R"] | None = None  # KV blocks of the prompts
    state: Int[np.ndarray, "N R"] | None = None  # numbers of the states, which stay on the host

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Yields (layer, first tile, end) of neighbours that run the same layer."""
        ends = (np.flatnonzero(np.diff(self.layer, append=NONE)) + 1).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield int(self.layer[start]), start, end

    def calls(self, size: int) -> Iterator["Tiles"]:
        """Cuts into parts of at most `size` tiles, without the state numbers."""
        for start in range(0, len(self.layer), size):
            some = (None if x is None else x[start : start + size] for x in self[:-1])
            yield Tiles(*some)  # pyright: ignore[reportArgumentType] - None stays None

    def padded(self, size: int) -> "Tiles":
        """Appends tiles of zeros up to `size` tiles."""
        return Tiles(*(None if x is None else pad_rows(x, size) for x in self))  # pyright: ignore


def pad_rows(values: np.ndarray, rows: int) -> np.ndarray:
    """Appends zeros to [n, ...] up to `rows` rows."""
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


def pack_tiles(steps: Sequence[Step], rows: int, padding: Mapping[str, int]) -> Tiles:
    """Cuts the rows of each step into tiles of R rows.

    `padding` has the value of each field that the steps have, for rows that fill up a tile.
    """
    sizes = np.array([len(step.source) for step in steps], np.int64)
    each = -(-sizes // rows)
    total = int(each.sum())
    first = (np.cumsum(each) - each) * rows  # place of the first row of each step
    places = np.repeat(first - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    columns = []
    for name in Step._fields[1:]:
        if name not in padding:
            columns.append(None)
            continue
        values = np.full(total * rows, padding[name], np.int32)
        if steps:
            values[places] = np.concatenate([getattr(step, name) for step in steps])
        columns.append(values.reshape(total, rows))
    layer = np.repeat(np.array([step.layer for step in steps], np.int32), each)
    return Tiles(layer, *columns)


class Nodes:
    """The prefixes of sorted paths as arrays, and `grid` [n, 1 + P], the node of each prefix."""

    def __init__(self, rows: np.ndarray, held: np.ndarray | None = None):
        """Numbers the prefixes of sorted rows [n, 1 + P]; `held` are the slots that they have."""
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
    """Sorts rows of uint16; returns their order [n]."""
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
    """What a plan saves and wastes, in layers run on one state."""

    useful: int = 0  # of all paths, each run in full
    unique: int = 0  # run, without the last layers of the paths
    last: int = 0  # last layers, run at the read positions
    rows: int = 0  # rows of all tiles, padding included
    hits: int = 0  # saved by states held from earlier waves
    evicted: int = 0  # states that lost their slot

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

"""The plan of a wave: which states to compute, in which tiles, from and into which slots.

All of it is numpy on the host.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NONE = -1  # the slot of a state that is not held, and the parent of a root


class Tiles(NamedTuple):
    """N tiles of R rows each, in the order in which they run."""

    layer: np.ndarray  # [N]
    source: np.ndarray  # [N, R] slots read
    target: np.ndarray  # [N, R] slots written; padding rows write where nothing is read
    question: np.ndarray  # [N, R]
    state: np.ndarray | None = None  # [N, R] numbers of the states, which stay on the host

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Yields (layer, first tile, tile behind the last) of neighbours with the same layer."""
        ends = (np.flatnonzero(np.diff(self.layer, append=NONE)) + 1).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield int(self.layer[start]), start, end

    def part(self, start: int, end: int) -> "Tiles":
        """Takes tiles start..end-1."""
        state = None if self.state is None else self.state[start:end]
        layer, source, target, question = (column[start:end] for column in self.on_device())
        return Tiles(layer, source, target, question, state)

    def on_device(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns the columns that the device needs."""
        return self.layer, self.source, self.target, self.question

    def lengthened(self, tiles: int) -> "Tiles":
        """Adds tiles of zeros at the end, up to so many; the states' numbers are left out."""
        return Tiles(*(lengthen(column, tiles) for column in self.on_device()))


def lengthen(values: np.ndarray, rows: int) -> np.ndarray:
    """Pads [n, ...] to so many rows."""
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


class Chunk(NamedTuple):
    """One pass over the device: plant embeddings, run tiles, run the last layer of every path.

    The targets of `finals` are rows of the output; row i is that of path `paths[i]` of the wave.
    """

    planted: np.ndarray  # [n, 2] question and slot of the embeddings to write first
    tiles: Tiles
    finals: Tiles
    paths: np.ndarray  # [n]


class Cost(NamedTuple):
    """What a plan saves and wastes, in layers run on one state."""

    useful: int = 0  # of all paths, each run in full
    unique: int = 0  # run, the last ones of the paths aside
    finals: int = 0  # last layers, run where the model is read
    rows: int = 0  # rows of all tiles, padding included
    hits: int = 0  # saved by states held from earlier waves
    evicted: int = 0  # states that lost their slot

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Step(NamedTuple):
    """States [n] that run the same layer at a time."""

    layer: int
    source: np.ndarray
    target: np.ndarray
    question: np.ndarray
    state: np.ndarray


def pack(steps: list[Step], rows: int, nowhere: int) -> Tiles:
    """Cuts the states of each step into tiles of R rows; padding rows write to `nowhere`."""
    sizes = np.array([len(step.source) for step in steps], np.int64)
    each = -(-sizes // rows)
    total = int(each.sum())
    first = (np.cumsum(each) - each) * rows  # row of the first state of each step
    where = np.repeat(first - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    columns = []
    for name, fill in (("source", 0), ("target", nowhere), ("question", 0), ("state", NONE)):
        values = np.full(total * rows, fill, np.int32)
        if steps:
            values[where] = np.concatenate([getattr(step, name) for step in steps])
        columns.append(values.reshape(total, rows))
    layer = np.repeat(np.array([step.layer for step in steps], np.int32), each)
    return Tiles(layer, *columns)

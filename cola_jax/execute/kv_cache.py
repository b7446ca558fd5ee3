"""Which rows are decoded at a time: their seats, their cells, and whose turn it is. All numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cola_jax.execute.nodes import Nodes, lexicographic
from cola_jax.execute.plan import NONE, Chunk, Cost, Tiles
from cola_jax.execute.rows import Turns
from cola_jax.execute.schedule import Schedule, paths_at_once
from cola_jax.path import STOP


@dataclasses.dataclass
class Row:
    """A prompt on a path, and what it has decoded."""

    question: int
    path: np.ndarray
    seat: int = NONE
    asked: int = 0  # tokens that programs on their way to the device choose, or have chosen
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprob: list[float] = dataclasses.field(default_factory=list)
    rival: list[float] = dataclasses.field(default_factory=list)
    finish: str = ""


class Pool:
    """Numbers 0..size-1 that are taken and given back."""

    def __init__(self, size: int):
        self.free = np.arange(size, dtype=np.int32)

    def take(self, count: int) -> np.ndarray:
        taken, self.free = self.free[:count], self.free[count:]
        assert len(taken) == count
        return taken

    def give_back(self, some: np.ndarray) -> None:
        self.free = np.concatenate([self.free, some])


class Seating:
    """Seats, and the cells that hold the keys and values of those who have one.

    Rows of one question whose paths begin alike share the prompt's cells of that beginning, if
    they were seated together; a cell is free again once none of them is left.
    """

    def __init__(self, seats: int, cells: int, positions: int):
        self.seats, self.cells = Pool(seats), Pool(cells)
        self.own_cells = Pool(cells)
        self.nowhere, self.nobody = cells, seats  # what padding uses
        self.readers = np.zeros(cells + 1, np.int32)
        # one more seat for padding
        self.row: list[Row | None] = [None] * (seats + 1)
        self.length = np.ones(seats + 1, np.int32)
        self.count = np.ones(seats + 1, np.int32)
        self.path = np.full((seats + 1, positions), STOP, np.int32)
        self.shared = np.full((seats + 1, positions), cells, np.int32)
        self.own = np.full((seats + 1, positions), cells, np.int32)

    def room(self, waiting: Sequence[Row]) -> int:
        """Counts the rows, from the first on, that could be seated now even if none shared."""
        free = min(len(self.cells.free), len(self.own_cells.free))
        some = waiting[: len(self.seats.free)]
        needed = np.cumsum([len(row.path) for row in some])
        return int((needed <= free).sum())

    def seat(self, rows: Sequence[Row], lengths: np.ndarray, slots: int, tile: int) -> "Entrance":
        """Seats rows whose prompts have these lengths, and plans how they are prefilled."""
        width = max(len(row.path) for row in rows)
        table = np.zeros((len(rows), 1 + width), np.uint16)
        for i, row in enumerate(rows):
            table[i, 0] = row.question
            table[i, 1 : 1 + len(row.path)] = row.path + 1
        order = lexicographic(table)
        nodes = Nodes(table[order], np.full(table.shape, NONE, np.int32))
        cell = np.full(len(nodes.slot) + 1, self.nowhere, np.int32)  # the last is of padding
        inner = np.flatnonzero(nodes.depth > 0)
        cell[inner] = self.cells.take(len(inner))
        for i, place in enumerate(order):
            row = rows[place]
            row.seat = int(self.seats.take(1)[0])
            mine = cell[nodes.grid[i, 1 : 1 + len(row.path)]]
            self.readers[mine] += 1
            self.fill(row, mine, int(lengths[row.question]))
        seat_of = np.array([rows[place].seat for place in order], np.int32)
        return Entrance(nodes, cell, seat_of, self.nobody, slots, tile)

    def fill(self, row: Row, cells: np.ndarray, length: int) -> None:
        """Writes what the device must know of a seat."""
        seat, size = row.seat, len(row.path)
        self.row[seat] = row
        self.length[seat], self.count[seat] = length, 0
        self.path[seat], self.path[seat, :size] = STOP, row.path
        self.shared[seat], self.shared[seat, :size] = self.nowhere, cells
        self.own[seat], self.own[seat, :size] = self.nowhere, self.own_cells.take(size)

    def leave(self, row: Row) -> None:
        """Frees the seat of a row, and the cells that nobody else reads."""
        seat, size = row.seat, len(row.path)
        mine = self.shared[seat, :size]
        self.readers[mine] -= 1
        self.cells.give_back(mine[self.readers[mine] == 0])
        self.own_cells.give_back(self.own[seat, :size].copy())
        self.seats.give_back(np.array([seat], np.int32))
        self.row[seat], self.path[seat] = None, STOP

    def turns(self, seats: np.ndarray, tile: int) -> Turns:
        """Orders one step of these seats: every layer of each path, in tiles of the same layer.

        Reading a layer's weights is most of what a step costs, so the layers should be visited as
        seldom as possible: a shortest common supersequence of the paths. The layer whose waiting
        rows have most layers still to run, all of them together, goes next (weighted majority
        merge), so that rows that loop are waited for by those that do not. Squares of what is left
        are added, since they gave a twentieth fewer tiles than what is left itself.
        """
        paths = np.concatenate([self.path[seats], np.full((len(seats), 1), STOP)], axis=1)
        left = (paths != STOP).sum(axis=1)
        at = np.zeros(len(seats), np.int32)  # the position that each row needs next
        layers, rows, positions = [], [], []
        while left.any():
            wanted = paths[np.arange(len(seats)), at]
            going_on = left > 0
            layer = np.bincount(wanted[going_on], weights=left[going_on] ** 2).argmax()
            now = np.flatnonzero(wanted == layer)
            at[now] += 1
            left[now] -= 1
            for start in range(0, len(now), tile):
                some = now[start : start + tile]
                more = tile - len(some)
                layers.append(layer)
                rows.append(np.pad(seats[some], (0, more), constant_values=self.nobody))
                positions.append(np.pad(at[some] - 1, (0, more)))
        layer, seat, position = (np.array(x, np.int32) for x in (layers, rows, positions))
        return Turns(layer, seat, position)


@dataclasses.dataclass
class Entrance:
    """How rows that were just seated are prefilled: chunks, and where states go."""

    nodes: Nodes
    cell: np.ndarray  # of each node, and of padding
    seat_of: np.ndarray  # of each of the nodes' rows
    nobody: int
    slots: int
    tile: int

    def cells_of(self, tiles: Tiles) -> np.ndarray:
        """Returns the cell [N, R] of each state that tiles compute."""
        assert tiles.state is not None
        return self.cell[tiles.state]

    def chunks(self) -> list[tuple[Chunk, Cost]]:
        """Plans the chunks; the targets of `finals` are seats."""
        out = []
        most = paths_at_once(self.slots, self.tile)
        for start in range(0, len(self.seat_of), most):
            some = np.arange(start, min(start + most, len(self.seat_of)))
            chunk, cost = Schedule(self.nodes, some, self.slots, self.tile).chunk()
            seats = np.append(self.seat_of[some[chunk.paths]], self.nobody)
            finals = chunk.finals._replace(target=seats[chunk.finals.target].astype(np.int32))
            out.append((chunk._replace(finals=finals, paths=some[chunk.paths]), cost))
        return out

"""The plan of a wave: which states to compute, in which tiles, from and into which slots.

All of it is numpy on the host. Its one loop goes over groups of tiles, never over paths.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cola_jax.path import STOP

NONE = -1  # the slot of a state that is not held, and the parent of a root


class Tiles(NamedTuple):
    """N tiles of R rows each, in the order in which they run."""

    layer: np.ndarray  # [N]
    source: np.ndarray  # [N, R] slots read
    target: np.ndarray  # [N, R] slots written; padding rows write where nothing is read
    question: np.ndarray  # [N, R]

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Yields (layer, first tile, tile behind the last) of neighbours with the same layer."""
        ends = (np.flatnonzero(np.diff(self.layer, append=NONE)) + 1).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield int(self.layer[start]), start, end


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


class Trie:
    """The prefixes of all paths of some questions, and the slots that hold their states.

    The states of earlier waves keep their slots until others need the place. Those on the fewest
    paths leave first, and are computed again when a path needs them again.
    """

    def __init__(self, slots: int, rows: int, outputs: int):
        """Plans for S slots, tiles of R rows, and at most so many paths in a chunk."""
        if slots < 2:
            raise ValueError(f"a path needs 2 slots, there are {slots}.")
        self.slots, self.rows = slots, rows
        # n paths never keep more than n states waiting to be read, and need one slot to go on;
        # room for a whole tile keeps padding down
        self.width = min(outputs, slots - (rows if slots > 2 * rows else 1))
        self.paths = np.zeros((0, 0), np.uint16)  # [n, 1 + P] question, then layers + 1
        self.held = np.zeros((0, 0), np.int32)  # [n, 1 + P] slots of each path's prefixes

    def plan(self, paths: np.ndarray) -> tuple[list[Chunk], Cost]:
        """Plans the wave of paths [n, 1 + P], each a question and layers padded with STOP.

        Returns the chunks in the order in which they must run, and what they cost.
        """
        wave = (paths - np.where(np.arange(paths.shape[1]) > 0, STOP, 0)).astype(np.uint16)
        known, width = len(self.paths), max(self.paths.shape[1], wave.shape[1])
        rows = np.concatenate([widen(self.paths, width, 0), widen(wave, width, 0)])
        held = np.full(rows.shape, NONE, np.int32)
        held[:known] = widen(self.held, width, NONE)
        order = lexicographic(rows)
        nodes = Nodes(rows[order], held[order])
        # neighbours in this order share the most, so that chunks do
        new = np.flatnonzero(order >= known)
        chunks, cost = [], Cost()
        for start in range(0, len(new), self.width):
            some = new[start : start + self.width]
            chunk, spent = Schedule(nodes, some, self.slots, self.rows).chunk()
            chunks.append(chunk._replace(paths=order[some][chunk.paths] - known))
            cost += spent
        self.paths = nodes.rows
        self.held = np.where(nodes.inside, nodes.slot[nodes.grid], NONE)
        return chunks, cost


def widen(rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """Pads the columns of [n, w] to [n, width]."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)


def lexicographic(rows: np.ndarray) -> np.ndarray:
    """Sorts rows of uint16; returns their order [n]."""
    # big-endian bytes compare as the numbers do, in one pass for all columns
    text = np.ascontiguousarray(rows.astype(">u2")).view(f"S{2 * rows.shape[1]}")
    return np.argsort(text[:, 0], kind="stable")


class Nodes:
    """The trie as arrays: node by node, and `grid` [n, 1 + P], the node of each path's prefixes."""

    def __init__(self, rows: np.ndarray, held: np.ndarray):
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
        self.layer = rows[path, self.depth].astype(np.int32) - 1  # of a root: meaningless
        self.parent = np.where(self.depth > 0, self.grid[path, self.depth - 1], NONE)
        self.question = rows[path, 0].astype(np.int32)
        through = np.bincount(self.grid[self.inside], minlength=len(path))
        # of two states on as many paths, the one further down is one layer away from the other
        self.value = through * width - self.depth
        self.slot = np.full(len(path), NONE, np.int32)
        has = held != NONE
        self.slot[self.grid[has]] = held[has]


class Schedule:
    """Orders the states that some paths need into tiles, and finds their slots.

    The layer for which most states wait goes first, in whole tiles as long as there are any, and
    then the lowest layer.
    """

    def __init__(self, nodes: Nodes, paths: np.ndarray, slots: int, rows: int):
        self.nodes, self.slots, self.rows = nodes, slots, rows
        depths, length = np.arange(nodes.grid.shape[1]), nodes.length[paths]
        grid = nodes.grid[paths]
        before_last = depths < length[:, None]
        has = before_last & (nodes.slot[grid] != NONE)
        deepest = np.where(has, depths, NONE).max(axis=1)
        missing = np.zeros(len(nodes.slot), bool)
        missing[grid[before_last & (depths > deepest[:, None])]] = True
        self.needed = np.flatnonzero(missing)
        self.sources = grid[np.arange(len(paths)), length - 1]
        self.last = nodes.layer[grid[np.arange(len(paths)), length]]
        self.saved = int(np.maximum(deepest, 0).sum())
        self.useful = int(length.sum())

        parents = nodes.parent[self.needed]
        inner = parents != NONE
        children = self.needed[inner]
        order = np.argsort(parents[inner], kind="stable")
        self.children = children[order]
        self.fanout = np.bincount(parents[inner], minlength=len(missing))
        self.start = np.cumsum(self.fanout) - self.fanout
        # readers still to come: children, and the last layers of paths
        self.readers = self.fanout + np.bincount(self.sources, minlength=len(missing))
        self.waiting: list[list[np.ndarray]] = [[] for _ in range(int(nodes.layer.max()) + 1)]
        self.count = np.zeros(len(self.waiting), np.int64)

        held = np.flatnonzero(nodes.slot != NONE)
        free = np.ones(slots, bool)
        free[nodes.slot[held]] = False
        self.free = np.flatnonzero(free).astype(np.int32)
        self.idle = [held[self.readers[held] == 0]]  # held and not needed: may lose their slots
        self.num_idle = len(self.idle[0])
        self.evicted = 0
        # states that can be computed at once, their parents held already
        self.ready = children[~missing[parents[inner]]]

    def chunk(self) -> tuple[Chunk, Cost]:
        """Makes the chunk; the nodes' slots are then those after it has run."""
        nodes = self.nodes
        roots = self.needed[nodes.parent[self.needed] == NONE]
        nodes.slot[roots] = self.take(len(roots))
        planted = np.stack([nodes.question[roots], nodes.slot[roots]], axis=1)
        self.add(self.ready)
        self.add(self.below(roots))
        steps = list(self.steps())
        tiles = pack(steps, self.rows, self.slots)

        order = np.argsort(self.last, kind="stable")
        ends = np.flatnonzero(np.diff(self.last[order], append=NONE)) + 1
        finals = []
        for start, end in zip([0, *ends], ends, strict=False):
            some = order[start:end]
            source = self.sources[some]
            rows = np.arange(start, end, dtype=np.int32)
            step = (int(self.last[some[0]]), nodes.slot[source], rows, nodes.question[source])
            finals.append(step)
        last = pack(finals, self.rows, len(order))
        cost = Cost(
            useful=self.useful,
            unique=len(self.needed) - len(roots),
            finals=len(order),
            rows=tiles.source.size + last.source.size,
            hits=self.saved,
            evicted=self.evicted,
        )
        return Chunk(planted, tiles, last, order), cost

    def steps(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (layer, source slots, target slots, questions) of states to run in a row."""
        nodes = self.nodes
        while True:
            layer = int(self.count.argmax())
            if self.count[layer] < self.rows:
                # no tile is full: a low layer's states soon wait at the layers above it
                layer = int((self.count > 0).argmax())
            count = int(self.count[layer])
            if not count:
                return
            some = self.waiting[layer]
            waiting = some[0] if len(some) == 1 else np.concatenate(some)
            count = min(count, len(self.free) + self.num_idle)
            if count > self.rows:
                count -= count % self.rows  # the rest may find company later
            now, rest = waiting[:count], waiting[count:]
            self.waiting[layer] = [rest] if len(rest) else []
            self.count[layer] = len(rest)
            parents = nodes.parent[now]  # all different: a parent has one child of each layer
            slots = self.take(count)
            nodes.slot[now] = slots
            yield layer, nodes.slot[parents], slots, nodes.question[now]
            self.readers[parents] -= 1
            self.rest(parents[self.readers[parents] == 0])
            self.add(self.below(now))

    def below(self, some: np.ndarray) -> np.ndarray:
        """Returns the needed children of nodes."""
        fanout = self.fanout[some]
        total = int(fanout.sum())
        if total == len(some) and fanout.max(initial=1) == 1:  # mostly: one child each
            return self.children[self.start[some]]
        offset = np.repeat(self.start[some] - np.cumsum(fanout) + fanout, fanout)
        return self.children[offset + np.arange(total)]

    def add(self, some: np.ndarray) -> None:
        """Queues nodes whose parents are computed by the layer that they need."""
        if not len(some):
            return
        layers = self.nodes.layer[some]
        if (layers == layers[0]).all():
            parts = [some]
        else:
            order = np.argsort(layers, kind="stable")
            some, layers = some[order], layers[order]
            parts = np.split(some, np.flatnonzero(np.diff(layers)) + 1)
        for part in parts:
            layer = self.nodes.layer[part[0]]
            self.waiting[layer].append(part)
            self.count[layer] += len(part)

    def rest(self, some: np.ndarray) -> None:
        """Marks states as not needed any more; they stay until their slots are."""
        if len(some):
            self.idle.append(some)
            self.num_idle += len(some)

    def take(self, count: int) -> np.ndarray:
        """Takes slots, from idle states where no slot is free."""
        if len(self.free) < count:
            idle = np.concatenate(self.idle)
            # more at once than is needed now, since finding the least valuable costs a pass
            leaving = min(len(idle), max(count - len(self.free), self.slots // 32))
            order = np.argpartition(self.nodes.value[idle], leaving - 1)
            leave, stay = idle[order[:leaving]], idle[order[leaving:]]
            self.free = np.concatenate([self.free, self.nodes.slot[leave]])
            self.nodes.slot[leave] = NONE
            self.idle, self.num_idle = [stay], len(stay)
            self.evicted += leaving
        taken, self.free = self.free[:count], self.free[count:]
        return taken


def pack(
    steps: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]], rows: int, nowhere: int
) -> Tiles:
    """Cuts the states of each step into tiles of R rows; padding rows write to `nowhere`."""
    sizes = np.array([len(source) for _, source, _, _ in steps], np.int64)
    each = -(-sizes // rows)
    total = int(each.sum())
    first = (np.cumsum(each) - each) * rows  # row of the first state of each step
    where = np.repeat(first - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    columns = []
    for column, fill in ((1, 0), (2, nowhere), (3, 0)):
        values = np.full(total * rows, fill, np.int32)
        if steps:
            values[where] = np.concatenate([step[column] for step in steps])
        columns.append(values.reshape(total, rows))
    layer = np.repeat(np.array([step[0] for step in steps], np.int32), each)
    return Tiles(layer, *columns)

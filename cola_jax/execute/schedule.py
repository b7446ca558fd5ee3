"""The order in which the states of some paths are computed, and the slots that hold them.

Its one loop goes over groups of tiles, never over paths.
"""

from collections.abc import Iterator

import numpy as np

from cola_jax.execute.nodes import Nodes
from cola_jax.execute.plan import NONE, Chunk, Cost, Step, pack


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
        self.ends = grid[np.arange(len(paths)), length]
        self.last = nodes.layer[self.ends]
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
            step = Step(
                int(self.last[some[0]]),
                nodes.slot[source],
                rows,
                nodes.question[source],
                self.ends[some],
            )
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

    def steps(self) -> Iterator[Step]:
        """Yields the states to run in a row."""
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
            yield Step(layer, nodes.slot[parents], slots, nodes.question[now], now)
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


def paths_at_once(slots: int, rows: int) -> int:
    """Returns the most paths that one chunk may have.

    n paths never keep more than n states waiting to be read, and need one slot to go on; room for
    a whole tile keeps padding down.
    """
    return slots - (rows if slots > 2 * rows else 1)

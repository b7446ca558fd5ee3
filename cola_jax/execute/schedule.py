"""The scheduler: the order in which states run their layers, and the slots that hold them.

`Trie` plans waves of paths; `Schedule` orders the states of one chunk, with or without a KV cache;
`decode_tiles` orders one decode step of rows that each follow their own path.
"""

from collections.abc import Iterator

import numpy as np

from cola_jax.execute.plan import (
    NONE,
    Chunk,
    Columns,
    Cost,
    Layout,
    Nodes,
    Step,
    Tiles,
    pack_tiles,
)
from cola_jax.path import STOP


class Schedule:
    """Orders the states that some paths need into tiles, and finds their slots.

    The layer for which most tiles wait goes first, in whole tiles while there are any, and then
    the lowest layer. States of one layer run in the order of their tokens, so that those of a tile
    need little padding. The loop is over groups of tiles, never over paths.
    """

    def __init__(self, nodes: Nodes, paths: np.ndarray, slots: int, layout: Layout):
        self.nodes, self.slots, self.layout = nodes, slots, layout
        self.shape = layout.shape[nodes.question]  # that each node fits
        # the part of a tile that each node takes
        self.part = np.array([1 / shape.rows for shape in layout.shapes])[self.shape]
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
        self.hits = int(np.maximum(deepest, 0).sum())
        self.useful = int(length.sum())

        parents = nodes.parent[self.needed]
        inner = parents != NONE
        children = self.needed[inner]
        order = np.argsort(parents[inner], kind="stable")
        self.children = children[order]
        self.fanout = np.bincount(parents[inner], minlength=len(missing))
        self.start = np.cumsum(self.fanout) - self.fanout
        # reads still to come: by children, and by the last layers of paths
        self.readers = self.fanout + np.bincount(self.sources, minlength=len(missing))
        self.waiting: list[list[np.ndarray]] = [[] for _ in range(int(nodes.layer.max()) + 1)]
        self.tiles = np.zeros(len(self.waiting))  # that wait for each layer

        held = np.flatnonzero(nodes.slot != NONE)
        free = np.ones(slots, bool)
        free[nodes.slot[held]] = False
        self.free = np.flatnonzero(free).astype(np.int32)
        # held and not needed: may be evicted
        self.idle = [held[(self.readers[held] == 0) & ~nodes.pinned[held]]]
        self.num_idle = len(self.idle[0])
        self.evicted = 0
        # states that can be computed at once, since their parents are held
        self.ready = children[~missing[parents[inner]]]

    def chunk(self) -> tuple[Chunk, Cost]:
        """Make the chunk; the nodes' slots are then those after it has run."""
        nodes, layout = self.nodes, self.layout
        roots = self.needed[nodes.parent[self.needed] == NONE]
        nodes.slot[roots] = self.take(len(roots))
        embedded = np.stack([nodes.question[roots], nodes.slot[roots]], axis=1)
        self.add(self.ready)
        self.add(self.below(roots))
        tiles = pack_tiles(list(self.steps()), layout, Columns(0, 0, self.slots, 0))
        last, order = self.last_tiles()
        length = layout.length[nodes.question]
        cost = Cost(
            useful=self.useful,
            unique=len(self.needed) - len(roots),
            last=len(order),
            tokens=int(length[self.needed].sum() - length[roots].sum() + length[self.ends].sum()),
            token_rows=token_rows(tiles, layout) + token_rows(last, layout),
            hits=self.hits,
            evicted=self.evicted,
        )
        return Chunk(embedded, tiles, last, order), cost

    def last_tiles(self) -> tuple[Tiles, np.ndarray]:
        """Pack the last layers of the paths by layer; returns their order [n] as well."""
        order = np.lexsort((-self.shape[self.ends], self.last))
        ends = np.flatnonzero(np.diff(self.last[order], append=NONE)) + 1
        steps = []
        for start, end in zip([0, *ends], ends, strict=False):
            some = order[start:end]
            steps.append(
                self.step(
                    int(self.last[some[0]]),
                    self.sources[some],
                    target=np.arange(start, end, dtype=np.int32),
                    state=self.ends[some],
                )
            )
        return pack_tiles(steps, self.layout, Columns(0, 0, len(order), 0)), order

    def step(self, layer: int, parents: np.ndarray, target: np.ndarray, state: np.ndarray) -> Step:
        """Cut states, the longest first, into tiles of a layer that read those of their parents."""
        nodes = self.nodes
        shapes = self.shape[parents].tolist()
        ends = self.layout.tile_ends(shapes)
        columns = Columns(layer, nodes.slot[parents], target, nodes.question[parents])
        return Step(columns, state, [shapes[start] for start in [0, *ends[:-1]]], ends)

    def steps(self) -> Iterator[Step]:
        """Yield the states that run together."""
        nodes = self.nodes
        while True:
            layer = int(self.tiles.argmax())
            if self.tiles[layer] < 1:
                # no tile is full: a low layer's states soon wait at the layers above it
                layer = int((self.tiles > 0).argmax())
            if not self.waiting[layer]:
                return
            some = self.waiting[layer]
            waiting = some[0] if len(some) == 1 else np.concatenate(some)
            if len(self.layout.shapes) > 1:
                waiting = waiting[np.argsort(-self.shape[waiting], kind="stable")]
            shapes = self.shape[waiting].tolist()
            count = min(len(waiting), len(self.free) + self.num_idle)
            ends = self.layout.tile_ends(shapes[:count])
            if len(ends) > 1 and count - ends[-2] < self.layout.shapes[shapes[ends[-2]]].rows:
                count = ends[-2]  # defer the remainder to a fuller tile
            now, rest = waiting[:count], waiting[count:]
            self.waiting[layer] = [rest] if len(rest) else []
            self.tiles[layer] = self.part[rest].sum()
            parents = nodes.parent[now]  # all different: a parent has one child of each layer
            slots = self.take(count)
            nodes.slot[now] = slots
            yield self.step(layer, parents, slots, now)
            self.readers[parents] -= 1
            self.release(parents[self.readers[parents] == 0])
            self.add(self.below(now))

    def below(self, some: np.ndarray) -> np.ndarray:
        """Returns the needed children of nodes."""
        fanout = self.fanout[some]
        total = int(fanout.sum())
        if total == len(some) and fanout.max(initial=1) == 1:  # the common case: one child each
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
            self.tiles[layer] += self.part[part].sum()

    def release(self, some: np.ndarray) -> None:
        """Marks states as no longer needed; they are kept until their slots are needed."""
        some = some[~self.nodes.pinned[some]]
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


def token_rows(tiles: Tiles, layout: Layout) -> int:
    """Count the tokens of tiles, padding included."""
    sizes = np.array([shape.rows * shape.tokens for shape in layout.shapes])
    return int(sizes[tiles.shape].sum())


def paths_at_once(slots: int, rows: int) -> int:
    """Returns the most paths that one chunk may have.

    n paths never keep more than n states waiting to be read, and need one slot to go on; room for
    a whole tile keeps padding low.
    """
    return slots - (rows if slots > 2 * rows else 1)


def decode_tiles(
    paths: np.ndarray, rows: np.ndarray, blocks: np.ndarray, prompt_blocks: np.ndarray, tile: Layout
) -> Tiles:
    """Order one decode step: every layer of each row's path, in tiles that run the same layer.

    Args:
      paths: [W, P] of all decode slots, padded with STOP; the last slot is for padding.
      rows: the decode slots [n] that take the step.
      blocks, prompt_blocks: [W, P], the KV blocks of each path position.
      tile: of one token a row.

    Reading a layer's weights is most of what a step costs, so layers should be visited as seldom
    as possible: a shortest common supersequence of the paths. The layer whose waiting rows have
    most layers still to run, all of them together, goes next (weighted majority merge), so that
    rows without a repeat wait for those with one. What is left is squared, since that gave 5 %
    fewer tiles.
    """
    wide = np.concatenate([paths[rows], np.full((len(rows), 1), STOP)], axis=1)
    left = (wide != STOP).sum(axis=1)
    at = np.zeros(len(rows), np.int32)  # the position that each row runs next
    steps = []
    while left.any():
        wanted = wide[np.arange(len(rows)), at]
        waiting = left > 0
        layer = int(np.bincount(wanted[waiting], weights=left[waiting] ** 2).argmax())
        now = np.flatnonzero(wanted == layer)
        slot, position = rows[now], at[now]
        own, prompt = blocks[slot, position], prompt_blocks[slot, position]
        ends = tile.tile_ends([0] * len(now))
        columns = Columns(layer, slot, slot, slot, own, prompt)
        steps.append(Step(columns, slot, [0] * len(ends), ends))
        at[now] += 1
        left[now] -= 1
    slot, block = len(paths) - 1, int(blocks[-1, 0])
    return pack_tiles(steps, tile, Columns(0, slot, slot, slot, block, block))

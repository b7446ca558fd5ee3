"""Tries of paths: which states are held in slots from wave to wave, and what a wave has to run."""

import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.plan import NONE, Chunk, Cost, Layout, Nodes, Tiles, lexicographic
from cola_jax.execute.schedule import Schedule, paths_at_once, token_rows
from cola_jax.path import STOP


class Trie:
    """The prefixes of all paths of a batch, and the slots that hold their states.

    The states of earlier waves keep their slots until others need them. Those on the fewest paths
    are evicted first, and recomputed when a path needs them again.
    """

    def __init__(self, slots: int, layout: Layout, outputs: int):
        """Plan for S slots, tiles of these shapes, and at most `outputs` paths in a chunk."""
        if slots < 2:
            raise InputError(f"a path needs 2 slots, there are {slots}.")
        self.slots, self.layout = slots, layout
        self.width = min(outputs, paths_at_once(slots, layout.rows))
        self.paths = np.zeros((0, 0), np.uint16)  # [n, 1 + P] question, then layers + 1
        self.held = np.zeros((0, 0), np.int32)  # [n, 1 + P] slots of each path's prefixes

    def plan(
        self, paths: np.ndarray, blocks: "PrefixBlocks | None" = None
    ) -> tuple[list[Chunk], Cost]:
        """Plans the wave of paths [n, 1 + P], each a question and layers padded with STOP.

        With `blocks`, tiles name the KV block of the prefix that all questions share. Returns the
        chunks in the order in which they must run, and what they cost.
        """
        # neighbours in the order of the rows share the longest prefixes: chunks are cut along it
        nodes, new, places = self.merged(as_rows(paths))
        block = None if blocks is None else blocks.of(nodes, new)
        chunks, cost = [], Cost()
        for start in range(0, len(new), self.width):
            some = new[start : start + self.width]
            chunk, spent = Schedule(nodes, some, self.slots, self.layout).chunk()
            if block is not None:
                tiles, last = (
                    each.with_columns(prompt_block=block[each.state]) for each in chunk[1:3]
                )
                chunk = chunk._replace(tiles=tiles, last=last)
            chunks.append(chunk._replace(paths=places[start : start + self.width][chunk.paths]))
            cost += spent
        self.keep(nodes)
        return chunks, cost

    def merged(self, wave: np.ndarray) -> tuple[Nodes, np.ndarray, np.ndarray]:
        """Returns the nodes of all paths, which of their rows are of a wave, and their places."""
        known, width = len(self.paths), max(self.paths.shape[1], wave.shape[1])
        rows = np.concatenate([widen(self.paths, width, 0), widen(wave, width, 0)])
        held = np.full(rows.shape, NONE, np.int32)
        held[:known] = widen(self.held, width, NONE)
        order = lexicographic(rows)
        new = np.flatnonzero(order >= known)
        return Nodes(rows[order], held[order]), new, order[new] - known

    def keep(self, nodes: Nodes) -> None:
        """Keep the slots that states have now, and a path through each of them."""
        held = np.where(nodes.inside, nodes.slot[nodes.grid], NONE)
        row, depth = np.nonzero(held != NONE)
        _, first = np.unique(held[row, depth], return_index=True)
        some = np.unique(row[first])
        self.paths, self.held = nodes.rows[some], held[some]


class PrefixTrie(Trie):
    """The states of a prefix that all questions share; a state's slot is its KV block as well.

    What a wave needs keeps its slots until the next one is planned.
    """

    def __init__(self, slots: int, layout: Layout):
        """Plan for S slots, which hold the embedded prefix and the states of at least one path."""
        super().__init__(slots, layout, slots)

    def plan_prefix(
        self, paths: np.ndarray
    ) -> tuple[list[Tiles], np.ndarray, "PrefixBlocks", Cost]:
        """Plans paths [n, P], padded with STOP and all different, whose states have room together.

        Returns the tiles in the order in which they must run, the slots of the embedded prefix
        that must be written first [0 or 1, 2], and the block of each state.
        """
        # with a layer more, which is not run, the state after the last layer is one like others
        ended = np.concatenate([paths, np.full((len(paths), 1), STOP, paths.dtype)], axis=1)
        ended[np.arange(len(paths)), (paths != STOP).sum(axis=1)] = 0
        wave = as_rows(np.concatenate([np.zeros((len(paths), 1), paths.dtype), ended], axis=1))
        nodes, new, _ = self.merged(wave)
        nodes.pinned[nodes.grid[new][:, :-1][nodes.inside[new][:, 1:]]] = True
        tiles, embedded, cost = [], [], Cost()
        for start in range(0, len(new), self.width):
            some = new[start : start + self.width]
            chunk, spent = Schedule(nodes, some, self.slots, self.layout).chunk()
            tiles.append(chunk.tiles.with_columns(block=chunk.tiles.target))
            embedded.append(chunk.embedded)
            run = token_rows(chunk.tiles, self.layout)
            tokens = spent.unique * self.layout.tokens
            cost += spent._replace(useful=0, last=0, tokens=tokens, token_rows=run)
        self.keep(nodes)
        return tiles, np.concatenate(embedded), PrefixBlocks(nodes, new, self.slots), cost


class PrefixBlocks:
    """The KV blocks of a prefix that all questions share, one for each state on some paths."""

    def __init__(self, nodes: Nodes, some: np.ndarray, padding: int):
        """Takes the nodes of the prefix, the rows `some` of them that are asked for, and M."""
        self.grid, self.padding = nodes.slot[nodes.grid[some]], padding
        rows = nodes.rows[some, 1:]
        rows[np.arange(len(some)), nodes.length[some] - 1] = 0  # what was put after the path
        self.row = {key_of(row): i for i, row in enumerate(rows)}

    def of(self, nodes: Nodes, some: np.ndarray) -> np.ndarray:
        """Returns the block that each node on the rows `some` reads, and padding last."""
        out = np.full(len(nodes.slot) + 1, self.padding, np.int32)
        own = np.array([self.row[key_of(row)] for row in nodes.rows[some, 1:]], np.int64)
        width = min(nodes.grid.shape[1], self.grid.shape[1])
        inside = nodes.inside[some, :width]
        out[nodes.grid[some, :width][inside]] = self.grid[own, :width][inside]
        return out


def key_of(row: np.ndarray) -> bytes:
    """Returns the layers of a row of uint16, padded with zeros, as bytes of that many."""
    return row[: np.count_nonzero(row)].tobytes()


def as_rows(paths: np.ndarray) -> np.ndarray:
    """Writes paths [n, 1 + P], each a question and layers, with 0 for STOP, as uint16."""
    return (paths - np.where(np.arange(paths.shape[1]) > 0, STOP, 0)).astype(np.uint16)


def widen(rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """Pads the columns of [n, w] to [n, width]."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)

"""Tries of paths: the states of a batch, and the slots that hold them from wave to wave."""

import numpy as np

from cola_jax.execute.plan import NONE, Chunk, Columns, Cost, Layout, Tiles
from cola_jax.execute.schedule import Nodes, count_token_rows, most_paths, plan_chunks
from cola_jax.path import STOP

TARGET, BLOCK = (Columns._fields.index(name) for name in ("target", "block"))


class Trie:
    """The prefixes of all paths of a batch, and the slots that hold their states.

    The states of earlier waves keep their slots until others need them. Those on the fewest paths
    are evicted first, and recomputed when a path needs them again.
    """

    def __init__(self, slots: int, layout: Layout, outputs: int):
        """Plan for S >= 2 slots, tiles of these shapes, and at most `outputs` paths in a chunk."""
        self.slots, self.layout = slots, layout
        self.chunk_size = min(outputs, most_paths(slots, layout.rows))
        self.paths = np.zeros((0, 0), np.uint16)  # [n, 1 + P], as `as_rows` writes them
        self.held = np.zeros((0, 0), np.int32)  # [n, 1 + P] slots of each path's prefixes

    def plan(
        self, paths: np.ndarray, prefix: "PrefixBlocks | None" = None
    ) -> tuple[list[Chunk], Cost]:
        """Plan the wave of paths [n, 1 + P], each a question and layers padded with STOP.

        `prefix` are the KV blocks of the prefix that all questions continue. Return the chunks in
        the order in which they must run, and their cost.
        """
        nodes, new = self.merge(as_rows(paths))
        if prefix is not None:
            nodes.blocks["prompt_block"] = prefix.of_nodes(nodes, new)
        chunks, cost = plan_chunks(nodes, new, self.chunk_size, self.slots, self.layout)
        self.keep_held(nodes)
        return chunks, cost

    def merge(self, wave: np.ndarray) -> tuple[Nodes, np.ndarray]:
        """Return the nodes of all paths, and which of their rows are the wave's."""
        width = max(self.paths.shape[1], wave.shape[1])
        rows = np.concatenate([widen(wave, width, 0), widen(self.paths, width, 0)])
        held = np.full(rows.shape, NONE, np.int32)
        held[len(wave) :] = widen(self.held, width, NONE)
        nodes = Nodes(rows, held)
        return nodes, np.flatnonzero(nodes.order < len(wave))

    def keep_held(self, nodes: Nodes) -> None:
        """Keep the slots that states have now, and a path through each of them."""
        held = np.where(nodes.inside, nodes.slot[nodes.grid], NONE)
        row, depth = np.nonzero(held != NONE)
        _, first = np.unique(held[row, depth], return_index=True)
        kept = np.unique(row[first])
        self.paths, self.held = nodes.rows[kept], held[kept]


class PrefixTrie(Trie):
    """The states of a prefix that all questions share; a state's slot is its KV block as well.

    The states of a wave keep their slots until the next one is planned.
    """

    def __init__(self, slots: int, layout: Layout):
        """Plan for S slots, which hold the embedded prefix and the states of at least one path."""
        super().__init__(slots, layout, slots)

    def plan_prefix(
        self, paths: np.ndarray
    ) -> tuple[list[Tiles], np.ndarray, "PrefixBlocks", Cost]:
        """Plan paths [n, P], padded with STOP and all different, whose states fit together.

        Return the tiles in the order in which they must run, the slots of the embedded prefix that
        must be written first [0 or 1, 2], the block of each state, and the cost.
        """
        # with a layer more, which is not run, the state after the last layer is one like others
        ended = np.concatenate([paths, np.full((len(paths), 1), STOP, paths.dtype)], axis=1)
        ended[np.arange(len(paths)), (paths != STOP).sum(axis=1)] = 0
        wave = as_rows(np.concatenate([np.zeros((len(paths), 1), paths.dtype), ended], axis=1))
        nodes, new = self.merge(wave)
        nodes.pinned[nodes.grid[new][:, :-1][nodes.inside[new][:, 1:]]] = True
        chunks, cost = plan_chunks(nodes, new, self.chunk_size, self.slots, self.layout)
        tiles = [chunk.tiles for chunk in chunks]
        for each in tiles:
            each.table[:, BLOCK] = each.table[:, TARGET]
        token_rows = sum(count_token_rows(each, self.layout) for each in tiles)
        tokens = cost.unique * self.layout.tokens
        cost = cost._replace(useful=0, last=0, tokens=tokens, token_rows=token_rows)
        self.keep_held(nodes)
        embedded = np.concatenate([chunk.embedded for chunk in chunks])
        return tiles, embedded, PrefixBlocks(nodes, new, self.slots), cost


class PrefixBlocks:
    """The KV blocks of a prefix that all questions share, one for each state on some paths."""

    def __init__(self, nodes: Nodes, wave: np.ndarray, padding: int):
        """Take the nodes of the prefix, the rows of them on the paths asked for, and M."""
        self.grid, self.padding = nodes.slot[nodes.grid[wave]], padding
        rows = nodes.rows[wave, 1:]
        rows[np.arange(len(wave)), nodes.length[wave] - 1] = 0  # the layer more of `plan_prefix`
        self.row = {key_of(row): i for i, row in enumerate(rows)}

    def of_nodes(self, nodes: Nodes, wave: np.ndarray) -> np.ndarray:
        """Return the block that each node on rows of questions' nodes reads, and padding's last."""
        out = np.full(len(nodes.slot) + 1, self.padding, np.int32)
        same_path = np.array([self.row[key_of(row)] for row in nodes.rows[wave, 1:]], np.int64)
        width = min(nodes.grid.shape[1], self.grid.shape[1])
        inside = nodes.inside[wave, :width]
        out[nodes.grid[wave, :width][inside]] = self.grid[same_path, :width][inside]
        return out


def key_of(row: np.ndarray) -> bytes:
    """Return the layers of a row of uint16 as bytes, without the zeros after them."""
    return row[: np.count_nonzero(row)].tobytes()


def as_rows(paths: np.ndarray) -> np.ndarray:
    """Write paths [n, 1 + P], each a question and layers, as uint16: layers from 1, STOP as 0."""
    return (paths - np.where(np.arange(paths.shape[1]) > 0, STOP, 0)).astype(np.uint16)


def widen(rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """Pad the columns of [n, w] to [n, width]."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)

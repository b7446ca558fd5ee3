"""The trie of the paths of a batch, and the plan of each wave of them."""

import numpy as np

from cola_jax.execute.plan import NONE, Chunk, Cost
from cola_jax.execute.schedule import Schedule, paths_at_once
from cola_jax.path import STOP


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


class Trie:
    """The prefixes of all paths of a batch, and the slots that hold their states.

    The states of earlier waves keep their slots until others need them. Those on the fewest paths
    are evicted first, and recomputed when a path needs them again.
    """

    def __init__(self, slots: int, rows: int, outputs: int):
        """Plans for S slots, tiles of R rows, and at most `outputs` paths in a chunk."""
        if slots < 2:
            raise ValueError(f"a path needs 2 slots, there are {slots}.")
        self.slots, self.rows = slots, rows
        self.width = min(outputs, paths_at_once(slots, rows))
        self.paths = np.zeros((0, 0), np.uint16)  # [n, 1 + P] question, then layers + 1
        self.held = np.zeros((0, 0), np.int32)  # [n, 1 + P] slots of each path's prefixes

    def plan(self, paths: np.ndarray) -> tuple[list[Chunk], Cost]:
        """Plans the wave of paths [n, 1 + P], each a question and layers padded with STOP.

        Returns the chunks in the order in which they must run, and what they cost.
        """
        wave = as_rows(paths)
        known, width = len(self.paths), max(self.paths.shape[1], wave.shape[1])
        rows = np.concatenate([widen(self.paths, width, 0), widen(wave, width, 0)])
        held = np.full(rows.shape, NONE, np.int32)
        held[:known] = widen(self.held, width, NONE)
        order = lexicographic(rows)
        nodes = Nodes(rows[order], held[order])
        # neighbours in this order share the longest prefixes, so chunks are cut along it
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


def as_rows(paths: np.ndarray) -> np.ndarray:
    """Writes paths [n, 1 + P], each a question and layers, with 0 for STOP, as uint16."""
    return (paths - np.where(np.arange(paths.shape[1]) > 0, STOP, 0)).astype(np.uint16)


def widen(rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """Pads the columns of [n, w] to [n, width]."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)


def lexicographic(rows: np.ndarray) -> np.ndarray:
    """Sorts rows of uint16; returns their order [n]."""
    # big-endian bytes compare as the numbers do, in one pass for all columns
    text = np.ascontiguousarray(rows.astype(">u2")).view(f"S{2 * rows.shape[1]}")
    return np.argsort(text[:, 0], kind="stable")

"""The prefixes of sorted paths, node by node."""

import numpy as np

from cola_jax.execute.plan import NONE


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

"""The trie of the paths of some questions, and the plan of each wave of them."""

import numpy as np

from cola_jax.execute.nodes import Nodes, lexicographic, widen
from cola_jax.execute.plan import NONE, Chunk, Cost
from cola_jax.execute.schedule import Schedule, paths_at_once
from cola_jax.path import STOP


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
        self.width = min(outputs, paths_at_once(slots, rows))
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

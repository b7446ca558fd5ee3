"""`Trees`: the tree searches of a batch of questions, which the host grows together."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cola_jax.path import LayerPath, identity
from cola_jax.question import key_of
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.mcts import Wave, back_up, enlarged, grow, plant_all
from cola_jax.strategies.outcome import ROOT, Leaf
from cola_jax.strategies.rules import Settings, TreeRules
from cola_jax.strategies.tree import MULTIPLES, Tree, rounded_up, tables_of

LEAST_SEARCHES = 8
FIRST_NODES = 4096  # slots of a tree; twice as many where they are full


class Trees:
    """S searches, each with a tree of its own.

    Their arrays are on the CPU, whatever the model runs on, or where JAX has no such backend, on
    its default device. Arrays have rows for a power of two of searches, so that few programs are
    compiled.
    """

    def __init__(
        self, settings: Settings, num_layers: int, ids: Sequence[str], roots: Sequence[Verdicts]
    ):
        """Plant a tree for each id of a question; `roots` are verdicts [1] on the identity path."""
        rules = settings.preset
        if not isinstance(rules, TreeRules):
            raise TypeError(f"a tree needs TreeRules, not {type(rules).__name__}")
        self.settings = settings
        self.paths: list[list[LayerPath]] = [[identity(num_layers)] for _ in ids]  # of each tree
        self.rows = max(LEAST_SEARCHES, 1 << (len(ids) - 1).bit_length())
        leaves = min(settings.leaves, settings.simulations)
        self.most = rounded_up(leaves, MULTIPLES["leaves"])
        self.counts = np.zeros(self.rows, np.int32)  # leaves of the last wave
        keys = np.zeros((self.rows, 2), np.uint32)
        keys[: len(ids)] = [key_of(settings.seed, id) for id in ids]
        self.device = host_device()
        self.make_tables = functools.partial(
            tables_of, rules, num_layers, settings.costs(num_layers), prior=settings.prior
        )
        self.nodes = min(FIRST_NODES, settings.simulations + 1)
        verdicts = self.column([root.verdict for root in roots], bool)[:, ROOT]
        margins = self.column([root.margin for root in roots], np.float32)[:, ROOT]
        in_nats = self.column([root.log_likelihoods for root in roots], bool)[:, ROOT]
        with self.on_host():
            self.tables = jax.device_put(self.make_tables(self.nodes), self.device)
            layers = np.int32(num_layers)
            self.trees: Tree = plant_all(self.tables, keys, layers, verdicts, margins, in_nats)

    @contextlib.contextmanager
    def on_host(self) -> Iterator[None]:
        """Run what follows on the device of the trees, in 32 bits whatever a user's default is."""
        with jax.default_device(self.device), jax.enable_x64(False):
            yield

    def column(self, values: Sequence[np.ndarray | None], dtype: type) -> np.ndarray:
        """Stack the values [n] of searches, n <= C, in an array [rows, C]; zeros where none are."""
        out = np.zeros((self.rows, self.most), dtype)
        for s, row in enumerate(values):
            if row is not None:
                out[s, : len(row)] = row
        return out

    def propose(self, wanted: Sequence[bool]) -> list[list[Leaf]]:
        """Add the leaves of a wave to the trees that are wanted; empty lists at their ends."""
        counts = np.zeros(self.rows, np.int32)
        for s, (paths, is_wanted) in enumerate(zip(self.paths, wanted, strict=True)):
            left = self.settings.simulations + 1 - len(paths)
            counts[s] = min(self.settings.leaves, left) if is_wanted else 0
        if not counts.any():
            return [[] for _ in self.paths]
        with self.on_host():
            while max(map(len, self.paths)) + counts.max() > self.nodes:
                self.enlarge()
            self.trees, grown = grow(self.trees, self.tables, counts, most=self.most)
        wave: Wave = jax.device_get(grown)
        self.counts = np.asarray(wave.size)
        return [self.added(s, wave) for s in range(len(self.paths))]

    def enlarge(self) -> None:
        """Double the slots of the trees."""
        self.nodes *= 2
        self.tables = jax.device_put(self.make_tables(self.nodes), self.device)
        self.trees = enlarged(self.trees, len(self.tables.children) - 1)

    def added(self, s: int, wave: Wave) -> list[Leaf]:
        """Return the leaves that a wave has added to a tree."""
        paths = self.paths[s]
        leaves = []
        for c in range(wave.size[s]):
            path = tuple(wave.paths[s, c, : wave.length[s, c]].tolist())
            leaves.append(Leaf(path, paths[wave.parent[s, c]], wave.edit[s, c].tolist()))
            paths.append(path)  # of which the next leaf may be an edit
        return leaves

    def take(self, verdicts: Sequence[Verdicts | None]) -> None:
        """Back up the verdicts of the leaves that were proposed last; None where none were."""
        right = self.column([each and each.verdict for each in verdicts], bool)
        margins = self.column([each and each.margin for each in verdicts], np.float32)
        with self.on_host():
            self.trees = back_up(self.trees, self.tables, right, margins, self.counts)


def host_device() -> Any:
    """Return a CPU, or where JAX has no such backend, its default device."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]

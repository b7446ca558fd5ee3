"""Monte Carlo tree search: the leaves of a wave, and drawing the edits that make them."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from cola_jax.identity import random_of
from cola_jax.path import SKIP, STOP, Edit, edit_table, edited, edits_fit, identity
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.outcome import NO_PARENT, ROOT, Proposals
from cola_jax.strategies.rules import Rules, Settings, TreeRules
from cola_jax.strategies.tree import Tree

NOTHING = -1  # the number of a leaf that there is not
DRAWS = 16  # edits drawn in a row whose paths are not new, before all are looked at


class Leaf(NamedTuple):
    """A path to evaluate, its number and its parent's, and the edit that made it."""

    node: int
    parent: int
    path: str
    edit: Sequence[int]  # kind, start, k, amount


NO_LEAF = Leaf(NOTHING, NO_PARENT, "", (0, 0, 0, 0))


class TreeSearch:
    """Monte Carlo tree search: a tree for each of S searches, on the host."""

    def __init__(self, settings: Settings, ids: Sequence[str], num_layers: int):
        """Plant a tree for each of the questions with these ids."""
        assert isinstance(settings.preset, TreeRules)
        self.rules, self.num_layers, self.settings = settings.preset, num_layers, settings
        self.positions = settings.positions(num_layers)
        self.draws = EditDraws(self.rules, self.positions, num_layers)
        root = as_text(identity(num_layers))
        self.trees = [
            Tree(root, self.rules, num_layers, random_of(settings.seed, id)) for id in ids
        ]

    def propose(self, active: np.ndarray) -> Proposals | None:
        """Select the leaves of the next wave of the active searches [S]; None for none."""
        waves = [
            self.select(tree) if runs else []
            for tree, runs in zip(self.trees, active.tolist(), strict=True)
        ]
        shape = len(waves), max(map(len, waves))
        if not shape[1]:
            return None
        leaves = [leaf for wave in waves for leaf in (*wave, *[NO_LEAF] * (shape[1] - len(wave)))]
        node, parent, paths, edits = zip(*leaves, strict=True)
        return Proposals(
            as_ids(paths, self.positions).reshape(*shape, -1),
            np.array(node).reshape(shape),
            np.array(parent).reshape(shape),
            np.array(edits, np.int32).reshape(*shape, 4),
        )

    def select(self, tree: Tree) -> list[Leaf]:
        """Add the leaves of a wave to a tree as pending, within its budget."""
        leaves: list[Leaf] = []
        size = min(self.settings.leaves, self.settings.simulations + 1 - len(tree.paths))
        while len(leaves) < size and not tree.dead:
            parent = tree.descend()
            drawn = self.draws.draw(tree, parent)
            if drawn is None:
                tree.close(parent)
            else:
                path, edit = drawn
                leaves.append(Leaf(tree.add(path, parent, edit[1]), parent, path, edit))
        return leaves

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Back up the rewards of evaluated leaves."""
        lengths = (proposals.paths != STOP).sum(axis=-1)
        penalty = self.rules.length_penalty * lengths / self.num_layers
        margin = self.rules.reward == "margin"
        rewards = (expit(verdicts.margin) if margin else verdicts.verdict) - penalty
        for tree, *wave in zip(self.trees, proposals.node.tolist(), rewards.tolist(), strict=True):
            for node, reward in zip(*wave, strict=True):
                if node != NOTHING:
                    tree.back_up(node, reward)


def as_text(path: Sequence[int]) -> str:
    """Write a path as a string of a character for each layer: 1 for layer 0, since 0 pads."""
    return "".join(chr(1 + layer) for layer in path)


def as_ids(paths: Sequence[str], positions: int) -> np.ndarray:
    """Return paths as padded ids [N, P]; NumPy stores characters as their 32-bit numbers."""
    return np.array(paths, f"U{positions}").view(np.int32).reshape(len(paths), positions) - 1


class WeightedEdits(NamedTuple):
    """Edits in the order of their starts, each drawn in proportion to its weight."""

    edits: np.ndarray  # [A, 4]
    starts: list[int]
    sums: list[float]  # of the weights up to each edit

    @classmethod
    def of(cls, edits: np.ndarray, power: float) -> "WeightedEdits":
        """Give edits of blocks of k layers the weight k ** power."""
        return cls(edits, edits[:, 1].tolist(), np.cumsum(edits[:, 2] ** float(power)).tolist())

    def draw(self, start: int, random: np.random.Generator) -> list[int]:
        """Draw one of the edits from a start on, of which there must be one."""
        first = bisect.bisect_left(self.starts, start)
        low = self.sums[first - 1] if first else 0.0
        chosen = bisect.bisect_right(self.sums, low + random.random() * (self.sums[-1] - low))
        return self.edits[min(chosen, len(self.sums) - 1)].tolist()


class EditDraws(dict[tuple[int, float], list[WeightedEdits]]):
    """Draw edits: by a path's length and the largest block, those that fit, of each kind."""

    def __init__(self, rules: TreeRules, positions: int, num_layers: int):
        super().__init__()
        self.rules, self.lengths = rules, rules.lengths(num_layers)
        rows = np.stack(table_of(rules, positions), axis=1)
        self.rows = rows[np.argsort(rows[:, 1], kind="stable")]

    def __missing__(self, key: tuple[int, float]) -> list[WeightedEdits]:
        length, largest = key
        table = Edit(*self.rows.T)
        fits = edits_fit(length, table, *self.lengths) & (table.k <= largest)
        of_kind = [self.rows[fits & (table.kind == kind)] for kind in np.unique(table.kind[fits])]
        self[key] = [WeightedEdits.of(rows, self.rules.block_power) for rows in of_kind]
        return self[key]

    def draw(self, tree: Tree, node: int) -> tuple[str, Sequence[int]] | None:
        """Draw an edit of a node's path that makes a path the tree does not have.

        The kind is drawn first and evenly, then the edit among those of its kind: there are four
        times as many repeats as skips, and drawing from all would hardly try a skip. An edit is
        drawn in proportion to its k to the rules' `block_power`. At the root the rules' early exits
        come before all other edits. Returns the path and the edit; None where there is none.
        """
        rules, path = self.rules, tree.paths[node]

        def new_path(edit: Sequence[int]) -> str | None:
            child, (_, start, k, _) = edited(path, edit), edit
            if child in tree.known:
                return None
            if rules.max_runs is None:
                return child
            # only the layers of the block may run more often than before
            runs = max(map(child.count, path[start : start + k]))
            return child if runs <= rules.max_runs else None

        exits = min(rules.exits, len(path) - self.lengths[0]) if node == ROOT else 0
        for k in range(1, exits + 1):
            edit = (SKIP, len(path) - k, k, 0)
            if child := new_path(edit):
                return child, edit
        start = tree.starts[node] if rules.ordered else 0
        largest = rules.deep_block if node != ROOT and rules.deep_block else math.inf
        kinds = [edits for edits in self[len(path), largest] if edits.starts[-1] >= start]
        while kinds:
            edits = kinds.pop(int(tree.random.random() * len(kinds)))
            for _ in range(DRAWS):
                edit = edits.draw(start, tree.random)
                if child := new_path(edit):
                    return child, edit
            # few or none are new, and one of them is as likely as if it had been drawn by chance
            new = [edit for edit in edits.edits.tolist() if edit[1] >= start and new_path(edit)]
            if new:
                edit = WeightedEdits.of(np.array(new), rules.block_power).draw(start, tree.random)
                return edited(path, edit), edit
        return None


def table_of(rules: Rules, positions: int) -> Edit:
    """List the edits of a search, as `edit_table`."""
    return edit_table(
        positions,
        rules.max_skip,
        rules.max_repeat,
        rules.max_times,
        rules.max_move,
        rules.max_move_block,
    )

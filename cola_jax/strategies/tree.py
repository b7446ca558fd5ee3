"""Monte Carlo tree search of one question: UCB, widening, virtual visits, and drawing edits."""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import MOVE, Edit, LayerPath, edit_table, edited, edits_fit
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.outcome import NO_PARENT, ROOT, Leaf
from cola_jax.strategies.rules import Rules, TreeRules

DRAWS = 16  # edits drawn in a row whose paths are not new, before all are looked at


class Tree:
    """A structure of arrays with a slot for each node, which is one path; no two are the same.

    A node is made when it is selected, and pending until its verdict is backed up. The arrays are
    lists: a leaf reads and writes a few entries of them, in less time than NumPy or JAX takes for
    one call.
    """

    def __init__(
        self, path: LayerPath, rules: TreeRules, costs: LayerCosts, random: np.random.Generator
    ):
        """Plant the root, pending its verdict; `random` is the question's own."""
        self.rules = rules
        self.random = random
        self.total_cost = costs.total
        self.unit = 1.0  # of margins
        self.cost_weight = rules.length_weight / costs.total
        self.layer_costs = costs
        self.paths: list[LayerPath] = []
        self.costs: list[float] = []  # of the paths: their lengths, where layers cost the same
        self.known: set[LayerPath] = set()  # the paths
        self.parents: list[int] = []
        self.starts: list[int] = []  # where the edits from the parents begin
        self.visits: list[int] = []  # evaluations at and below the node, pending ones included
        self.value: list[float] = []  # sum of rewards at and below the node
        self.means: list[float] = []  # the node's UCB without exploration
        self.rates: list[float] = []  # its exploration, for a logarithm of 1
        self.grown: list[int] = []  # the number of its children
        self.children: list[list[int]] = []  # those that may still lead to new paths
        self.closed: set[int] = set()  # nodes whose edits make no new path
        self.add(path, NO_PARENT, 0)

    @property
    def dead(self) -> bool:
        """Whether no node has a new path left."""
        return ROOT in self.closed and not self.children[ROOT]

    def add(self, path: LayerPath, parent: int, start: int) -> int:
        """Add a pending node and count its visit on the way up; return its slot."""
        node = len(self.paths)
        self.paths.append(path)
        self.costs.append(self.layer_costs.of(path))
        self.known.add(path)
        self.parents.append(parent)
        self.starts.append(start)
        self.grown.append(0)
        self.children.append([])
        for column in (self.visits, self.value, self.means, self.rates):
            column.append(0)
        if parent != NO_PARENT:
            self.grown[parent] += 1
            self.children[parent].append(node)
        self.back_up(node, 0.0, visits=1)
        return node

    def back_up(self, node: int, reward: float, visits: int = 0) -> None:
        """Add a reward to a node and its ancestors; its visit was counted when it was selected."""
        exploration = self.rules.exploration
        while node != NO_PARENT:
            self.visits[node] = count = self.visits[node] + visits
            self.value[node] = value = self.value[node] + reward
            self.means[node] = value / count - self.cost_weight * self.costs[node]
            self.rates[node] = exploration / math.sqrt(count)
            node = self.parents[node]

    def descend(self) -> int:
        """Follow the child of the best UCB until a node may have one more.

        UCB is Q/v + c sqrt(ln V / v) - lambda |P|/L (CoLa, section 3).
        """
        node = ROOT
        whole = self.rules.visits == "tree"
        means = self.means
        rates = self.rates
        while (children := self.children[node]) and not self.may_expand(node):
            weight = math.sqrt(math.log(self.visits[ROOT if whole else node]))
            scores = [means[child] + weight * rates[child] for child in children]
            node = children[scores.index(max(scores))]
        return node

    def may_expand(self, node: int) -> bool:
        """Whether a descent ends at a node, with a new child of it."""
        if node in self.closed:
            return False
        limit = self.rules.widening * self.visits[node] ** self.rules.widening_power
        epsilon = self.rules.epsilon
        return self.grown[node] < limit or (epsilon > 0 and self.random.random() < epsilon)

    def close(self, node: int) -> None:
        """Record that no edit of a node makes a new path; those above it may be dead with it.

        The tree only grows, so such a node never has one again.
        """
        self.closed.add(node)
        while node != ROOT and node in self.closed and not self.children[node]:
            parent = self.parents[node]
            self.children[parent].remove(node)
            node = parent

    def select(self, draws: "EditDraws", count: int) -> list[Leaf]:
        """Add up to `count` leaves as pending nodes."""
        leaves: list[Leaf] = []
        while len(leaves) < count and not self.dead:
            parent = self.descend()
            drawn = draws.draw(self, parent)
            if drawn is None:
                self.close(parent)
            else:
                path, edit = drawn
                self.add(path, parent, edit[1])
                leaves.append(Leaf(path, self.paths[parent], edit))
        return leaves

    def update(self, verdicts: Verdicts) -> None:
        """Back up the rewards of the nodes added last, in order; verdicts are [C]."""
        first = len(self.paths) - len(verdicts.verdict)
        if first == ROOT:
            self.unit = unit_of_margins(verdicts.take(ROOT))
        of_margin = self.rules.reward == "margin"
        rewards = expit(verdicts.margin / self.unit) if of_margin else verdicts.verdict
        for node, reward in enumerate(rewards.tolist(), first):
            penalty = self.rules.length_penalty * self.costs[node] / self.total_cost
            self.back_up(node, reward - penalty)


def unit_of_margins(root: Verdicts) -> float:
    """Return the unit of a tree's margins: 1 nat, or where scores have no unit, the root's margin.

    So the same tree grows whatever scores without a unit are multiplied by.
    """
    size = abs(float(root.margin))
    return 1.0 if root.log_likelihoods or not 0 < size < math.inf else size


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
        """Draw one of the edits from a start on; at least one must exist."""
        first = bisect.bisect_left(self.starts, start)
        low = self.sums[first - 1] if first else 0.0
        chosen = bisect.bisect_right(self.sums, low + random.random() * (self.sums[-1] - low))
        return self.edits[min(chosen, len(self.sums) - 1)].tolist()


class EditDraws(dict[tuple[int, float], list[WeightedEdits]]):
    """Draw edits: by a path's length and the largest block, those that fit, of each kind."""

    def __init__(
        self,
        rules: TreeRules,
        positions: int,
        num_layers: int,
        prior: Sequence[Sequence[int]] = (),
    ):
        super().__init__()
        self.rules = rules
        self.lengths = rules.lengths(num_layers)
        table = Edit(*np.array(prior, int).reshape(-1, 4).T)
        fits = edits_fit(num_layers, table, *self.lengths).tolist()
        self.prior = [edit for edit, does_fit in zip(prior, fits, strict=True) if does_fit]
        rows = np.stack(edits_of(rules, positions), axis=1)
        self.rows = rows[np.argsort(rows[:, 1], kind="stable")]

    def __missing__(self, key: tuple[int, float]) -> list[WeightedEdits]:
        length, largest = key
        table = Edit(*self.rows.T)
        fits = edits_fit(length, table, *self.lengths) & (table.k <= largest)
        of_kind = [self.rows[fits & (table.kind == kind)] for kind in np.unique(table.kind[fits])]
        self[key] = [WeightedEdits.of(rows, self.rules.block_power) for rows in of_kind]
        return self[key]

    def draw(self, tree: Tree, node: int) -> tuple[LayerPath, Sequence[int]] | None:
        """Draw an edit of a node's path that makes a new path of the tree.

        The kind is drawn first and evenly, then the edit among those of its kind: there are four
        times as many repeats as skips, and drawing from all would hardly try a skip. An edit is
        drawn in proportion to its k to the rules' `block_power`. At the root the edits of the prior
        come before all others. Returns the path and the edit; None where there is none.
        """
        rules = self.rules
        path = tree.paths[node]

        def new_path(edit: Sequence[int]) -> LayerPath | None:
            _, start, k, _ = edit
            child = edited(path, edit)
            if child in tree.known:
                return None
            if rules.max_runs is None:
                return child
            # only the layers of the block may run more often than before
            runs = max(map(child.count, path[start : start + k]))
            return child if runs <= rules.max_runs else None

        for edit in self.prior if node == ROOT else ():
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


def edits_of(rules: Rules, positions: int) -> Edit:
    """List the edits of a search, as `edit_table`."""
    sizes = rules.max_skip, rules.max_repeat, rules.max_times, rules.max_move, rules.max_move_block
    table = edit_table(positions, *sizes)
    whole = (table.k % rules.block_multiple == 0) & (
        (table.kind != MOVE) | (table.amount % rules.block_multiple == 0)
    )
    return Edit(*(column[whole] for column in table))

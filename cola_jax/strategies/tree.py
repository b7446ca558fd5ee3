"""The search tree of one question: UCB, widening, virtual visits, and what is dead."""

import math

import numpy as np

from cola_jax.strategies.outcome import NO_PARENT, ROOT
from cola_jax.strategies.rules import TreeRules


class Tree:
    """A structure of arrays with a slot for each node, which is one path; no two are the same.

    A node is made when it is selected, and pending until its verdict is backed up. The arrays are
    lists: a leaf reads and writes a few entries of them, in less time than NumPy or JAX takes for
    one call, and however many trees there are, nothing is compiled or padded.

    A path is a string of a character for each layer, which Python slices, hashes and compares as a
    whole; `cola_jax.strategies.mcts.as_text` makes it.
    """

    def __init__(self, path: str, rules: TreeRules, num_layers: int, random: np.random.Generator):
        """Plant the root, the given path, pending its verdict; `random` is the question's own."""
        self.rules, self.random = rules, random
        self.layer_cost = rules.length_weight / num_layers
        self.paths: list[str] = []
        self.known: set[str] = set()  # the paths
        self.parents: list[int] = []
        self.starts: list[int] = []  # where the edits from the parents begin
        self.visits: list[int] = []  # evaluations at and below the node, pending ones included
        self.value: list[float] = []  # sum of rewards at and below the node
        self.means: list[float] = []  # what UCB gives the node, without exploration
        self.rates: list[float] = []  # its exploration, for a logarithm of 1
        self.grown: list[int] = []  # the number of its children
        self.children: list[list[int]] = []  # those below which there may be new paths
        self.closed: set[int] = set()  # nodes of which no edit makes a new path
        self.add(path, NO_PARENT, 0)

    @property
    def dead(self) -> bool:
        """Whether no node has a new path left."""
        return ROOT in self.closed and not self.children[ROOT]

    def add(self, path: str, parent: int, start: int) -> int:
        """Add a pending node and count its visit on the way up; return its slot."""
        node = len(self.paths)
        self.paths.append(path)
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
            self.means[node] = value / count - self.layer_cost * len(self.paths[node])
            self.rates[node] = exploration / math.sqrt(count)
            node = self.parents[node]

    def descend(self) -> int:
        """Follow the child of the best UCB until a node may have one more.

        UCB is Q/v + c sqrt(ln V / v) - lambda |P|/L (CoLa, section 3).
        """
        node, whole = ROOT, self.rules.visits == "tree"
        means, rates = self.means, self.rates
        while (children := self.children[node]) and not self.may_expand(node):
            weight = math.sqrt(math.log(self.visits[ROOT if whole else node]))
            scores = [means[child] + weight * rates[child] for child in children]
            node = children[scores.index(max(scores))]
        return node

    def may_expand(self, node: int) -> bool:
        """Say whether a descent ends at a node, with a new child of it."""
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

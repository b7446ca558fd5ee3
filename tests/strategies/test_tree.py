"""One search tree: counts, values, UCB, widening, and what is closed or dead."""

import math
from typing import Any

import numpy as np
import pytest

from cola_jax.identity import random_of
from cola_jax.strategies.outcome import NO_PARENT, ROOT
from cola_jax.strategies.rules import TreeRules
from cola_jax.strategies.tree import Tree

PARENTS = [NO_PARENT, 0, 0, 0, 3, 3, 2]
PATHS = ["ab", "a", "b", "abb", "aab", "abab", "bb"]


@pytest.fixture
def tree() -> Tree:
    """Seven nodes, of which node 6 is below 2, nodes 4 and 5 below 3, and the rest at the root."""
    return small_tree()


def small_tree(**rules: Any) -> Tree:
    tree = Tree(PATHS[0], TreeRules(**rules), 2, random_of(0))
    for path, parent in zip(PATHS[1:], PARENTS[1:], strict=True):
        tree.add(path, parent, 0)
    return tree


def test_add_counts_visits_upwards(tree: Tree) -> None:
    assert tree.paths == PATHS
    assert tree.known == set(PATHS)
    assert tree.parents == PARENTS
    assert tree.visits == [7, 1, 2, 3, 1, 1, 1]
    assert tree.grown == [3, 0, 1, 2, 0, 0, 0]
    assert tree.children == [[1, 2, 3], [], [6], [4, 5], [], [], []]
    assert not any(tree.value)


def test_back_up_adds_rewards_to_all_ancestors(tree: Tree) -> None:
    for node, reward in [(4, 1), (6, 0.5), (1, -0.25)]:
        tree.back_up(node, reward)
    assert tree.value == [1.25, -0.25, 0.5, 1, 1, 0, 0.5]
    assert tree.visits == [7, 1, 2, 3, 1, 1, 1]


@pytest.mark.parametrize("visits", ["tree", "parent"])
def test_descend_follows_the_best_ucb(visits: str) -> None:
    """The paper's formula; rewards without ties, each node full but those without children."""
    random = np.random.default_rng(0)
    reached = set()
    for _ in range(100):
        tree = small_tree(exploration=0.3, length_weight=0.05, visits=visits, widening_power=0)
        tree.grown = [9] * 7
        for node in range(7):
            tree.back_up(node, float(random.uniform(0, 1)))

        def ucb(node: int, tree: Tree = tree) -> float:
            total = tree.visits[ROOT if visits == "tree" else PARENTS[node]]
            explored = 0.3 * math.sqrt(math.log(total) / tree.visits[node])
            return tree.value[node] / tree.visits[node] + explored - 0.05 * len(PATHS[node]) / 2

        best = max((1, 2, 3), key=ucb)
        expected = {1: 1, 2: 6, 3: max((4, 5), key=ucb)}[best]
        assert tree.descend() == expected
        reached.add(expected)
    assert reached == {1, 4, 5, 6}


def test_nodes_widen_with_their_visits(tree: Tree) -> None:
    """Three children at seven visits: fewer than 2 * 7 ** 0.5."""
    assert tree.descend() == ROOT
    tree.grown[ROOT] = 6
    assert tree.descend() != ROOT
    tree.close(ROOT)
    tree.grown[ROOT] = 0
    assert tree.descend() != ROOT


def test_epsilon_ends_descents_early() -> None:
    counts = {}
    for epsilon in (0.0, 0.1, 1.0):
        tree = small_tree(epsilon=epsilon)
        tree.grown = [9] * 7
        counts[epsilon] = sum(tree.descend() == ROOT for _ in range(1000))
    assert counts[0.0] == 0
    assert 70 < counts[0.1] < 130
    assert counts[1.0] == 1000


def test_close_buries_branches_without_new_paths(tree: Tree) -> None:
    children = {4: [1, 2, 3], 5: [1, 2, 3], 3: [1, 2], 0: [1, 2], 1: [2], 2: [2]}
    for node, left in children.items():
        tree.close(node)
        assert tree.children[ROOT] == left
        assert not tree.dead
    assert tree.descend() == 6  # closed nodes lead to what is below them
    tree.close(6)
    assert tree.dead
    assert tree.grown == [3, 0, 1, 2, 0, 0, 0]


def test_rewards_of_dead_nodes_count_above_them(tree: Tree) -> None:
    tree.close(1)
    tree.back_up(1, 1.0)
    assert tree.value[ROOT] == 1
    assert tree.children[ROOT] == [2, 3]

"""Trees of random rules, beside a second implementation in plain Python."""

import functools
import zlib

import jax
import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import SKIP, LayerPath, edit_table, identity
from cola_jax.question import key_of
from cola_jax.strategies.mcts import back_up, grow, plant_all
from cola_jax.strategies.rules import PRESETS, TreeRules
from cola_jax.strategies.tree import Tree, tables_of
from tests.strategies.plain_tree import Judged, PlainTree

TREES = [name for name, rules in PRESETS.items() if isinstance(rules, TreeRules)]
SEARCHES = 4
LEAVES = 16
NODES = 64
COSTS = (1.0, 2.0, 0.5, 4.0, 1.5, 3.0, 0.25, 2.5)  # milliseconds, which integers represent
PARTS = tuple((cost / 4, cost * 5 / 8) for cost in COSTS)  # of parts, likewise
FIFTY = -50.0
ROOTS = [(True, -3.0), (False, -np.inf), (False, FIFTY)]  # margins, and whether in nats
FIELDS = {
    "max_skip": (0, 1, 2, 4),
    "max_repeat": (0, 1, 2, 4),
    "max_times": (0, 1, 4),
    "max_move": (0, 0, 1, 2),
    "max_move_block": (1, 2, 3),
    "block_multiple": (1, 1, 1, 2),
    "min_length": (0.0, 0.25, 0.57),
    "max_length": (1.0, 1.22, 2.0),
    "exploration": (0.0, 0.3, 2.0),
    "length_weight": (0.0, 0.1, 5.0, -0.5),
    "length_penalty": (0.0, 0.0, 0.7),
    "reward": ("verdict", "margin"),
    "widening": (1.0, 2.0),
    "widening_power": (0.0, 0.5, 0.8),
    "epsilon": (0.0, 0.0, 0.1, 1.0),
    "visits": ("tree", "parent"),
    "deep_block": (None, None, 1, 2),
    "max_runs": (None, None, 1, 2, 3),
    "ordered": (False, True),
    "block_power": (0.0, -1.0, 0.5, 2.0),
    "parts": (False, True),
    "shares": ((), (), (0.5,), (0.125, 1.5, 0.25)),
}


def random_rules(random: np.random.Generator) -> TreeRules:
    """Draw rules that are valid."""
    while True:
        fields = {name: values[random.integers(len(values))] for name, values in FIELDS.items()}
        try:
            return TreeRules(**fields)
        except InputError:
            continue


def judge(path: LayerPath, seed: int, root: float) -> Judged:
    """Judge a path by a hash; its margin is some multiple of that of the identity path.

    Not a large one: near 0 and 1, rewards of two programs are rounded to different neighbours.
    """
    random = np.random.default_rng(zlib.crc32(np.array(path).tobytes(), seed))
    verdict = bool(random.random() < 0.4)
    if path == identity(len(path)):
        return Judged(verdict, root)
    margin = float(np.float32(random.normal(0, 2) * (50 if root == FIFTY else 1)))
    return Judged(verdict, -np.inf if random.random() < 0.1 else margin)


@pytest.mark.parametrize("seed", range(20))
def test_trees_of_random_rules_are_those_of_plain_python(seed):
    random = np.random.default_rng(seed)
    num_layers = int(random.integers(2, 9))
    check(random_rules(random), num_layers, random)


@pytest.mark.parametrize("name", TREES)
def test_trees_of_presets_are_those_of_plain_python(name):
    check(PRESETS[name], 8, np.random.default_rng(0))


def test_a_search_without_edits_ends_with_the_identity_path():
    """Blocks of two layers, of a model that has one."""
    check(TreeRules(block_multiple=2, max_length=1.0), 1, np.random.default_rng(0))


def test_edits_of_a_prior_leave_the_chances_of_others():
    """Whatever the sizes of their blocks."""
    rules = TreeRules(block_power=4.0)
    prior = [(SKIP, 0, 20, 0)]
    alone, beside = (tables_of(rules, 30, LayerCosts(30), NODES, rows) for rows in ((), prior))
    assert beside.shapes.weight[:20].tolist() == alone.shapes.weight[:20].tolist()
    assert not beside.shapes.weight[20:].any()


def check(rules: TreeRules, num_layers: int, random: np.random.Generator) -> None:
    """Grow some trees in waves of random sizes, and compare all that they record."""
    every = np.stack(  # the rules have some of them
        edit_table(num_layers, 3, 2, 2, 2, 2, parts=rules.parts, shares=rules.shares), axis=1
    )
    prior = [tuple(edit) for edit in random.permutation(every)[: random.integers(0, 5)].tolist()]
    table = COSTS[:num_layers] if random.random() < 0.5 else None
    parts = None if table is None or random.random() < 0.5 else PARTS[:num_layers]
    costs = LayerCosts(num_layers, table, parts)
    in_nats, root = ROOTS[random.integers(len(ROOTS))]
    judges = [
        functools.partial(judge, seed=int(random.integers(2**31)), root=root)
        for _ in range(SEARCHES)
    ]
    keys = np.stack([key_of(0, f"q{s}") for s in range(SEARCHES)])
    plain = [
        PlainTree(rules, num_layers, costs, key, judge, in_nats, NODES, prior)
        for key, judge in zip(keys, judges, strict=True)
    ]
    tables = tables_of(rules, num_layers, costs, NODES, prior)
    roots = [tree.judge(tree.paths[0]) for tree in plain]
    trees = plant_all(
        tables,
        keys,
        np.int32(num_layers),
        np.array([root.verdict for root in roots]),
        np.array([root.margin for root in roots], np.float32),
        np.full(SEARCHES, in_nats),
    )
    left = NODES - 1
    while left:
        wave = min(int(random.integers(1, LEAVES + 1)), left)
        left -= wave
        sizes = [len(tree.paths) for tree in plain]
        counts = np.array([tree.select(wave) for tree in plain], np.int32)
        trees, grown = grow(trees, tables, np.full(SEARCHES, wave, np.int32), most=LEAVES)
        assert grown.size.tolist() == counts.tolist()
        verdicts = np.zeros((SEARCHES, LEAVES), bool)
        margins = np.zeros((SEARCHES, LEAVES), np.float32)
        for s, (tree, size, count) in enumerate(zip(plain, sizes, counts.tolist(), strict=True)):
            judged = [tree.judge(path) for path in tree.paths[size:]]
            verdicts[s, :count] = [each.verdict for each in judged]
            margins[s, :count] = [each.margin for each in judged]
            tree.update(count)
        trees = back_up(trees, tables, verdicts, margins, counts)
        for s, tree in enumerate(plain):
            assert_same(jax.tree.map(lambda column, s=s: np.asarray(column[s]), trees), tree)


def assert_same(tree: Tree, plain: PlainTree) -> None:
    """Compare a tree with its second implementation."""
    size = int(tree.size)
    lengths = tree.length[:size].tolist()
    paths = [tuple(tree.paths[i, :n].tolist()) for i, n in enumerate(lengths)]
    assert paths == plain.paths
    assert tree.parent[:size].tolist() == plain.parents
    assert [tuple(edit) for edit in tree.edit[:size].tolist()] == plain.edits
    assert tree.visits[:size].tolist() == plain.visits
    assert tree.closed[:size].tolist() == plain.closed
    assert tree.live[:size].tolist() == [len(plain.live(i)) for i in range(size)]
    assert tree.grown[:size].tolist() == [len(plain.children(i)) for i in range(size)]
    assert int(tree.tried) == plain.tried
    np.testing.assert_allclose(tree.value[:size], plain.value, atol=1e-5)

"""The arrays of one search tree: nodes, counts, values, and what is closed or dead."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cola_jax.execute.batch import Batch
from cola_jax.execute.engine import Engine
from cola_jax.scoring.judge import Judge
from cola_jax.search.grove import Grove
from cola_jax.search.search import check_settings

<<<<<<< HEAD
from cola_jax.config import ModelConfig
from cola_jax.edits import KINDS, Edit, apply_edit
from cola_jax.execute.memory import Memory
from cola_jax.execute.worker import Lane
from cola_jax.params import Model
from cola_jax.path import STOP, identity, pad_path
from cola_jax.prompts import Readings
from cola_jax.scoring.encode import pack
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Said, Verdicts
from cola_jax.search import PRESETS, Preset, mcts, search
from cola_jax.search.mcts import back_up_wave, select_wave, ucb
from cola_jax.search.tree import ROOT, new_tree, path_hash
from cola_jax.tasks import Encoded, Question
=======
from cola_jax.edits import Edit
from cola_jax.path import STOP, identity, pad_path
from cola_jax.search.tree import (
    NO_PARENT,
    ROOT,
    add_node,
    back_up,
    close,
    lengths,
    live_children,
    new_tree,
    path_hash,
)
>>>>>>> h-t-scoring

POSITIONS = 6
PATHS = [(0, 1), (0,), (1,), (0, 1, 1), (0, 0, 1), (0, 1, 0, 1), (1, 1)]
PARENTS = [NO_PARENT, 0, 0, 0, 3, 3, 2]


def small_tree():
    root = jnp.asarray(pad_path(identity(2), POSITIONS))
    return new_tree(root, len(PATHS) + 1, jax.random.key(0))


@pytest.fixture(scope="module")
def tree():
    """Seven nodes, of which node 6 is below 2, nodes 4 and 5 below 3, and the rest at the root."""
    tree = small_tree()
    for path, parent in zip(PATHS[1:], PARENTS[1:], strict=True):
        edit = Edit(*(jnp.int32(parent + i) for i in range(4)))
        tree = jax.jit(add_node)(tree, parent, jnp.asarray(pad_path(path, POSITIONS)), edit)
    return tree


def test_new_tree_holds_pending_root():
    tree = small_tree()
    assert tree.size == tree.visits[ROOT] == 1
    assert tree.parents.tolist() == [NO_PARENT] * 8
    assert tree.paths[ROOT].tolist() == [0, 1, *[STOP] * 4]
    assert (tree.paths[1:] == STOP).all()
    for name in ("value", "children", "closed", "dead", "edits"):
        assert not getattr(tree, name).any()


def test_add_node_counts_visits_upwards(tree):
    assert tree.size == 7
    assert tree.parents.tolist() == [*PARENTS, NO_PARENT]
    assert tree.visits.tolist() == [7, 1, 2, 3, 1, 1, 1, 0]
    assert tree.children.tolist() == [3, 0, 1, 2, 0, 0, 0, 0]
    assert lengths(tree).tolist() == [*map(len, PATHS), 0]
    assert tree.edits[4].tolist() == [3, 4, 5, 6]
    for node, path in enumerate(PATHS):
        assert tree.paths[node].tolist() == pad_path(path, POSITIONS).tolist()
        assert tree.hashes[node] == path_hash(tree.paths[node])


def test_back_up_adds_rewards_to_all_ancestors(tree):
    nodes = jnp.array([4, -1, 6, 1, -1], jnp.int32)
    rewards = jnp.array([1, 100, 0.5, -0.25, 100], jnp.float32)
    after = jax.jit(back_up)(tree, nodes, rewards)
    assert after.value.tolist() == [1.25, -0.25, 0.5, 1, 1, 0, 0.5, 0]
    assert after.visits.tolist() == tree.visits.tolist()


def test_close_buries_branches_without_new_paths(tree):
    step = jax.jit(close)
    for node, dead in [
        (3, []),
        (4, [4]),
        (5, [4, 5, 3]),
        (0, []),
        (1, [1]),
        (2, []),
        (6, [6, 2, 0]),
    ]:
        before = set(np.flatnonzero(tree.dead).tolist())
        tree = step(tree, node)
        assert tree.closed[node]
        assert set(np.flatnonzero(tree.dead).tolist()) == before | set(dead)


def test_live_children_are_below_and_not_dead(tree):
    def children(tree, node):
        return np.flatnonzero(live_children(tree, jnp.int32(node))).tolist()

    assert children(tree, ROOT) == [1, 2, 3]
    assert children(tree, 3) == [4, 5]
    assert children(close(tree, jnp.int32(1)), ROOT) == [2, 3]
    assert children(tree, NO_PARENT) == [ROOT]  # unused slots have no parent either


<<<<<<< HEAD
def test_a_wave_spreads_by_virtual_visits():
    tree = jax.tree.map(lambda x: x[None], a_tree(6, 30))
    budget = jnp.array([30], jnp.int32)
    tree, nodes = select_wave(tree, budget, preset=COLA, num_layers=6, leaves=20)
    assert nodes.tolist() == [list(range(1, 21))]
    assert tree.visits[0, ROOT] == 21
    assert len(set(tree.parents[0, 1:21].tolist())) > 3
    assert (tree.value == 0).all()


def test_a_budget_ends_a_tree():
    trees = jax.vmap(lambda key: a_tree(6, 9).replace(key=key))(jax.random.split(jax.random.key(0)))
    budgets = jnp.array([4, 9], jnp.int32)
    trees, nodes = select_wave(trees, budgets, preset=COLA, num_layers=6, leaves=6)
    assert nodes.tolist() == [[1, 2, 3, -1, -1, -1], [1, 2, 3, 4, 5, 6]]
    trees, nodes = select_wave(trees, budgets, preset=COLA, num_layers=6, leaves=6)
    assert nodes.tolist() == [[-1] * 6, [7, 8, -1, -1, -1, -1]]


def test_a_tree_without_new_paths_ends_by_itself(fake):
    fake()
    rules = Preset(max_skip=1, max_repeat=0, min_length=0.0)
    (outcome,) = run(2, simulations=50, leaves=4, preset=rules)
    assert set(outcome.paths) == {(0, 1), (0,), (1,)}
    outcomes = run(4, 2, simulations=50, leaves=4, preset=rules)
    for outcome in outcomes:  # every subset but the empty one
        assert len(set(outcome.paths)) == outcome.evaluations == 15


@pytest.mark.parametrize("leaves", [1, 7, 64])
def test_the_budget_is_met_exactly(fake, leaves):
    fake()
    (outcome,) = run(6, simulations=20, leaves=leaves)
    assert outcome.evaluations == 21
    assert np.bincount(outcome.wave)[1:].max() <= leaves


def test_kinds_turned_off_are_not_used(fake):
    fake()
    off = {"max_skip": 0, "max_repeat": 0, "max_move": 0}
    for kind, field in enumerate(off):
        rules = dataclasses.replace(COLA, **off | {field: 2})
        (outcome,) = run(6, simulations=15, leaves=5, preset=rules)
        assert set(outcome.edits[1:, 0].tolist()) == {kind}
        grows = {len(path) - 6 for path in outcome.paths[1:]}
        assert {0: max(grows) < 0, 1: min(grows) > 0, 2: grows == {0}}[kind]


def test_kinds_are_drawn_evenly(fake):
    fake()
    outcomes = run(12, 4, simulations=100, leaves=16)
    kinds = np.concatenate([outcome.edits[1:, 0] for outcome in outcomes])
    assert 0.4 < kinds.mean() < 0.6  # skips are 0, repeats 1


def test_early_stop_ends_at_the_first_improvement(fake):
    fake(lambda path: 1 if len(path) < 6 else 0)
    (outcome,) = run(6, simulations=20, leaves=1, early_stop=True)
    assert not outcome.baseline
    assert outcome.verdicts.verdict.any()
    assert not outcome.verdicts.verdict[outcome.wave < outcome.wave.max()].any()
    assert outcome.evaluations < 21
    fake(lambda path: 1)  # right at once: fewer layers are an improvement, more are none
    (outcome,) = run(6, simulations=20, leaves=1, early_stop=True)
    shorter = outcome.lengths < 6
    assert shorter.any()
    assert not shorter[outcome.wave < outcome.wave.max()].any()
    (outcome,) = run(6, simulations=20, leaves=1)
    assert outcome.evaluations == 21


class FailingGrader(Judge):
    """Finds every path right, and of the first wave says `grade`."""

    def __init__(self, grade):
        self.grades = [grade]

    def row_verdicts(self, paths, on_progress):
        done = Future()
        done.set_result(None)
        yield done
        grade = self.grades.pop() if self.grades else Grade.RIGHT
        out = Verdicts.none(paths.shape[:2])
        out.verdict[:] = grade is Grade.RIGHT
        out.said.fill(Said("7", "7", "stop", False, grade, (1,), -1.0))
        return out

    def confirm(self, paths, verdicts):
        done = Future()
        done.set_result(None)
        yield done
        return [None] * len(paths)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("grade", "evaluations", "fixed", "baseline"),
    [(Grade.WRONG, 2, 1, False), (Grade.UNGRADED, 21, 0, None)],
)
def test_a_baseline_that_is_not_graded_is_not_improved(grade, evaluations, fixed, baseline):
    settings = check_settings(questions(1), "cola", 20, 1, early_stop=True)
    gained = []
    grove = Grove(questions(1), 6, settings)
    flight, value = grove.grow(FailingGrader(grade), lambda *more: gained.append(more)), None
    while True:
        try:
            value = flight.send(value).result()
        except StopIteration as end:
            (outcome,) = end.value
            break
    assert (outcome.evaluations, outcome.baseline) == (evaluations, baseline)
    assert np.sum(gained, axis=0)[1] == fixed


def test_length_penalty_comes_off_the_reward(fake):
    fake()
    seen = []
    back_up = mcts.back_up_wave

    def spy(trees, nodes, rewards):
        lengths = np.asarray((trees.paths[0] != STOP).sum(-1))
        for node, reward in zip(nodes[0].tolist(), rewards[0].tolist(), strict=True):
            if node != mcts.NOTHING:
                seen.append((lengths[node], reward))
        return back_up(trees, nodes, rewards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["cola_jax.search.grove"], "back_up_wave", spy)
        rules = dataclasses.replace(COLA, length_penalty=0.25)
        (outcome,) = run(6, simulations=20, leaves=7, preset=rules)
    expected = [
        (length, np.float32(verdict - 0.25 * length / 6))
        for length, verdict in zip(outcome.lengths, outcome.verdicts.verdict, strict=True)
    ]
    assert seen == expected
    (without,) = run(6, simulations=20, leaves=7)
    assert without.paths != outcome.paths


def test_progress_counts(fake):
    fake(lambda path: 1 if len(path) < 6 else 0)
    seen = []
    outcomes = run(
        6, 2, simulations=10, leaves=5, preset=SMALL, on_progress=lambda *now: seen.append(now)
    )
    assert [now[0] for now in seen] == sorted(now[0] for now in seen)
    assert seen[-1] == (22, sum(o.verdicts.verdict.any() for o in outcomes), 0)


GOLDEN = (
    "012345 05 012222345 12345 0123434345 01345 0505 01234 1345 045 012012012345 01 01222222345 "
    "0111112345 0123435 01111112345 0120120145 2345 2323232345 123 012343434345 "
)


def test_a_golden_search_is_replayed(fake):
    """The whole of one search, so that no change of the rules goes unnoticed."""
    fake()
    (outcome,) = run(6, simulations=20, leaves=7, seed=7)
    found = ["".join(map(str, path)) for path in outcome.paths]
    assert found == GOLDEN.split()
=======
def test_path_hash_tells_paths_apart():
    paths = [p for n in range(1, 7) for p in itertools.product(range(4), repeat=n)]
    padded = np.stack([pad_path(path, POSITIONS) for path in paths])
    hashes = np.asarray(path_hash(jnp.asarray(padded)))
    assert hashes.dtype == np.uint32
    assert len(set(hashes.tolist())) == len(paths) == 5460
    assert hashes[17] == path_hash(jnp.asarray(padded[17]))
>>>>>>> h-t-scoring

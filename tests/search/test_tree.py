"""The trees of a search with a made-up model: what they hold, how they choose, when they end."""

import dataclasses
import sys
import zlib
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cola_jax.execute.batch import Batch
from cola_jax.execute.engine import Engine
from cola_jax.scoring.judge import Judge
from cola_jax.search.grove import Grove
from cola_jax.search.search import check_settings

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

COLA = PRESETS["cola"]
SMALL = Preset(max_skip=2, max_repeat=0)  # compiles faster
OPTIONS = ("a", "b", "c", "d")


def fake_model(num_layers):
    """A model without weights: only its number of layers is read, and sizes for the budget."""
    config = object.__new__(ModelConfig)
    for name, size in (("num_layers", num_layers), ("width", 1), ("vocab_size", 1)):
        object.__setattr__(config, name, size)
    return Model(embedding=None, layers=None, norm=None, head=None, config=config)


def questions(count):
    made = []
    for i in range(count):
        prompts, option = pack([1, 2], [[10], [11], [12], [13]])
        made.append(Encoded(Question(f"q{i}", "?", OPTIONS, 1), "letter", prompts, option, "hash"))
    return made


def checksum(path):
    """A number that depends on nothing but the path."""
    return zlib.crc32(",".join(map(str, path)).encode())


def fake_answer(path):
    return checksum(path) % 4


class FakeEngine(Engine):
    """Stands for the engine: answers without a model, at once."""

    def __init__(self, model, answer, ran):
        self.config, self.answer, self.ran = model.config, answer, ran
        self.lanes = [object.__new__(Lane)]
        self.memory = Memory(10**6, sharing=1, itemsize=4, backend="cpu")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def batch(self, prompts, paths, lane):
        return FakeBatch(self.answer, self.ran)


class FakeBatch(Batch):
    def __init__(self, answer, ran):
        self.answer, self.ran = answer, ran

    def submit(self, paths, ran=None):
        ran = self.ran if ran is None else ran
        shape = (*paths.shape[:2], 4)
        logprob = np.full(shape, -5.0, np.float32)
        for b, c in np.argwhere(paths[..., 0] != STOP):
            path = tuple(i for i in paths[b, c].tolist() if i != STOP)
            logprob[b, c, self.answer(path)] = -1 - checksum(path) % 97 / 100
            ran.append((b, path))
        token = np.zeros(shape, np.int32)
        done = Future()
        done.set_result(int((paths[..., 0] != STOP).sum()))
        return Readings(logprob, token, logprob, np.ones(shape[:2], bool)), [done]

    def submit_reference(self, paths, dtype):
        return self.submit(paths, ran=[])

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    """Replaces the model: the answer to a path is `answer(path)`, gold is 1; counts evaluations."""
    ran = []
    module = sys.modules["cola_jax.search.search"]

    def set_up(answer=fake_answer):
        monkeypatch.setattr(module, "Engine", lambda model, **_: FakeEngine(model, answer, ran))
        # all questions in one group, so that `ran` says which one by its place
        monkeypatch.setattr(module, "IN_FLIGHT", 1)
        return ran

    return set_up


def run(num_layers, count=1, **arguments):
    return search(fake_model(num_layers), questions(count), **arguments)


def depths(parents):
    found = [0]
    for parent in parents[1:]:
        found.append(found[parent] + 1)
    return np.array(found)


def test_a_search_evaluates_legal_paths_each_once(fake):
    ran = fake()
    rules = dataclasses.replace(COLA, min_length=0.5, max_length=1.5, max_move=2)
    outcomes = run(8, 3, simulations=60, leaves=8, preset=rules)
    for b, outcome in enumerate(outcomes):
        assert outcome.paths[0] == identity(8)
        assert outcome.evaluations == 61
        assert len(set(outcome.paths)) == 61
        assert [path for i, path in ran if i == b] == outcome.paths
        assert all(4 <= len(path) <= 12 and set(path) <= set(range(8)) for path in outcome.paths)
        assert (outcome.parent[1:] < np.arange(1, 61)).all()
        assert (outcome.wave[1:] > outcome.wave[outcome.parent[1:]]).mean() > 0.5
        assert {KINDS[kind] for kind in outcome.edits[1:, 0]} == set(KINDS)
        np.testing.assert_array_equal(outcome.verdicts.answer, [*map(fake_answer, outcome.paths)])


def test_an_edit_turns_the_parents_path_into_the_nodes(fake):
    fake()
    (outcome,) = run(6, simulations=20, leaves=7)
    apply = jax.jit(apply_edit)
    for node in range(1, 21):
        edit = Edit(*outcome.edits[node])
        made = apply(jnp.asarray(pad_path(outcome.paths[outcome.parent[node]], 12)), edit)
        assert tuple(i for i in made.tolist() if i != STOP) == outcome.paths[node]


def test_a_hundred_simulations_go_wide_and_deep(fake):
    fake()
    for outcome in run(12, 4, simulations=100, leaves=16):
        depth = depths(outcome.parent)
        children = np.bincount(outcome.parent[1:], minlength=101)
        assert depth.max() > 1
        assert (children > 1).sum() > 1
        assert children[ROOT] < 60  # no mere list of edits of the identity


@pytest.fixture
def grown():
    """A tree of 41 nodes after waves of 5, rewards of 1 for every third node; and the rewards."""
    trees = jax.tree.map(lambda x: x[None], a_tree(6, 41))
    budgets = jnp.array([41], jnp.int32)
    earned = np.zeros(41, np.float32)
    for _ in range(8):
        trees, nodes = select_wave(trees, budgets, preset=COLA, num_layers=6, leaves=5)
        rewards = (np.asarray(nodes) % 3 == 0).astype(np.float32)
        earned[nodes[0]] = rewards[0]
        trees = back_up_wave(trees, nodes, jnp.asarray(rewards))
    return jax.tree.map(lambda x: x[0], trees), earned


def a_tree(num_layers, nodes, seed=0):
    root = jnp.asarray(pad_path(identity(num_layers), 2 * num_layers))
    return new_tree(root, nodes, jax.random.key(seed))


def test_counts_add_up(grown):
    tree, earned = grown
    assert tree.size == tree.visits[ROOT] == 41
    assert tree.value[ROOT] == earned.sum() > 0
    parents = np.asarray(tree.parents)
    for node in range(41):
        children = np.flatnonzero(parents == node)
        assert tree.children[node] == len(children)
        assert tree.visits[node] == 1 + np.asarray(tree.visits)[children].sum()
        assert tree.value[node] == earned[node] + np.asarray(tree.value)[children].sum()
        assert tree.hashes[node] == path_hash(tree.paths[node])


def test_children_widen_with_the_root_of_the_visits(grown):
    tree, _ = grown
    children, visits = np.asarray(tree.children), np.asarray(tree.visits)
    limit = np.ceil(COLA.widening * np.sqrt(visits))
    assert (children <= limit).all()
    assert (children == limit).any()


def test_ucb_is_the_papers_formula():
    tree = a_tree(4, 5)
    visits, value = np.array([9, 4, 3, 1, 1]), np.array([4.0, 3, 1, 0, 1])
    for node, path in enumerate([(0, 2, 3), (0, 1, 1, 2, 3), (0,), (0, 3)], start=1):
        tree = tree.replace(paths=tree.paths.at[node].set(pad_path(path, 8)), size=node + 1)
    tree = tree.replace(visits=jnp.array(visits), value=jnp.array(value, jnp.float32))
    rules = Preset(exploration=1.8, length_weight=3.0)
    expected = value / visits + 1.8 * np.sqrt(np.log(9) / visits)
    expected -= 3.0 * np.array([4, 3, 5, 1, 2]) / 4
    np.testing.assert_allclose(ucb(tree, rules, 4), expected, rtol=1e-6)


def test_the_best_child_is_followed():
    """Of two children of a full root, that with the higher value is expanded."""
    for better in (1, 2):
        trees = jax.tree.map(lambda x: x[None], a_tree(6, 4))
        rules = Preset(exploration=0.5, length_weight=0.0, widening=1.0)
        for wave in range(3):
            trees, nodes = select_wave(
                trees, jnp.array([4], jnp.int32), preset=rules, num_layers=6, leaves=1
            )
            if wave < 2:  # the root has its second child at 2 visits, its third at 5
                assert trees.parents[0, nodes[0, 0]] == ROOT
            reward = jnp.float32([[nodes[0, 0] == better]])
            trees = back_up_wave(trees, nodes, reward)
        assert trees.parents[0, 3] == better


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

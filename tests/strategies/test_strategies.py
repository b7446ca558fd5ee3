"""`TreeSearch`: what it proposes and what it makes of verdicts, on the trees of a batch."""

import dataclasses

import jax
import numpy as np
import pytest

from cola_jax.path import STOP, identity
from cola_jax.strategies.outcome import Proposals
from cola_jax.strategies.presets import Settings, TreeRules
from cola_jax.strategies.strategies import TreeSearch, question_key
from tests.strategies.formula import formula

SKIPS = TreeRules(max_skip=2, max_repeat=0)  # compiles faster
SETTINGS = Settings(SKIPS, simulations=20, leaves=7, seed=0, early_stop=False)
ALL = np.ones(3, bool)


def new_search(count=3, **settings):
    ids = [f"q{i}" for i in range(count)]
    settings = dataclasses.replace(SETTINGS, **settings)
    return TreeSearch(settings.preset, ids, 6, settings)


def run(strategy, evaluate, active=ALL):
    """Runs a search to its end; returns all that was proposed."""
    root = np.full((strategy.count, 1, 12), STOP, np.int32)
    root[:, :, :6] = identity(6)
    proposals, waves = Proposals.root(root[0, 0], strategy.count), []
    while proposals is not None:
        waves.append(proposals)
        strategy.update(proposals, evaluate(proposals.paths))
        proposals = strategy.propose(active)
    return waves


def test_propose_numbers_evaluations_in_order():
    waves = run(new_search(), formula())
    for b in range(3):
        nodes = np.concatenate([wave.node[b] for wave in waves])
        assert nodes[nodes >= 0].tolist() == list(range(21))
    for wave in waves[1:]:
        present = wave.node >= 0
        assert wave.paths.shape == (3, 7, 12)
        np.testing.assert_array_equal(wave.paths[..., 0] != STOP, present)
        assert (wave.parent[present] < wave.node[present]).all()
        assert (wave.parent[present] >= 0).all()


def test_propose_leaves_out_inactive_questions():
    strategy = new_search()
    active = np.array([True, False, True])
    waves = run(strategy, formula(), active)
    for wave in waves[1:]:
        assert (wave.node[1] == -1).all()
        assert (wave.paths[1] == STOP).all()
    assert strategy.trees.size[:3].tolist() == [21, 1, 21]
    assert strategy.propose(~ALL) is None


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_update_backs_up_reward_less_length_penalty(penalty):
    strategy = new_search(preset=dataclasses.replace(SKIPS, length_penalty=penalty))
    evaluate = formula(lambda b, path: len(path) % 2)
    run(strategy, evaluate)
    trees = jax.tree.map(np.asarray, strategy.trees.replace(key=0))
    for b in range(3):
        lengths = (trees.paths[b] != STOP).sum(axis=-1)
        rewards = lengths % 2 - penalty * lengths / 6
        rewards[0] = trees.value[b, 0] - rewards[1:].sum()  # the root's own
        assert rewards[0] == pytest.approx(0 - penalty, abs=1e-5)
        for node in range(1, 21):
            below = {node}
            for other in range(node + 1, 21):
                if trees.parents[b, other] in below:
                    below.add(other)
            assert trees.value[b, node] == pytest.approx(rewards[list(below)].sum(), abs=1e-5)


def test_length_penalty_changes_the_search():
    paths = [
        np.concatenate([wave.paths[0] for wave in run(new_search(preset=preset), formula())])
        for preset in (SKIPS, dataclasses.replace(SKIPS, length_penalty=2.0))
    ]
    assert paths[0].tolist() != paths[1].tolist()


def test_trees_are_padded_to_few_sizes():
    assert len(new_search(3).trees.size) == len(new_search(8).trees.size) == 8
    assert len(new_search(9).trees.size) == 16


def test_question_key_depends_on_seed_and_id_alone():
    """Pinned, since other keys would change every search."""
    keys = {
        (seed, id): jax.random.key_data(question_key(seed, id)).tolist()
        for seed, id in [(0, "q0"), (0, "q1"), (1, "q0"), (0, "")]
    }
    assert keys == PINNED


PINNED = {
    (0, "q0"): [832519600, 65973564],
    (0, "q1"): [441185938, 2969298792],
    (1, "q0"): [2825248393, 2297609652],
    (0, ""): [2321684811, 542991194],
}

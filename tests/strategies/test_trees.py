"""Trees of a batch: their slots, and that those of whole layers are as before there were others."""

import dataclasses
import hashlib
import json
import zlib

import jax
import numpy as np
import pytest

from cola_jax.scoring import Verdicts
from cola_jax.strategies import trees
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.strategies.trees import Trees

MOVES = dataclasses.replace(PRESETS["best"], max_move=2, max_move_block=3, length_penalty=0.5)
# of trees that were grown before paths could have parts and shares
DIGESTS = {
    "best": "c24e54e590c84b34",
    "cola-appendix": "c699ae1b85ec5ea2",
    "polar": "6e67a809e3914224",
    "drllm": "95ce670223fa7fa6",
    "moves": "988ef07ac189e7c2",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_trees_of_whole_layers_grow_as_before(name):
    rules = MOVES if name == "moves" else PRESETS[name]
    settings = Settings(rules, simulations=60, leaves=8, seed=3)
    roots = [Verdicts.of_margins(np.array([-1.0]))] * 3
    grown = Trees(settings, 7, ["a", "b", "c"], roots)
    while any(waves := grown.propose([True] * 3)):
        grown.take([Verdicts.of_margins(margins(wave)) for wave in waves])
    assert digest_of(grown) == DIGESTS[name]


def margins(leaves) -> np.ndarray:
    """Draw the margin of each path by its layers."""
    drawn = [zlib.crc32(bytes(leaf.path)) / 2**31 - 1.5 for leaf in leaves]
    return np.round(np.array(drawn, np.float32), 2)


def digest_of(grown: Trees) -> str:
    """Return the digest of what trees record of each node."""
    tree = jax.device_get(grown.trees)
    rows = []
    for s, paths in enumerate(grown.paths):
        for node, path in enumerate(paths):
            edit = tree.edit[s, node, :4].tolist()
            columns = (tree.parent, tree.visits, tree.value, tree.cost, tree.penalty)
            rows.append([path, edit, *(column[s, node].item() for column in columns)])
            rows.append(tree.hashes[s, node].tolist())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def test_a_wave_may_need_several_times_the_slots(monkeypatch):
    settings = Settings(PRESETS["cola"], simulations=200, leaves=200, seed=0)
    root = Verdicts.of_margins(np.array([-1.0]))
    waves = []
    for slots in (trees.FIRST_NODES, 64):
        monkeypatch.setattr(trees, "FIRST_NODES", slots)
        (wave,) = Trees(settings, 12, ["q"], [root]).propose([True])
        waves.append(wave)
    assert len({leaf.path for leaf in waves[0]}) == 200
    assert waves[0] == waves[1]

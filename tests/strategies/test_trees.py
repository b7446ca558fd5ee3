"""Trees of a batch: their slots."""

import numpy as np

from cola_jax.scoring import Verdicts
from cola_jax.strategies import trees
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.strategies.trees import Trees


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

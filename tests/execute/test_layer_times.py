"""The times of layers: each is that of its own tiles, however the batch is cut."""

import numpy as np
import pytest

from cola_jax.execute import layer_times
from cola_jax.execute.worker import Worker
from cola_jax.steps import ATTENTION, MLP, WHOLE
from tests import oracle
from tests.execute import batches

ROUNDS = 2
SECONDS = {WHOLE: 4, ATTENTION: 1, MLP: 2}  # of a tile of layer 0; one of layer i takes i + 1 times


@pytest.fixture
def clock(monkeypatch):
    """A clock that only tiles move, as `SECONDS` says; returns the layers of all tiles run."""
    seconds, tiles, run = [0.0], [], Worker.run

    def timed(self, launches, states, *arguments):
        for calls in launches.calls:
            for call in calls:
                tiles.extend(call.layers)
                seconds[0] += SECONDS[call.form.part] * (sum(call.layers) + len(call.layers))
        return run(self, launches, states, *arguments)

    monkeypatch.setattr(Worker, "run", timed)
    monkeypatch.setattr(layer_times.time, "perf_counter", lambda: seconds[0])
    return tiles


@pytest.mark.parametrize(
    ("name", "prompts", "options"),
    [
        ("qwen3.5", batches.plain(12, 9), {}),  # two kinds of layers
        ("qwen2-window", batches.alike(40), {"tile_tokens": 48}),  # after a prefix
        ("qwen2-window", batches.plain(12, 9, 5), {"memory_budget": 60_000, "tile_tokens": 8}),
    ],
    ids=["kinds", "prefix", "plain"],
)
def test_time_layers_counts_the_tiles_of_each_layer_and_part(pair, name, prompts, options, clock):
    times = layer_times.time_layers(pair(name).ours, prompts, ROUNDS, **options)
    assert times.layers.shape == (ROUNDS, oracle.LAYERS)
    tiles = times.layers / np.arange(1, oracle.LAYERS + 1) / SECONDS[WHOLE]
    assert (tiles == tiles[0, 0]).all()  # all layers run as many
    assert tiles[0, 0] >= 1
    for i, part in enumerate((ATTENTION, MLP)):
        of_part = times.parts[:, :, i] / SECONDS[part]
        np.testing.assert_array_equal(of_part, times.layers / SECONDS[WHOLE])
    np.testing.assert_array_equal(times.path, times.layers.sum(axis=1))
    assert len(clock) >= 4 * (1 + ROUNDS) * tiles[0].sum()

"""The times of layers: each is that of its own tiles, however the batch is cut."""

import numpy as np
import pytest

from cola_jax.execute import layer_times
from cola_jax.execute.worker import Worker
from tests import oracle
from tests.execute import batches

ROUNDS = 2


@pytest.fixture
def clock(monkeypatch):
    """A clock that only tiles move, those of layer i by i + 1 seconds; returns all tiles run."""
    seconds, tiles, run = [0.0], [], Worker.run

    def timed(self, launches, states, *arguments):
        for calls in launches.calls:
            for layers, _, _ in calls:
                tiles.extend(layers)
                seconds[0] += sum(layers) + len(layers)
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
def test_time_layers_counts_the_tiles_of_each_layer(pair, name, prompts, options, clock):
    times = layer_times.time_layers(pair(name).ours, prompts, ROUNDS, **options)
    assert times.layers.shape == (ROUNDS, oracle.LAYERS)
    tiles = times.layers / np.arange(1, oracle.LAYERS + 1)
    assert (tiles == tiles[0, 0]).all()  # all layers run as many
    assert tiles[0, 0] >= 1
    np.testing.assert_array_equal(times.path, times.layers.sum(axis=1))
    assert len(clock) >= 2 * (1 + ROUNDS) * tiles[0].sum()

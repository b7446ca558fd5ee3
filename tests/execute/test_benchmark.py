"""The benchmark on a tiny model: its results are consistent, whatever the times."""

import numpy as np

from cola_jax.execute import benchmark as module
from cola_jax.execute.benchmark import Wave, benchmark, llama, random_model, random_prompts
from cola_jax.execute.reference import run_reference
from cola_jax.execute.worker import Workers

TINY = llama(6, 32, 4, 2, 48, 97)


def test_benchmark_results_are_consistent(monkeypatch):
    monkeypatch.setattr(module, "MATMUL_SIZE", 64)
    model = random_model(TINY, "float32")
    results = benchmark(model, tokens=16, paths=6, reads=4, rounds=2)
    ratios = results["over_run_paths"]
    assert list(ratios) == ["run_path, path by path"]
    for ratio in ratios.values():
        assert 0 < ratio["least"] <= ratio["ratio"] <= ratio["most"]
    assert results["paths"] == 6
    assert results["prefix_sharing"] > 1
    assert 0 <= results["padding_share"] < 1
    assert results["useful_over_matmul"] > results["unique_over_matmul"] > 0
    assert results["metrics"]["evaluations"] == 6 * 4  # twice to warm up, and in two rounds
    assert results["metrics"]["prefix_sharing"] == round(results["prefix_sharing"], 3)


def test_wave_starts_afresh_and_matches_reference():
    model = random_model(TINY, "float32")
    prompts, paths = random_prompts(TINY, 2, 16, 4), [[(0, 2, 5), (0, 1, 1, 2)], [(3,), (5, 4)]]
    workers = Workers(model)
    wave = Wave(workers.workers[0], prompts, paths)
    wave.run()
    first = workers.metrics.cost.unique
    again = wave.run()
    assert workers.metrics.cost.hits == 0
    assert workers.metrics.cost.unique == 2 * first
    reference = run_reference(model, prompts, wave.paths)
    np.testing.assert_allclose(again.logprob, reference.logprob, rtol=1e-5)

"""The benchmark on a tiny model: what it reports is consistent, whatever the times."""

import jax
import numpy as np
import pytest

from cola_jax.execute import benchmark as module
from cola_jax.execute.benchmark import (
    SHAPES,
    Program,
    Timing,
    Wave,
    benchmark,
    layer_flops,
    llama,
    random_model,
    random_prompts,
)
from cola_jax.execute.reference import run_reference
from cola_jax.execute.worker import Workers
from cola_jax.params import shapes

TINY = llama(6, 32, 4, 2, 48, 97)


@pytest.fixture(scope="module")
def model():
    return random_model(TINY, "float32")


def nothing(prompts, paths):
    """Makes a baseline that runs nothing, named after what it is given."""
    return [Program(f"nothing on {prompts.ids.shape} and {len(paths)} paths", lambda: None)]


@pytest.fixture(scope="module")
def results(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MATMUL_SIZE", 64)
        return benchmark(model, tokens=16, paths=6, reads=4, rounds=2, baselines=nothing)


def test_benchmark_compares_every_baseline(results):
    assert list(results["over_run_paths"]) == [
        "run_path, path by path",
        "nothing on (1, 16) and 6 paths",
    ]
    for ratio in results["over_run_paths"].values():
        assert 0 < ratio["least"] <= ratio["ratio"] <= ratio["most"]


def test_benchmark_counts_are_consistent(results):
    assert results["paths"] == 6
    assert results["prefix_sharing"] > 1
    assert 0 <= results["padding_share"] < 1
    assert results["useful_over_matmul"] > results["unique_over_matmul"] > 0
    assert results["metrics"]["evaluations"] == 6 * 3  # once to warm up, and in two rounds
    assert results["metrics"]["prefix_sharing"] == round(results["prefix_sharing"], 3)


def test_wave_starts_afresh_and_matches_reference(model):
    prompts, paths = random_prompts(TINY, 2, 16, 4), [[(0, 2, 5), (0, 1, 1, 2)], [(3,), (5, 4)]]
    workers = Workers(model)
    wave = Wave(workers.workers[0], prompts, paths)
    wave.run()
    again = wave.run()
    assert workers.metrics.cost.hits == 0
    assert workers.metrics.cost.unique == 2 * wave.cost.unique
    reference = run_reference(model, prompts, wave.paths)
    np.testing.assert_allclose(again.logprob, reference.logprob, rtol=1e-5)


def test_timing_over_compares_within_rounds():
    slow, fast = Timing("slow", [2.0, 9.0, 4.0]), Timing("fast", [1.0, 3.0, 2.0])
    assert slow.over(fast) == {"ratio": 2.0, "least": 2.0, "most": 3.0}


@pytest.mark.parametrize("name", SHAPES)
def test_layer_flops_counts_two_per_weight_and_token(name):
    config = SHAPES[name]
    weights = sum(
        int(np.prod(shape[1:]))
        for field, shape in shapes(config).items()
        if len(shape) > 2 and shape[0] == config.num_layers
    )
    assert layer_flops(config, 1) == 2 * weights + 4 * config.num_heads * config.head_dim


def test_random_model_has_finite_weights_of_its_dtype():
    model = random_model(TINY, "bfloat16")
    floats = [leaf for leaf in jax.tree.leaves(model) if leaf.dtype != np.int32]
    assert {str(leaf.dtype) for leaf in floats} == {"bfloat16"}
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in floats)

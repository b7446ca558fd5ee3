"""The benchmark with transformers as a baseline, and its growth tables, on a tiny model."""

import json

import pytest

from cola_jax.commands.benchmark import Benchmark, ratio_table
from cola_jax.execute import benchmark, random_model
from experiments.benchmark import FullBenchmark, component_table, growth_table

TINY = random_model.llama(6, 32, 4, 2, 48, 97)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmark") / "results.json"
    command = Benchmark(model="tiny", out=file, tokens=16, paths=4, reads=4, rounds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_model.SHAPES, "tiny", TINY)
        patch.setattr(benchmark, "MATMUL_SIZE", 64)
        FullBenchmark(command, torch=True, growth=1e-9).run()
    return json.loads(file.read_text())


@pytest.mark.slow
def test_benchmark_compares_every_baseline(results):
    assert list(results["over_run_paths"]) == [
        "run_path, path by path",
        "vmap of run_path",
        "transformers, one forward pass per path",
        *(f"transformers, generate {n} tokens per path" for n in (2, 10, 50)),
    ]
    for ratio in results["over_run_paths"].values():
        assert 0 < ratio["least"] <= ratio["ratio"] <= ratio["most"]
    assert ratio_table(results).row_count == 6 + 6
    assert component_table(results).row_count == 1 + len(results["layer"]["layer_over"]) + 3


@pytest.mark.slow
def test_grow_measures_every_quantity(results):
    growing = {point["grows"] for point in results["growth"]}
    assert growing == {"paths", "questions", "tokens", "depth"}
    assert growth_table(results["growth"]).row_count == len(results["growth"])

"""The benchmark on a tiny model: what it reports adds up, whatever the times."""

import json

import jax
import numpy as np
import pytest

from cola_jax.benchmark.benchmark import benchmark
from cola_jax.benchmark.shapes import SHAPES, layer_flops, llama, random_model
from cola_jax.benchmark.table import growth_table, ratio_table
from cola_jax.benchmark.timing import Timing
from cola_jax.cli import main
from cola_jax.params import shapes

TINY = llama(6, 32, 4, 2, 48, 97)


@pytest.fixture(scope="module")
def found():
    model = random_model(TINY, "float32")
    return benchmark(model, tokens=16, paths=6, reads=4, rounds=2, growth=0.001)


def test_every_rival_is_compared(found):
    assert list(found["over_engine"]) == [
        "run_path one by one",
        "vmap of run_path",
        "transformers, a forward pass a path",
        *(f"transformers, generate {n} tokens a path" for n in (2, 10, 50)),
    ]
    for ratio in found["over_engine"].values():
        assert 0 < ratio["least"] <= ratio["ratio"] <= ratio["most"]


def test_counts_add_up(found):
    assert found["paths"] == 6
    assert found["sharing"] > 1
    assert 0 <= found["padding_share"] < 1
    assert found["useful_over_matmul"] > found["unique_over_matmul"] > 0
    assert found["engine"]["evaluations"] == 6 * 3  # once to warm up, and in two rounds
    assert {point["grows"] for point in found["growth"]} == {
        "paths",
        "questions",
        "tokens",
        "depth",
    }


def test_tables_and_json(found):
    assert ratio_table(json.loads(json.dumps(found))).row_count == 9 + 6 + 3
    assert growth_table(found["growth"]).row_count == len(found["growth"])


def test_ratios_are_those_of_the_same_round():
    slow, fast = Timing("slow", [2.0, 9.0, 4.0]), Timing("fast", [1.0, 3.0, 2.0])
    assert slow.over(fast) == {"ratio": 2.0, "least": 2.0, "most": 3.0}


@pytest.mark.parametrize("name", SHAPES)
def test_named_shapes_count_their_operations(name):
    """The operations of a layer's products are twice its weights, for every token."""
    config = SHAPES[name]
    weights = sum(
        int(np.prod(shape[1:]))
        for field, shape in shapes(config).items()
        if len(shape) > 2 and shape[0] == config.num_layers
    )
    assert layer_flops(config, 1) == 2 * weights + 4 * config.num_heads * config.head_dim


def test_random_models_have_their_dtype_and_finite_weights():
    model = random_model(TINY, "bfloat16")
    floats = [leaf for leaf in jax.tree.leaves(model) if leaf.dtype != np.int32]
    assert {str(leaf.dtype) for leaf in floats} == {"bfloat16"}
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in floats)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt-5"], "neither a directory nor one of smollm2-135m"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--tensor", "3"], "does not divide"),
    ],
)
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", *arguments])
    assert message in " ".join(capsys.readouterr().err.split())

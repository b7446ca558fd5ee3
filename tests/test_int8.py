"""Weights of eight bits: their products, checkpoints, meshes, exports, and the blocks of GGUF."""

import dataclasses

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.deploy.export import export
from cola_jax.errors import InputError
from cola_jax.formats.conversion import convert
from cola_jax.kernels.tpu_prompt import TpuPromptAttention
from cola_jax.params import INPUTS, Int8, Layer, cast, quantize
from tests import oracle
from tests.execute import batches
from tests.execute.one_by_one import run_reference
from tests.formats.gguf_writer import FAMILIES, tiny, tiny_llama, write

NAMES = [field.name for field in dataclasses.fields(Layer)]


def map_weights(model, function):
    """Apply a function of name and weight to the weights of layers."""
    (stack,) = model.layers
    weights = {n: x for n in NAMES if (x := getattr(stack, n)) is not None}
    changed = stack.replace(**{n: function(n, x) for n, x in weights.items()})
    return model.replace(layers=(changed,))


def widened(model):
    """Turn a model's weights of eight bits into float32."""
    return map_weights(model, lambda name, weight: cast(name, weight, "float32"))


def in_blocks(name, weight):
    """Round a weight of layers in blocks of 4 inputs."""
    if name not in INPUTS:
        return weight
    axis, shape = weight.ndim + INPUTS[name][-1], weight.shape
    split = weight.reshape(*shape[:axis], -1, 4, *shape[axis + 1 :])
    rounded = quantize(split, (axis + 1,))
    return Int8(rounded.values.reshape(shape), rounded.scale.squeeze(axis + 1))


def by_channel(name, weight):
    """Round a weight of layers as a load in int8 does."""
    return cast(name, weight, "int8")


def assert_same(ours, theirs):
    """Compare models to the bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def converted(pair, tmp_path_factory):
    """A checkpoint of eight bits of the model `llama-gqa`."""
    folder = tmp_path_factory.mktemp("int8") / "made"
    convert(str(pair("llama-gqa").folder), folder, dtype="int8")
    return folder


def test_quantize_rounds_to_half_a_step():
    weight = np.random.default_rng(0).normal(size=(3, 8, 5)).astype(np.float32)
    weight[1, :, 2] = 0
    rounded = quantize(weight, (-2,))
    assert rounded.scale.shape == (3, 1, 5)
    assert abs(rounded.values).max() == 127
    assert (abs(rounded.widen("float32") - weight) <= 0.5001 * rounded.scale).all()
    assert not rounded.widen("float32")[1, :, 2].any()


@pytest.mark.parametrize(
    ("variant", "round_weight"),
    [
        ("gemma3-biases", by_channel),
        pytest.param("qwen2-moe", in_blocks, marks=pytest.mark.slow),
    ],
)
def test_executors_run_the_widened_weights(pair, variant, round_weight):
    model, ids = map_weights(pair(variant).ours, round_weight), oracle.random_ids(1)
    same, paths = widened(model), [(0, 1, 1, 2), (0, 3)]
    logits = cola_jax.run_path(same, ids, paths[0])
    assert oracle.relative_error(cola_jax.run_path(model, ids, paths[0]), logits) < 1e-5
    readings, batch = cola_jax.run_paths(model, ids, paths), {"input_ids": ids}
    expected = run_reference(same, cola_jax.Prompts.from_encoding(batch), paths)
    np.testing.assert_allclose(readings.logprob, expected.logprob, atol=1e-4)
    decoded = [cola_jax.generate(each, ids, paths, max_new_tokens=4) for each in (model, same)]
    np.testing.assert_array_equal(*(rows.tokens for rows in decoded))


def test_load_restores_eight_bits(pair, converted):
    metadata = checkpoint.read_metadata(converted)
    assert checkpoint.stored_dtype(metadata) == "int8"
    loaded = cola_jax.load(converted)
    assert loaded.layers[0].q.values.dtype == np.int8
    assert loaded.embedding.dtype == np.float32
    assert "float32 and int8" in repr(loaded)
    assert_same(loaded, cola_jax.load(pair("llama-gqa").checkpoint, dtype="int8"))
    assert_same(cola_jax.load(converted, dtype="float32"), widened(loaded))


def test_load_splits_scales_over_a_mesh(pair, converted):
    ids, path = oracle.random_ids(2), oracle.PATHS["repeat"]
    expected = cola_jax.run_path(cola_jax.load(converted), ids, path)
    for source in (converted, pair("llama-gqa").checkpoint):
        model = cola_jax.load(source, dtype="int8", mesh=batches.mesh(1, 2))
        scale = model.layers[0].q.scale
        assert scale.sharding.shard_shape(scale.shape)[2] == 2
        assert oracle.relative_error(cola_jax.run_path(model, ids, path), expected) < 1e-5
    readings = cola_jax.run_paths(model, ids, [path])
    alone = cola_jax.run_paths(cola_jax.load(converted), ids, [path])
    np.testing.assert_allclose(readings.logprob, alone.logprob, atol=1e-4)


def test_by_rows_views_scales_as_values(pair):
    for round_weight in (by_channel, in_blocks):
        model = map_weights(pair("llama-gqa").ours, round_weight)
        view = TpuPromptAttention().view_layers
        ours, exact = view(model.layers[0]), view(widened(model).layers[0])
        for name in "qkvo":
            values = getattr(ours, name).widen("float32")
            np.testing.assert_array_equal(values, getattr(exact, name))


def test_export_widens(converted, tmp_path):
    export(converted, tuple(range(oracle.LAYERS)), tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "again")
    again = cola_jax.load(tmp_path / "again")
    assert_same(again, cola_jax.load(converted, dtype="float32"))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_convert_keeps_the_blocks_of_gguf_files(tmp_path, kind):
    llama = tiny_llama(hidden_size=64, num_attention_heads=2, tie_word_embeddings=True)
    write(tmp_path / "tiny.gguf", llama, kind)
    convert(str(tmp_path / "tiny.gguf"), tmp_path / "floats")
    convert(str(tmp_path / "tiny.gguf"), tmp_path / "int8", dtype="int8")
    model = cola_jax.load(tmp_path / "int8")
    assert_same(widened(model), cola_jax.load(tmp_path / "floats"))
    assert_same(model, cola_jax.load(tmp_path / "tiny.gguf", dtype="int8"))
    config, (layers,) = model.config, model.layers
    assert layers.o.scale.shape == (config.num_layers, config.kinds[0].num_heads, 1, config.width)
    assert layers.down.scale.dtype == np.float16


def test_convert_keeps_the_blocks_of_experts(tmp_path):
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "num_hidden_layers": 1}
    made = tiny("qwen3moe", moe_intermediate_size=32, **sizes)
    keys = FAMILIES["qwen3moe"][2] | {"attention.key_length": 32, "expert_feed_forward_length": 32}
    write(tmp_path / "tiny.gguf", made, "Q8_0", keys=keys, architecture="qwen3moe")
    model = cola_jax.load(tmp_path / "tiny.gguf", dtype="int8")
    assert_same(widened(model), cola_jax.load(tmp_path / "tiny.gguf", dtype="float32"))
    assert model.layers[0].expert_down.scale.shape == (1, 4, 1, 64)
    assert model.layers[0].expert_up.scale.dtype == np.float16


def test_convert_rounds_blocks_that_heads_cut(tmp_path):
    # heads of 8; an MLP of three blocks, which two devices cannot share
    write(tmp_path / "tiny.gguf", tiny_llama(intermediate_size=96), "Q8_0")
    convert(str(tmp_path / "tiny.gguf"), tmp_path / "int8", dtype="int8")
    (layers,) = cola_jax.load(tmp_path / "int8").layers
    assert layers.o.scale.shape == (3, 1, 1, 32)
    assert layers.o.scale.dtype == np.float32
    assert layers.down.scale.shape == (3, 3, 32)
    with pytest.raises(InputError, match=r"weight down of shape \(3, 3, 32\) cannot be split"):
        cola_jax.load(tmp_path / "int8", mesh=batches.mesh(1, 2))

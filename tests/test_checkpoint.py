"""Saving and loading: dtypes, meshes, and the errors for damaged and other directories."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from transformers import AutoTokenizer

import cola_jax
from cola_jax import checkpoint
from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError
from cola_jax.params import FULL, layer_at, shapes, sharding
from tests import oracle
from tests.execute import batches


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_metadata(directory, **changes):
    file = directory / checkpoint.METADATA
    metadata = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in metadata.items() if v is not ...}))


def write_tokenizer(directory, settings):
    """Write the settings of a checkpoint's tokenizer, as if it had been converted so."""
    (directory / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    metadata = json.loads((directory / checkpoint.METADATA).read_text())
    metadata["tokenizer"] = checkpoint.file_digests(directory / "tokenizer")
    edit_metadata(directory, **metadata | {"digest": checkpoint.model_digest(metadata)})


def test_load_restores_what_save_wrote(tmp_path):
    ropes = Rope(theta=1e4, llama3=(8.0, 1.0, 4.0, 64)), Rope(theta=1e6, divisors=(1.0, 2.5))
    config = ModelConfig.from_fields(
        {
            **{"vocab_size": 11, "num_layers": 3, "width": 8, "num_heads": 2, "num_kv_heads": 1},
            **{"head_dim": 4, "mlp_width": 6, "context": 32, "norm_eps": 1e-6, "ropes": ropes},
            **{"layer_ropes": (0, 1, 0), "windows": (4, None, 7), "tied": False},
            **{"qkv_bias": True, "output_bias": True, "mlp_bias": True, "head_norms": True},
        }
    )
    generator = np.random.default_rng(0)
    saved = {k: generator.normal(size=s).astype(np.float32) for k, s in shapes(config).items()}
    metadata = checkpoint.save(tmp_path / "made", config, saved.items(), {"kind": "test"})
    written = (tmp_path / "made" / "cola.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(metadata))
    assert metadata["origin"] == {"kind": "test"}
    model = cola_jax.load(tmp_path / "made")
    assert model.config == config
    assert hash(model.config) == hash(config)
    for name, array in saved.items():
        loaded = getattr(model if hasattr(model, name) else model.layers[0], name)
        np.testing.assert_array_equal(loaded, array)
    layers = [layer_at(config, 0, model.layers[0], i) for i in range(3)]
    assert [(int(layer.rope), int(layer.window)) for layer in layers] == [(0, 4), (1, FULL), (0, 7)]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_bit_sum_depends_on_every_bit_and_its_place(dtype, monkeypatch):
    weight = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(dtype)
    others = (weight[[1, 0, 2]], weight[:, ::-1], weight[..., [1, 0, 2, 3, 4, 5]], -weight)
    assert len({checkpoint.bit_sum(each) for each in (weight, *others)}) == 5
    wanted = checkpoint.bit_sum(weight)
    monkeypatch.setattr(checkpoint, "PIECE", 7)
    assert checkpoint.bit_sum(weight) == wanted
    split = jax.NamedSharding(batches.mesh(1, 2), PartitionSpec(None, "tensor"))
    placed = jax.device_put(weight, split)
    assert int(checkpoint.device_bit_sum(jnp.asarray(weight))) == wanted
    assert int(checkpoint.device_bit_sum(placed)) == wanted


def test_load_rounds_to_another_dtype(pair):
    original = pair("llama-gqa").ours
    for dtype in (jnp.bfloat16, "float16"):
        loaded = cola_jax.load(pair("llama-gqa").checkpoint, dtype=dtype)
        for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(original), strict=True):
            assert ours.dtype == jnp.dtype(dtype)
            np.testing.assert_array_equal(ours, theirs.astype(dtype))


SPLIT_AXES = {  # of weights of layers on a mesh of 4 by 2; None where each device has the whole
    "llama-biases": {
        **{"attention_norm": None, "o_bias": None, "down_bias": None, "q": 2, "k": 2, "o": 1},
        **{"q_bias": 1, "gate": 2, "down": 1},
    },
    "qwen2-moe": {
        **{"router": None, "shared_gate": None, "expert_gate": 3, "expert_up": 3},
        **{"expert_down": 2, "gate": 2},
    },
}


@pytest.mark.parametrize("variant", SPLIT_AXES)
def test_load_places_weights_by_their_specs(pair, variant):
    model = cola_jax.load(pair(variant).checkpoint, mesh=batches.mesh(4, 2))
    for name, axis in SPLIT_AXES[variant].items():
        weight = getattr(model.layers[0], name)
        spec = ["tensor" if i == axis else None for i in range(weight.ndim)]
        assert weight.sharding.spec == PartitionSpec(*spec), name
    assert model.layers[0].q.addressable_shards[0].data.shape == (6, 32, 2, 8)
    # 97 tokens cannot be split evenly, so the vocabulary is replicated
    assert model.embedding.sharding.spec == PartitionSpec(None, None)
    assert model.head.sharding.spec == PartitionSpec(None, None)


@pytest.mark.parametrize(
    ("variant", "tensor"), [("llama-gqa", 2), ("olmo2", 2), ("gemma3", 4), ("qwen2-moe", 4)]
)
def test_load_with_a_mesh_keeps_the_logits(pair, variant, tensor):
    models, ids = pair(variant), oracle.random_ids(2)
    model = cola_jax.load(models.checkpoint, mesh=batches.mesh(2, tensor))
    kv_spec = "tensor" if tensor == 2 else None  # two key/value heads do not split four ways
    assert model.layers[0].k.sharding.spec == PartitionSpec(None, None, kv_spec, None)
    assert len(model.layers[0].q.sharding.device_set) == 2 * tensor
    theirs = oracle.logits(models.theirs, ids, oracle.PATHS["repeat"])
    ours = cola_jax.run_path(model, ids, oracle.PATHS["repeat"])
    assert oracle.relative_error(ours, theirs) < oracle.TOLERANCE


def test_load_refuses_a_mesh_that_does_not_fit(pair):
    with pytest.raises(ValueError, match=r"cannot be split over 8 devices.*divides 4"):
        cola_jax.load(pair("llama-gqa").checkpoint, mesh=batches.mesh(1, 8))
    other = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"axes \['model'\].*'data' and 'tensor'"):
        cola_jax.load(pair("llama-gqa").checkpoint, mesh=other)
    with pytest.raises(ValueError, match=r"expert_gate of shape .* choose a 'tensor' axis that"):
        sharding("expert_gate", (6, 6, 32, 27), batches.mesh(2, 2))
    data_only = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    model = cola_jax.load(pair("llama-gqa").checkpoint, mesh=data_only)
    assert len(model.embedding.sharding.device_set) == 2


def test_load_refuses_weights_that_are_missing_cut_or_changed(copy):
    def refuse():
        with pytest.raises(checkpoint.DamagedError, match=r"weights is damaged, .* convert the"):
            cola_jax.load(copy)

    files = [file for file in (copy / "weights").rglob("*") if "0" in file.name]
    for i, file in enumerate(files):
        whole = file.read_bytes()
        if i % 2:  # stored without a checksum, so TensorStore may restore changed bits
            changed = bytearray(whole)
            changed[int(len(changed) * (i % 10) / 10)] ^= 0x10
            file.write_bytes(changed)
        else:
            file.write_bytes(whole[: len(whole) // 2])
        refuse()
        file.unlink()
        if i == 0:
            refuse()
        file.write_bytes(whole)
    cola_jax.load(copy)


def test_load_refuses_the_weights_of_another_model(pair, copy, tmp_path):
    model = cola_jax.load(copy)  # of the same sizes, but for the order of layers
    exchanged = np.asarray(model.layers[0].q)[np.array([0, 2, 1, 3, 4])]
    checkpoint.save(tmp_path / "other", model.config, [("q", exchanged)], {"kind": "test"})
    shutil.rmtree(copy / "weights" / "q")
    shutil.copytree(tmp_path / "other" / "weights" / "q", copy / "weights" / "q")
    with pytest.raises(checkpoint.DamagedError, match="q has changed: convert the model again"):
        cola_jax.load(copy)
    shutil.rmtree(copy / "weights")
    shutil.copytree(pair("llama-mha").checkpoint / "weights", copy / "weights")
    with pytest.raises(checkpoint.DamagedError, match="convert the model again"):
        cola_jax.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 10**9}, "num_layers: .* less than or equal to 1000"),
        ({"num_layers": 4}, "layer_ropes has 5 entries"),
        ({"width": "32"}, "width: Input should be a valid integer, got '32'"),
        ({"num_kv_heads": 3}, "4 query heads cannot share 3"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"ropes": []}, "layer_ropes must be 0 to -1"),
        ({"ropes": [{"theta": 1e4, "divisors": [1.0]}]}, "1 divisors for 8 channels"),
        ({"ropes": [{"theta": 1e4, "llama3": [8, 4, 1, 64]}]}, "must have low < high"),
        ({"mlp_width": 0}, "a layer must have an MLP or experts"),
        ({"experts": 6}, "experts need experts_per_token"),
        ({"experts": 6, "experts_per_token": 7, "expert_width": 4}, "cannot use 7 of 6 experts"),
        ({"norm_eps": 1e-4}, "its digest is that of another model"),
    ],
)
def test_load_refuses_a_config_that_cannot_be(copy, changes, message):
    config = json.loads((copy / "cola.json").read_text())["config"]
    edit_metadata(copy, config=config | changes)
    with pytest.raises(ValueError, match=message) as raised:
        cola_jax.load(copy)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


HUB = {"kind": "hub", "name": "someone/tiny", "revision": "0123abc"}


def test_read_metadata_refuses_what_is_damaged(copy):
    file = copy / "cola.json"
    whole = file.read_bytes()
    for changes in (
        *({"layout": 1}, {"sums": {"q": -1}}, {"pad_token": "0"}, {"origin": {"kind": "hub"}}),
        *({"origin": HUB | {"name": 'a"); import os'}}, {"origin": HUB | {"revision": "main\n"}}),
    ):
        edit_metadata(copy, **changes)
        with pytest.raises(checkpoint.DamagedError, match=r"cola\.json( cannot be read|: its)"):
            checkpoint.read_metadata(copy)
        file.write_bytes(whole)
    for content in (b"", b"{", b"\xff", b'{"layout": 2}'):
        file.write_bytes(content)
        with pytest.raises(checkpoint.DamagedError, match=r"cola\.json.* It is damaged"):
            checkpoint.read_metadata(copy)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer/notes.txt", "weights", "cola.json"])
def test_read_metadata_refuses_links_to_files_elsewhere(copy, tmp_path, name):
    """Exports copy the files of a tokenizer, whatever they are."""
    if (copy / name).exists():
        (copy / name).rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").write_text("secret")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{name} is a link to .*elsewhere, which is not in"):
        checkpoint.read_metadata(copy)


def test_read_metadata_refuses_other_directories_with_a_hint(pair, copy, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a directory: make a checkpoint with"):
        checkpoint.read_metadata(tmp_path / "nowhere")
    folder = pair("llama-gqa").folder
    with pytest.raises(ValueError, match=f"Hugging Face model: run `cola convert {folder} DEST"):
        checkpoint.read_metadata(folder)
    (copy / "cola.json").unlink()
    with pytest.raises(ValueError, match=r"has no cola\.json: it is not a cola-jax checkpoint"):
        checkpoint.read_metadata(copy)
    os.mkfifo(copy / "weights" / "pipe")
    with pytest.raises(ValueError, match="is a directory, pipe or device, not a file: remove it"):
        checkpoint.read_metadata(copy)


@pytest.mark.parametrize("name", ["Qwen2TokenizerFast", "LlamaTokenizer", None])
def test_load_tokenizer_loads_the_class_of_auto_tokenizer(copy, name, monkeypatch):
    write_tokenizer(copy, {"tokenizer_class": name, "pad_token": "<s>"} if name else {})
    theirs = AutoTokenizer.from_pretrained(copy / "tokenizer")
    if name == "Qwen2TokenizerFast":  # needs no AutoTokenizer, whose import takes longest
        monkeypatch.delattr("transformers.AutoTokenizer")
    ours = cola_jax.load_tokenizer(copy)
    assert type(ours) is type(theirs)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours("Is it iron?").input_ids == theirs("Is it iron?").input_ids


def test_load_tokenizer_refuses_one_that_is_missing_or_has_changed(pair, copy):
    with pytest.raises(ValueError, match="has no tokenizer: its source had none"):
        cola_jax.load_tokenizer(pair("llama-gqa").checkpoint)
    file = copy / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(checkpoint.DamagedError, match="has changed since the conversion: convert"):
        cola_jax.load_tokenizer(copy)


def test_stop_tokens_fall_back_to_the_tokenizer(copy):
    for ids, expected in ((..., (1,)), ([], (1,)), ([2, 5], (2, 5))):
        edit_metadata(copy, stop_tokens=ids)
        assert checkpoint.stop_tokens(copy) == expected
    edit_metadata(copy, stop_tokens=[])
    settings = json.loads((copy / "tokenizer" / "tokenizer_config.json").read_text())
    write_tokenizer(copy, {k: v for k, v in settings.items() if k != "eos_token"})
    with pytest.raises(ValueError, match="has no token that ends a generation"):
        checkpoint.stop_tokens(copy)


def test_load_restores_the_padding_token(copy):
    edit_metadata(copy, pad_token=5)
    model = cola_jax.load(copy)
    assert model.pad_token == 5
    assert len(jax.tree.leaves(model)) == len(shapes(model.config))  # a static field


def test_model_digest_is_of_weights_config_tokenizer_and_tower(copy):
    metadata = checkpoint.read_metadata(copy)
    assert checkpoint.model_digest(metadata | {"pad_token": 5}) == metadata["digest"]
    for changed in (
        {"sums": metadata["sums"] | {"q": 1}},
        {"config": metadata["config"] | {"norm_eps": 0.5}},
        {"tokenizer": {"tokenizer.json": "0"}},
        {"dtype": "bfloat16"},
        {"tower": "0"},
    ):
        assert checkpoint.model_digest(metadata | changed) != metadata["digest"]


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_digest_of_a_model_is_its_checkpoints_until_it_is_changed(tiny_checkpoint, dtype):
    model = cola_jax.load(tiny_checkpoint, dtype=dtype)
    of_file = checkpoint.read_metadata(tiny_checkpoint)["digest"]
    assert checkpoint.digest_of(model) == of_file
    longer = dataclasses.replace(model.config, context=512)
    changed = [model.replace(norm=model.norm.at[0].add(1)), model.replace(config=longer)]
    digests = [checkpoint.digest_of(each) for each in changed]
    assert len({of_file, *digests}) == 3
    assert checkpoint.digest_of(model.replace(norm=model.norm.at[0].add(1))) == digests[0]

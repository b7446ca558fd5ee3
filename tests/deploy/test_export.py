"""Exported Hugging Face checkpoints: transformers and our own converter read what was meant."""

import jax
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard

import cola_jax
from cola_jax import checkpoint
from cola_jax.deploy.adapter import export_adapter
from cola_jax.deploy.export import (
    choose_layers,
    export,
    write_model,
    write_recipe,
)
from cola_jax.formats.config_json import select_layers
from cola_jax.formats.conversion import convert, locate
from cola_jax.formats.peers import mergekit_config
from cola_jax.params import field_of, kind_of_weight, shapes
from cola_jax.path import pad_path, parse_path
from cola_jax.progress import ignore_progress
from tests import oracle

MIXED = (0, 2, 2, 5, 4, 1, 4, 1)  # skips 3, repeats 2, runs a block twice, and moves layers
# where layers share keys, the last ones have to, with those of the last before them
SHARING = {"gemma4-e": (0, 1, 0, 2, 2, 1, 3, 4, 5, 4, 5)}
# biases; norms after; parts of other names; experts, of which some are beside an MLP
FAST = "llama-biases", "gemma3", "gpt-oss", "granite4-mamba", "gemma4-e", "gemma4-moe", "qwen3.5"
PARTS = dict.fromkeys(SHARING, "0m,1,0,2a,2m,2,3,4a,5,4m,5")


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def stacked(model):
    """Yields a model's weights by field name, as `checkpoint.restore_weights` does."""
    for name in shapes(model.config):
        stack = model.layers[kind_of_weight(name)]
        yield name, getattr(model if hasattr(model, name) else stack, field_of(name))


def write(model, path, folder, dtype="float32"):
    """Exports a model that is in memory."""
    folder.mkdir()
    selected = choose_layers(model.config, path, dtype)
    write_model(folder, selected, stacked(model), {"pad_token_id": None}, ignore_progress)
    return folder


def read_by_transformers(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64)), use_cache=False).logits.numpy()


@pytest.mark.parametrize("variant", oracle.EACH)
def test_write_model_is_what_transformers_and_our_converter_read(pair, variant, tmp_path):
    ours, ids, path = pair(variant).ours, oracle.random_ids(2), SHARING.get(variant, MIXED)
    folder = write(ours, path, tmp_path / "out")
    theirs = read_by_transformers(folder)
    assert theirs.config.num_hidden_layers == len(theirs.model.layers) == len(path)
    expected = oracle.logits(pair(variant).theirs, ids, path)
    assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE
    again = oracle.convert_in_memory(folder)
    assert again.config == select_layers(ours.config, path)
    config, stacks = ours.config, []
    for kind, stack in enumerate(ours.layers):
        places = np.array([config.stack_index[i] for i in path if config.kind_of(i) == kind])
        stacks.append(jax.tree.map(lambda x, places=places: x[places], stack))
    along = ours.replace(config=again.config, layers=tuple(stacks))
    if ours.layer_embedding is not None:
        names, layers = ("layer_embedding", "layer_projection"), np.array(path)
        along = along.replace(**{name: getattr(ours, name)[:, layers] for name in names})
    jax.tree.map(np.testing.assert_array_equal, again, along)


@pytest.mark.parametrize(
    "variant",
    [v if v in FAST else pytest.param(v, marks=pytest.mark.slow) for v in oracle.VARIANTS],
)
def test_write_model_leaves_out_parts_by_zeros(pair, variant, tmp_path):
    """Exactly, whatever biases, experts and norms follow."""
    models, ids = pair(variant), oracle.random_ids(2)
    path = parse_path(PARTS.get(variant, "0m,2,2a,5m,4,1a,4a,1"), 6)
    theirs = read_by_transformers(write(models.ours, path, tmp_path / "out"))
    expected = oracle.logits(models.theirs, ids, path)
    assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE


def test_choose_layers_refuses_parts_whose_keys_others_would_take(pair):
    """A layer without attention is written with keys, which those after it that share some read."""
    config = pair("gemma4-e").ours.config
    with pytest.raises(ValueError, match=r"cannot hold \{'keys_of'"):
        choose_layers(config, parse_path("0-3,3m,4-5", 6), "float32")


def test_exports_refuse_shares(pair, tiny_checkpoint, tmp_path):
    message = r"path 0,1\*0.5 adds a share .* \(1\*0.5\), and weights cannot: .* --format vllm"
    path = parse_path("0,1*0.5", 6)
    for write_path in (export, export_adapter):
        with pytest.raises(ValueError, match=message):
            write_path(tiny_checkpoint, path, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        write_recipe(path, pair("llama-gqa").ours.config, "m", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_write_model_without_layers_that_share_keys(pair, tmp_path):
    models, ids, path = pair("gemma4-e"), oracle.random_ids(2), (0, 1, 3, 3, 0)
    folder = write(models.ours, path, tmp_path / "out")
    expected = oracle.logits(models.theirs, ids, path)
    logits = their_logits(read_by_transformers(folder), ids)
    assert oracle.relative_error(logits, expected) < oracle.TOLERANCE


def test_export_writes_the_roots_of_scales(pair, tmp_path):
    models, ids, path = pair("gemma4-e"), oracle.random_ids(2), SHARING["gemma4-e"]
    convert(str(models.folder), tmp_path / "ours", rooted_scales=True)
    export(tmp_path / "ours", path, tmp_path / "out")
    logits = their_logits(read_by_transformers(tmp_path / "out"), ids)
    with oracle.scaled_by_roots(models.theirs, path):
        assert oracle.relative_error(logits, oracle.logits(models.theirs, ids, path)) < 1e-5
    ours = cola_jax.run_path(cola_jax.load(tmp_path / "ours"), ids, path)
    assert oracle.relative_error(ours, logits) < oracle.TOLERANCE
    with pytest.raises(ValueError, match="is a llama, whose layers have no scales"):
        convert(str(pair("llama-gqa").folder), tmp_path / "llama", rooted_scales=True)


def test_write_model_without_layers_of_a_kind(pair, tmp_path):
    """Their stack is empty; and the first layers alone may have no experts."""
    models, ids = pair("glm4-moe"), oracle.random_ids(2)
    ours = oracle.convert_in_memory(write(models.ours, (1, 2), tmp_path / "out"))
    expected = oracle.logits(models.theirs, ids, (1, 2))
    assert oracle.relative_error(cola_jax.run_path(ours, ids, (0, 1)), expected) < oracle.TOLERANCE
    with pytest.raises(ValueError, match=r"glm4_moe cannot hold \{'layer_kinds': \(0, 1\)\}"):
        choose_layers(models.ours.config, (1, 0), "float32")


@pytest.mark.parametrize("variant", ["llama-gqa", "gemma3"])
def test_write_model_has_the_logits_of_run_path(pair, variant, tmp_path):
    ours, ids = pair(variant).ours, oracle.random_ids(2)
    for kind, path in oracle.PATHS.items():
        theirs = read_by_transformers(write(ours, path, tmp_path / kind))
        expected = cola_jax.run_path(ours, ids, pad_path(path, 10))  # one program
        assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE


def test_export_writes_a_whole_checkpoint(tiny_checkpoint, tmp_path, monkeypatch):
    out, path = tmp_path / "out", (0, 1, 1, 2, 4)
    out.mkdir()  # empty, so it may be used
    metadata = checkpoint.read_metadata(tiny_checkpoint) | {"stop_tokens": [1, 7]}
    monkeypatch.setattr(checkpoint, "read_metadata", lambda directory: metadata)
    done = []
    export(tiny_checkpoint, path, out, on_progress=lambda *x: done.append(x))
    assert {file.name for file in out.iterdir()} == {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    assert done[-1][0] == done[-1][1] < (out / "model.safetensors").stat().st_size
    theirs = read_by_transformers(out)
    words = transformers.AutoTokenizer.from_pretrained(out)
    ours = cola_jax.load_tokenizer(tiny_checkpoint)
    assert words("the sun").input_ids == ours("the sun").input_ids
    assert words.chat_template == ours.chat_template
    assert theirs.generation_config.eos_token_id == [1, 7]
    assert theirs.config.bos_token_id == ours.bos_token_id
    assert_runs_as_run_path(theirs, tiny_checkpoint, path)
    assert (
        "cola export --model theirs --path '0,1,1,2,4' --output THIS_FOLDER\n"
        in (out / "README.md").read_text()
    )
    assert locate(str(out)).open().stop_tokens == (1, 7)


def test_write_model_in_shards_is_read_by_both(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("cola_jax.deploy.export.SHARD_BYTES", 20_000)
    ours, ids = pair("llama-gqa").ours, oracle.random_ids(2)
    folder = write(ours, MIXED, tmp_path / "out")
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    assert len(sizes) > 3
    assert max(sizes) < 25_000
    expected = oracle.logits(pair("llama-gqa").theirs, ids, MIXED)
    logits = their_logits(read_by_transformers(folder), ids)
    assert oracle.relative_error(logits, expected) < oracle.TOLERANCE
    assert locate(str(folder)).open().config.num_layers == len(MIXED)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_write_model_keeps_the_dtype(pair, tmp_path, dtype):
    ours = jax.tree.map(lambda x: x.astype(dtype), pair("llama-gqa").ours)
    theirs = read_by_transformers(write(ours, (0, 5), tmp_path / "out", dtype))
    assert str(theirs.dtype) == f"torch.{dtype}"
    weight = theirs.model.layers[1].mlp.up_proj.weight.detach().float().numpy()
    np.testing.assert_array_equal(weight.T, np.asarray(ours.layers[0].up[5], np.float32))


def test_export_leaves_nothing_of_a_failed_export(tiny_checkpoint, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("cola_jax.deploy.export.save_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tiny_checkpoint, (0, 1), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_write_recipe_refuses_layers_that_differ_and_files_that_exist(pair, tmp_path):
    file, path = tmp_path / "path.yaml", (0, 2, 3, 4, 5)
    for variant in ("gemma3", "qwen2-window"):
        with pytest.raises(ValueError, match=r"path 0,2-5 cannot be .* differ in kind, window or"):
            write_recipe(path, pair(variant).ours.config, "m", file)
    assert not list(tmp_path.iterdir())
    same = pair("mistral-window").ours.config
    write_recipe(path, same, "someone/tiny@abc", file)
    assert file.read_text() == mergekit_config(path, "someone/tiny@abc")
    with pytest.raises(ValueError, match=r"path\.yaml exists already"):
        write_recipe(path, same, "someone/tiny@abc", file)


def assert_runs_as_run_path(model, directory, path):
    ids = np.arange(10, dtype=np.int64)[None]
    expected = cola_jax.run_path(cola_jax.load(directory), ids, path)
    assert oracle.relative_error(their_logits(model, ids), expected) < oracle.TOLERANCE


def test_export_records_the_license_of_the_source(source, tmp_path):
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    convert(str(source), tmp_path / "ours")
    export(tmp_path / "ours", (0, 2), tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "mit"
    (source / "README.md").write_text("---\n[\n---\n")
    convert(str(source), tmp_path / "again")
    assert checkpoint.read_metadata(tmp_path / "again")["origin"]["license"] is None

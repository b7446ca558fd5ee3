"""Exported Hugging Face checkpoints: transformers and our own converter read what was meant."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
import yaml

import cola_jax
from cola_jax import checkpoint
from cola_jax.deploy import shards
from cola_jax.deploy.destination import check_empty
from cola_jax.deploy.export import choose_layers, export, read_path, write_model, write_recipe
from cola_jax.formats.hf_config import select_layers
from cola_jax.formats.sources import locate
from cola_jax.formats.table import stack
from cola_jax.params import shapes
from cola_jax.path import pad_path
from tests import oracle

MIXED = (0, 2, 2, 5, 4, 1, 4, 1)  # skips 3, repeats 2, runs a block twice, and moves layers
LONGEST = 10


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def stacked(model):
    """Yields a model's weights by field name, as `checkpoint.restore_weights` does."""
    for name in shapes(model.config):
        yield name, getattr(model if hasattr(model, name) else model.layers, name)


def write(model, path, folder):
    """Exports a model that is in memory."""
    folder.mkdir()
    write_model(
        folder, choose_layers(model.config, path, "float32"), stacked(model), {}, print_nothing
    )
    return folder


def print_nothing(done, total):
    """Takes the place of a progress bar."""


def read_by_transformers(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64)), use_cache=False).logits.numpy()


@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_write_model_is_what_transformers_and_our_converter_read(pair, variant, tmp_path):
    ours, ids = pair(variant).ours, oracle.random_ids(2)
    folder = write(ours, MIXED, tmp_path / "out")
    theirs = read_by_transformers(folder)
    assert theirs.config.num_hidden_layers == len(theirs.model.layers) == len(MIXED)
    expected = oracle.logits(pair(variant).theirs, ids, MIXED)
    assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE
    again = locate(str(folder)).open()
    assert again.config == select_layers(ours.config, MIXED)
    weights = dict(stack(again.tensors, again.rows, again.config, again.dtype))
    for name, array in stacked(ours):
        whole = name in ("embedding", "norm", "head")
        wanted = np.asarray(array) if whole else np.asarray(array)[list(MIXED)]
        np.testing.assert_array_equal(weights[name], wanted)


@pytest.mark.parametrize("variant", ["llama-gqa", "gemma3"])
def test_write_model_has_the_logits_of_run_path(pair, variant, tmp_path):
    ours, ids = pair(variant).ours, oracle.random_ids(2)
    for kind, path in oracle.PATHS.items():
        theirs = read_by_transformers(write(ours, path, tmp_path / kind))
        expected = cola_jax.run_path(ours, ids, pad_path(path, LONGEST))
        assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE


def test_export_writes_a_whole_checkpoint(tiny_checkpoint, tmp_path):
    out, path = tmp_path / "new" / "out", (0, 1, 1, 2, 4)
    (tmp_path / "new").mkdir()
    out.mkdir()  # empty, so it may be used
    done = []
    export(tiny_checkpoint, path, out, command="the command", on_progress=lambda *x: done.append(x))
    assert sorted(file.name for file in out.iterdir()) == [
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert done[-1][0] == done[-1][1] < (out / "model.safetensors").stat().st_size
    theirs = read_by_transformers(out)
    words = transformers.AutoTokenizer.from_pretrained(out)
    ours = cola_jax.load_tokenizer(tiny_checkpoint)
    assert words("the sun").input_ids == ours("the sun").input_ids
    assert words.chat_template == ours.chat_template
    assert (theirs.generation_config.eos_token_id,) == checkpoint.stop_tokens(tiny_checkpoint)
    assert theirs.config.bos_token_id == ours.bos_token_id
    ids = np.array([words("the sun moon water ice").input_ids])
    expected = cola_jax.run_path(cola_jax.load(tiny_checkpoint), ids, path)
    assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE
    card = (out / "README.md").read_text()
    assert "`0,1,1,2,4`" in card
    assert "the command" in card
    opened = locate(str(out)).open()
    assert opened.stop_tokens == checkpoint.stop_tokens(tiny_checkpoint)


def test_export_writes_several_stop_tokens(tiny_checkpoint, tmp_path, monkeypatch):
    metadata = checkpoint.read_metadata(tiny_checkpoint) | {"stop_tokens": [1, 7]}
    monkeypatch.setattr(checkpoint, "read_metadata", lambda directory: metadata)
    export(tiny_checkpoint, (0, 2), tmp_path / "out", command="")
    assert locate(str(tmp_path / "out")).open().stop_tokens == (1, 7)


def test_write_model_in_shards_is_read_by_both(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    ours, ids = pair("llama-gqa").ours, oracle.random_ids(2)
    folder = write(ours, MIXED, tmp_path / "out")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 3
    assert {file.stat().st_mode & 0o777 for file in files} == {folder.stat().st_mode & 0o666}
    assert all(file.stat().st_size < 25_000 for file in files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    expected = oracle.logits(pair("llama-gqa").theirs, ids, MIXED)
    logits = their_logits(read_by_transformers(folder), ids)
    assert oracle.relative_error(logits, expected) < oracle.TOLERANCE
    assert locate(str(folder)).open().config.num_layers == len(MIXED)


def test_plan_shards_keeps_to_the_limit():
    assert shards.plan_shards({"a": 3, "b": 4}, 10) == dict.fromkeys("ab", "model.safetensors")
    files = shards.plan_shards({"a": 3, "b": 4, "c": 9, "d": 1}, 8)
    assert list(files.values()) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 1, 2, 3)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_write_model_keeps_the_dtype(pair, tmp_path, dtype):
    ours = jax.tree.map(lambda x: x.astype(dtype), pair("llama-gqa").ours)
    (tmp_path / "out").mkdir()
    selected = choose_layers(ours.config, (0, 5), dtype)
    write_model(tmp_path / "out", selected, stacked(ours), {}, print_nothing)
    theirs = read_by_transformers(tmp_path / "out")
    assert str(theirs.dtype) == f"torch.{dtype}"
    weight = theirs.model.layers[1].mlp.up_proj.weight.detach().float().numpy()
    np.testing.assert_array_equal(weight.T, np.asarray(ours.layers.up[5], np.float32))


@pytest.mark.parametrize(
    ("place", "message"),
    [("full", "exists already and is not empty"), ("file", "exists already: remove it")],
)
def test_export_refuses_an_existing_destination(tiny_checkpoint, tmp_path, place, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=message):
        export(tiny_checkpoint, (0, 1), tmp_path / place, command="")


def test_export_refuses_a_destination_inside_the_checkpoint_and_urls(tiny_checkpoint):
    for place in (tiny_checkpoint, tiny_checkpoint / "weights" / "out"):
        with pytest.raises(ValueError, match="is inside the source"):
            export(tiny_checkpoint, (0, 1), place, command="")
    with pytest.raises(ValueError, match="on URLs are not supported yet"):
        check_empty(Path("gs://bucket/out"))


def test_export_leaves_nothing_of_a_failed_export(tiny_checkpoint, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("cola_jax.deploy.export.write_shards", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tiny_checkpoint, (0, 1), tmp_path / "new" / "out", command="")
    assert not list(tmp_path.iterdir())


def test_read_path_reads_what_static_writes(tmp_path):
    file = tmp_path / "static.json"
    file.write_text(json.dumps({"path": "0-1,3-4", "length": 4}))
    assert read_path(str(file), 5) == read_path("0-1,3-4", 5) == (0, 1, 3, 4)
    with pytest.raises(ValueError, match="names layer 4, but the model has layers"):
        read_path(str(file), 4)
    file.write_text("{}")
    with pytest.raises(ValueError, match="has no path"):
        read_path(str(file), 5)
    with pytest.raises(FileNotFoundError):
        read_path(str(tmp_path / "none.json"), 5)


def test_write_recipe_lists_the_ranges_of_the_path(pair, tmp_path):
    config, path = pair("llama-gqa").ours.config, (0, 1, 2, 1, 2, 4, 5)
    write_recipe(path, config, "someone/tiny@abc", tmp_path / "path.yaml")
    recipe = yaml.safe_load((tmp_path / "path.yaml").read_text())
    assert recipe["merge_method"] == "passthrough"
    sources = [source for one in recipe["slices"] for source in one["sources"]]
    assert {source["model"] for source in sources} == {"someone/tiny@abc"}
    ranges = [source["layer_range"] for source in sources]
    assert ranges == [[0, 3], [1, 3], [4, 6]]
    assert tuple(layer for a, b in ranges for layer in range(a, b)) == path
    with pytest.raises(ValueError, match=r"path\.yaml exists already"):
        write_recipe(path, config, "someone/tiny", tmp_path / "path.yaml")


def test_write_recipe_refuses_layers_that_differ(pair, tmp_path):
    for variant in ("gemma3", "qwen2-window"):
        config = pair(variant).ours.config
        with pytest.raises(ValueError, match=r"path 0,2-5 cannot be .* differ in window or rotary"):
            write_recipe((0, 2, 3, 4, 5), config, "m", tmp_path / "path.yaml")
    assert not list(tmp_path.iterdir())
    write_recipe((0, 2), pair("mistral-window").ours.config, "m", tmp_path / "path.yaml")

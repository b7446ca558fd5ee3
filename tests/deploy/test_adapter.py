"""Adapters that repeat layers without a copy, run by PEFT; and why safetensors cannot share."""

import json
import struct

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError, safe_open

import cola_jax
from cola_jax import checkpoint
from cola_jax.deploy.adapter import check_replication, write_adapter
from cola_jax.deploy.destination import folder_bytes
from cola_jax.deploy.export import export
from tests import oracle

# of transformers' own attributes, when PEFT reads them
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
REPEATS = (0, 2, 3, 2, 3, 3, 1)  # of 0 to 4: ranges that go back, a layer three times, one skipped


def load(folder, adapter):
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return PeftModel.from_pretrained(base, adapter).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids), use_cache=False).logits.numpy()


def test_export_shares_repeats_through_an_adapter(tiny_checkpoint, tmp_path):
    export(tiny_checkpoint, REPEATS, tmp_path / "shared", command="", share=True)
    export(tiny_checkpoint, REPEATS, tmp_path / "whole", command="")
    model = load(tmp_path / "shared" / "base", tmp_path / "shared")
    layers = model.base_model.model.model.layers
    assert len(layers) == len(REPEATS)
    assert layers[2].mlp.up_proj.weight is layers[4].mlp.up_proj.weight
    ids = np.arange(10, dtype=np.int64)[None]
    expected = cola_jax.run_path(cola_jax.load(tiny_checkpoint), ids, REPEATS)
    assert oracle.relative_error(logits(model, ids), expected) < oracle.TOLERANCE
    assert folder_bytes(tmp_path / "shared") < folder_bytes(tmp_path / "whole")
    values = json.loads((tmp_path / "shared" / "base" / "config.json").read_text())
    assert values["num_hidden_layers"] == 4
    settings = json.loads((tmp_path / "shared" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "shared" / "base")
    assert settings["layer_replication"] == [[0, 1], [2, 4], [2, 4], [3, 4], [1, 2]]
    card = (tmp_path / "shared" / "README.md").read_text()
    assert 'from_pretrained("THIS_FOLDER/base")' in card


def test_export_of_a_model_from_the_hub_stores_no_weights(tiny_checkpoint, tmp_path, monkeypatch):
    origin = {"kind": "hub", "name": "someone/tiny", "revision": "0123abc"}
    metadata = checkpoint.read_metadata(tiny_checkpoint) | {"origin": origin}
    monkeypatch.setattr(checkpoint, "read_metadata", lambda directory: metadata)
    export(tiny_checkpoint, REPEATS, tmp_path / "out", command="", share=True)
    assert folder_bytes(tmp_path / "out") < 10_000
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "someone/tiny"
    assert settings["revision"] == "0123abc"
    model = load(tiny_checkpoint.parent / "theirs", tmp_path / "out")
    ids = np.arange(10, dtype=np.int64)[None]
    expected = cola_jax.run_path(cola_jax.load(tiny_checkpoint), ids, REPEATS)
    assert oracle.relative_error(logits(model, ids), expected) < oracle.TOLERANCE
    assert (
        'from_pretrained("someone/tiny", revision="0123abc")'
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_export_has_nothing_to_share_without_repeats(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="path 0-1,4 runs no layer twice"):
        export(tiny_checkpoint, (0, 1, 4), tmp_path / "out", command="", share=True)


@pytest.mark.parametrize(
    ("variant", "path", "message"),
    [
        ("qwen3", (0, 1, 2, 3, 4, 5, 5), "the path has 7 layers and the list 6"),
        ("gemma3", (0, 2, 1, 1), "the layer at place 1 of the path is of another"),
    ],
)
def test_check_replication_names_the_layer_types_that_do_not_move(pair, variant, path, message):
    with pytest.raises(ValueError, match=f"path 0-9 cannot be shared .* {message}"):
        check_replication(pair(variant).ours.config, path, "0-9")


def test_check_replication_allows_what_peft_can_run(pair, tmp_path):
    """Kinds stay in place for these; and the error above is not an excess of caution."""
    config, path = pair("gemma3").ours.config, (0, 0, 2, 4, 3)
    check_replication(config, path, "")
    ids = oracle.random_ids(2).astype(np.int64)
    write_adapter(tmp_path, path, config, "base", None)
    expected = oracle.logits(pair("gemma3").theirs, ids, path)
    model = load(pair("gemma3").folder, tmp_path)
    assert oracle.relative_error(logits(model, ids), expected) < oracle.TOLERANCE
    write_adapter(tmp_path, (0, 2, 1, 1), config, "base", None)
    expected = oracle.logits(pair("gemma3").theirs, ids, (0, 2, 1, 1))
    model = load(pair("gemma3").folder, tmp_path)
    assert oracle.relative_error(logits(model, ids), expected) > 0.01
    check_replication(pair("mistral-window").ours.config, (0, 1, 1, 2, 3, 4, 5), "")


def test_safetensors_cannot_name_the_same_bytes_twice(tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    file = tmp_path / "twice.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(SafetensorError, match=r"(?i)invalid.?offset"):
        safe_open(str(file), framework="numpy")


def test_an_index_cannot_name_one_tensor_twice(tiny_checkpoint, tmp_path):
    """A name of the index that its file lacks is a missing weight, which transformers makes up."""
    export(tiny_checkpoint, (0, 1), tmp_path / "out", command="")
    file = tmp_path / "out" / "model-1.safetensors"
    (tmp_path / "out" / "model.safetensors").rename(file)
    with safe_open(str(file), framework="numpy") as handle:
        names = list(handle.keys())
    again = [name.replace("layers.1.", "layers.2.") for name in names if "layers.1." in name]
    index = {"metadata": {}, "weight_map": dict.fromkeys([*names, *again], file.name)}
    (tmp_path / "out" / "model.safetensors.index.json").write_text(json.dumps(index))
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 3}))
    _, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert set(report["missing_keys"]) == set(again)

"""PEFT adapters: what PEFT makes of them runs as `run_path`, and holds each layer once."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

import cola_jax
from cola_jax import checkpoint
from cola_jax.deploy.adapter import Base, choose_base, export_adapter, write_adapter
from cola_jax.deploy.export import export
from cola_jax.files import written_bytes
from cola_jax.formats.conversion import convert
from cola_jax.path import parse_path
from tests import oracle

REPEATS = (0, 2, 3, 2, 3, 3, 1)  # of 0 to 4: ranges that go back, a layer three times, one skipped
HUB = {"kind": "hub", "name": "someone/tiny", "revision": "0123abc"}
# paths through six layers: all types in place, longer than the base, and a type out of place
IN_PLACE = (4, 1, 2, 1, 0)
LONGER = (0, 2, 2, 5, 4, 1, 4, 1)
OUT_OF_PLACE = (0, 2, 1, 1)
FAST = "gemma3", "qwen3", "qwen3.5", "glm4-moe"
SLOW = (v for v in oracle.FIRST if v not in (*FAST, "gemma4"))
VARIANTS = [*FAST, *(pytest.param(v, marks=pytest.mark.slow) for v in SLOW)]

# of transformers' own attributes, when PEFT reads them
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def read_by_peft(folder, adapter, types_along=()):
    """Load an adapter as its card says."""
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager"
    )
    if types_along:
        types = base.config.layer_types
        base.config.layer_types = [types[i] for i in types_along]
    return PeftModel.from_pretrained(base, adapter).eval()


def their_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids.astype(np.int64)), use_cache=False).logits


def assert_runs_as_run_path(model, directory, path):
    ids = np.arange(10, dtype=np.int64)[None]
    expected = cola_jax.run_path(cola_jax.load(directory), ids, path)
    assert oracle.relative_error(their_logits(model, ids), expected) < oracle.TOLERANCE


def from_hub(monkeypatch, directory):
    """Let a checkpoint be one of a model on the Hub."""
    metadata = checkpoint.read_metadata(directory) | {"origin": HUB}
    monkeypatch.setattr(checkpoint, "read_metadata", lambda directory: metadata)


def test_export_adapter_shares_repeats(tiny_checkpoint, tmp_path):
    export_adapter(tiny_checkpoint, REPEATS, tmp_path / "shared")
    export(tiny_checkpoint, REPEATS, tmp_path / "whole")
    model = read_by_peft(tmp_path / "shared" / "base", tmp_path / "shared")
    layers = model.base_model.model.model.layers
    assert len(layers) == len(REPEATS)
    assert layers[2].mlp.up_proj.weight is layers[4].mlp.up_proj.weight
    assert_runs_as_run_path(model, tiny_checkpoint, REPEATS)
    assert written_bytes(tmp_path / "shared") < written_bytes(tmp_path / "whole")
    values = json.loads((tmp_path / "shared" / "base" / "config.json").read_text())
    assert values["num_hidden_layers"] == 4
    settings = json.loads((tmp_path / "shared" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "base"
    assert settings["layer_replication"] == [[0, 1], [2, 4], [2, 4], [3, 4], [1, 2]]
    card = (tmp_path / "shared" / "README.md").read_text()
    assert '_pretrained("THIS_FOLDER/base")' in card
    assert "layer_types" not in card
    for content in (file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()):
        assert str(tiny_checkpoint.parent).encode() not in content
        assert str(tmp_path).encode() not in content


@pytest.mark.parametrize("path", [REPEATS, (0, 2, 4)], ids=["repeats", "skips"])
def test_export_adapter_of_a_model_from_the_hub_stores_no_weights(
    tiny_checkpoint, tmp_path, monkeypatch, path
):
    from_hub(monkeypatch, tiny_checkpoint)
    export_adapter(tiny_checkpoint, path, tmp_path / "out")
    assert written_bytes(tmp_path / "out") < 10_000
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "someone/tiny"
    assert settings["revision"] == "0123abc"
    model = read_by_peft(tiny_checkpoint.parent / "theirs", tmp_path / "out")
    assert_runs_as_run_path(model, tiny_checkpoint, path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'from_pretrained("someone/tiny", revision="0123abc")' in card


def adapter_of(models, path, folder, origin=HUB):
    """Write the adapter of a path, with the base of a model that has an origin."""
    base = choose_base(models.ours.config, path, {"origin": origin, "dtype": "float32"})
    write_adapter(folder, base)
    return base


@pytest.mark.parametrize("path", [IN_PLACE, LONGER], ids=["in place", "longer"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_write_adapter_runs_a_path_of_the_base(pair, tmp_path, variant, path):
    models, ids = pair(variant), oracle.random_ids(2)
    base = adapter_of(models, path, tmp_path)
    model = read_by_peft(models.folder, tmp_path, base.path if base.types_differ else ())
    logits = their_logits(model, ids)
    assert oracle.relative_error(logits, oracle.logits(models.theirs, ids, path)) < oracle.TOLERANCE
    batch = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        tokens = oracle.generate_exactly(model, batch, 3)[:, ids.shape[1] :].numpy()
    np.testing.assert_array_equal(tokens, oracle.decode(models.theirs, ids, path, 3))


def test_choose_base_writes_one_where_types_would_be_wrong_unnoticed(pair, tmp_path):
    """With the original as its base, the adapter would run, with other types of layers."""
    models, ids = pair("gemma3"), oracle.random_ids(2)
    base = adapter_of(models, OUT_OF_PLACE, tmp_path)
    assert base.hub is None
    assert base.layers.path == (0, 1, 2)
    assert base.path == OUT_OF_PLACE
    with pytest.raises(IndexError):  # the types of the base's own config are too few
        their_logits(read_by_peft(exported(models, base, tmp_path / "base"), tmp_path), ids)
    model = read_by_peft(tmp_path / "base", tmp_path, base.path)
    expected = oracle.logits(models.theirs, ids, OUT_OF_PLACE)
    assert oracle.relative_error(their_logits(model, ids), expected) < oracle.TOLERANCE
    original = Base("someone/tiny", None, base.layers, OUT_OF_PLACE, True)
    write_adapter(tmp_path, original)
    logits = their_logits(read_by_peft(models.folder, tmp_path), ids)
    assert oracle.relative_error(logits, expected) > 0.01
    with pytest.raises(ValueError, match="path 0,2 runs no step twice"):
        adapter_of(models, (0, 2), tmp_path)


def test_export_adapter_writes_a_layer_that_runs_whole_and_in_part_twice(
    tiny_checkpoint, tmp_path, monkeypatch
):
    from_hub(monkeypatch, tiny_checkpoint)  # whose layers are all whole
    path = parse_path("0,1,1a,1,1a,3m", 5)
    export_adapter(tiny_checkpoint, path, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "base"
    assert settings["layer_replication"] == [[0, 3], [1, 4]]
    model = read_by_peft(tmp_path / "out" / "base", tmp_path / "out")
    assert_runs_as_run_path(model, tiny_checkpoint, path)


def exported(models, base, folder: Path) -> Path:
    export(models.checkpoint, base.layers.path, folder)
    return folder


def test_choose_base_writes_one_for_the_text_part_of_a_model(pair, tmp_path):
    base = adapter_of(pair("llama-gqa"), LONGER, tmp_path, HUB | {"multimodal": "llava"})
    assert base.hub is None


def test_export_adapter_puts_types_in_the_card(pair, tmp_path, monkeypatch):
    models = pair("qwen3")
    export_adapter(models.checkpoint, LONGER, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "config.layer_types = [types[i] for i in [0, 2, 2, 4, 3, 1, 3, 1]]\n" in card
    types = (0, 2, 2, 4, 3, 1, 3, 1)
    model = read_by_peft(tmp_path / "out" / "base", tmp_path / "out", types)
    assert_runs_as_run_path(model, models.checkpoint, LONGER)


def test_choose_base_refuses_what_peft_cannot_run(pair, tmp_path):
    larger = pair("gemma4")
    convert(str(larger.folder), tmp_path / "ours", rooted_scales=True)
    for directory in (tmp_path / "ours", pair("gemma4-e").checkpoint):
        with pytest.raises(ValueError, match="embeddings by their place, keys of other layers, or"):
            export_adapter(directory, (0, 1, 1, 2, 3, 4, 5), tmp_path / "out")
    with pytest.raises(ValueError, match="of type gemma4_text run no more layers than the base"):
        adapter_of(larger, LONGER, tmp_path)
    with pytest.raises(ValueError, match="needs a layer with attention, and the path has none"):
        adapter_of(pair("qwen3.5"), (0, 1), tmp_path)
    assert not (tmp_path / "out").exists()

"""Vision towers: pictures as transformers reads them, the cache, and what is refused."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("PIL")

from safetensors.numpy import load_file, save_file

import cola_jax
from cola_jax.checkpoint import model_digest, read_metadata
from cola_jax.errors import InputError
from cola_jax.formats import vision
from cola_jax.formats.conversion import convert
from cola_jax.prompts import Prompts
from cola_jax.scoring.pictures import insert
from tests import oracle, pictures

PATHS = (0, 1, 2, 3), (0, 1, 2, 1, 2, 3), (0, 2, 3)
TEXT = "which <image>\nsun moon water"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tower(seeing):
    return vision.Tower(str(seeing("smolvlm") / "ours"))


@pytest.mark.parametrize("name", pictures.MODELS)
def test_run_path_matches_transformers_with_a_picture(seeing, name):
    folder, content = seeing(name), pictures.picture(1)
    theirs, processor = pictures.loaded(folder)
    inputs = processor(images=[pictures.rgb(content)], text=TEXT, return_tensors="pt")
    model = cola_jax.load(str(folder / "ours"))
    row = Prompts.plain(processor.tokenizer(TEXT)["input_ids"])
    (place,) = np.flatnonzero(np.asarray(row.ids) == processor.image_token_id)
    row = insert(row, int(place), vision.Tower(str(folder / "ours")).embed(content))
    np.testing.assert_array_equal(row.ids, inputs["input_ids"][0])
    for path in PATHS:
        expected = pictures.logits(theirs, inputs, path)
        ours = cola_jax.run_path(model, Prompts.stack([row]), path)
        assert oracle.relative_error(ours, expected) < oracle.TOLERANCE
        blind = cola_jax.run_path(model, np.asarray(row.ids)[None], path)
        assert oracle.relative_error(blind, expected) > 100 * oracle.TOLERANCE


def test_embed_runs_a_picture_once(tower, monkeypatch, tmp_path):
    content = pictures.picture(2)
    first = tower.embed(content)
    run, runs = tower.run, []
    monkeypatch.setattr(tower, "run", lambda x: runs.append(x) or run(x))
    for stored, again in zip(first, tower.embed(content), strict=True):
        np.testing.assert_array_equal(stored, again)
    assert not runs
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:200])  # damaged
    np.testing.assert_array_equal(tower.embed(content).embeddings, first.embeddings)
    assert len(runs) == 1
    other = tower.embed(pictures.picture(3)).embeddings
    assert not np.allclose(other, first.embeddings)


def test_tower_refuses_models_that_read_no_pictures(tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="cannot be asked about pictures: its model reads text"):
        vision.Tower(str(tiny_checkpoint))
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    metadata = json.loads((copy / "cola.json").read_text())
    for kind, why in {"gemma3": "two-way masks", "qwen3_5": "rotary positions in three"}.items():
        metadata["origin"]["multimodal"] = kind
        (copy / "cola.json").write_text(json.dumps(metadata))
        with pytest.raises(InputError, match=rf"it is a {kind}, which has {why}"):
            vision.Tower(str(copy))


def change_tower(folder):
    """Add 1 to the first weight of the vision tower."""
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "vision" in name)
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_processor(folder):
    """Normalize pictures by another mean."""
    file = next(folder.glob("*processor_config.json"))
    file.write_text(file.read_text().replace("image_mean", "mean_of_image"))


@pytest.mark.parametrize("change", [change_tower, change_processor])
def test_the_digest_of_a_model_is_of_its_tower_too(seeing, tmp_path, change):
    theirs = shutil.copytree(seeing("llava-llama") / "theirs", tmp_path / "theirs")
    before = convert(str(theirs), tmp_path / "before")
    assert before["digest"] == read_metadata(seeing("llava-llama") / "ours")["digest"]
    change(theirs)
    after = convert(str(theirs), tmp_path / "after")
    assert before["digest"] != after["digest"]
    assert before["sums"] == after["sums"]
    assert vision.Tower(str(tmp_path / "after")).parts
    with pytest.raises(InputError, match="another vision tower than when it was converted"):
        vision.Tower(str(tmp_path / "before")).embed(pictures.picture(1))


def test_tower_refuses_an_adapter_beside_it(seeing, tmp_path):
    theirs = shutil.copytree(seeing("llava-llama") / "theirs", tmp_path / "theirs")
    convert(str(theirs), tmp_path / "ours")
    (theirs / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(InputError, match=r"has an adapter_config\.json, by which .*remove it"):
        vision.Tower(str(tmp_path / "ours")).embed(pictures.picture(1))


def test_tower_refuses_checkpoints_without_its_digest(seeing, tmp_path):
    copy = shutil.copytree(seeing("smolvlm") / "ours", tmp_path / "copy")
    metadata = json.loads((copy / "cola.json").read_text())
    del metadata["tower"]
    metadata["digest"] = model_digest(metadata)
    (copy / "cola.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="did not identify vision towers: convert the model again"):
        vision.Tower(str(copy))


def test_tower_needs_its_source(seeing, tmp_path):
    copy = shutil.copytree(seeing("smolvlm") / "ours", tmp_path / "copy")
    metadata = json.loads((copy / "cola.json").read_text())
    metadata["origin"]["name"] = str(tmp_path / "moved")
    (copy / "cola.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"the vision tower of .*moved.*Convert the model again"):
        vision.Tower(str(copy))

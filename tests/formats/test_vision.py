"""Vision towers: pictures as transformers reads them, and what is refused."""

import io
import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

import transformers
from PIL import Image

import cola_jax
from cola_jax.errors import InputError
from cola_jax.formats import vision
from cola_jax.formats.conversion import convert
from cola_jax.prompts import Prompts
from cola_jax.scoring.pictures import insert
from tests import oracle, pictures

PATHS = {"identity": (0, 1, 2, 3), "repeated": (0, 1, 2, 1, 2, 3), "skipped": (0, 2, 3)}
TEXT = "which <image>\nsun moon water"


@pytest.fixture(params=list(pictures.MODELS))
def source(request, made_once):
    return made_once(request.param, lambda folder: pictures.make_source(folder, request.param))


@pytest.fixture
def checkpoint(source, made_once):
    return made_once(f"{source.name}-ours", lambda folder: convert(str(source), folder / "c")) / "c"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))


def test_run_path_matches_transformers_with_a_picture(source, checkpoint):
    processor = transformers.AutoProcessor.from_pretrained(source)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(source).eval()
    content = pictures.picture(1)
    image = Image.open(io.BytesIO(content)).convert("RGB")
    inputs = processor(images=[image], text=TEXT, return_tensors="pt")
    model, tower = cola_jax.load(str(checkpoint)), vision.Tower(str(checkpoint))
    row = Prompts.plain(processor.tokenizer(TEXT)["input_ids"])
    place = int(np.flatnonzero(np.asarray(row.ids) == processor.image_token_id)[0])
    row = insert(row, place, tower.embed(content))
    np.testing.assert_array_equal(row.ids, inputs["input_ids"][0])
    language = theirs.model.language_model if "llava" in source.name else theirs.model.text_model
    layers, kinds = language.layers, getattr(language.config, "layer_types", None)
    for path in PATHS.values():
        language.layers = torch.nn.ModuleList(layers[i] for i in path)
        language.config.num_hidden_layers = len(path)
        if kinds is not None:
            language.config.layer_types = [kinds[i] for i in path]
        with torch.no_grad():
            expected = theirs(**inputs, use_cache=False).logits.numpy()
        ours = cola_jax.run_path(model, Prompts.stack([row]), path)
        assert oracle.relative_error(ours, expected) < oracle.TOLERANCE
        without = cola_jax.run_path(model, np.asarray(row.ids)[None], path)
        assert oracle.relative_error(without, expected) > 100 * oracle.TOLERANCE

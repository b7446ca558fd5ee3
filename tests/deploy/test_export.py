"""Exported Hugging Face checkpoints: transformers and our own converter read what was meant."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers

import cola_jax
from cola_jax import checkpoint
from cola_jax.convert.conversion import open_source
from cola_jax.convert.table import stack
from cola_jax.deploy import shards
from cola_jax.deploy.export import export, read_path, select, write_model
from cola_jax.params import shapes
from cola_jax.path import pad_path
from tests import oracle

MIXED = (0, 2, 2, 5, 4, 1, 4, 1, 3, 3)  # skips nothing but order: repeats, a block twice, moves
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
    write_model(folder, select(model.config, path, "float32"), stacked(model), {}, print_nothing)
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


def our_logits(model, ids, path):
    return np.asarray(cola_jax.run_path(model, ids, pad_path(path, LONGEST)))


@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_write_model_has_the_logits_of_run_path(pair, variant, tmp_path):
    ours, ids = pair(variant).ours, oracle.random_ids(2)
    folder = write(ours, MIXED, tmp_path / "out")
    theirs = read_by_transformers(folder)
    assert theirs.config.num_hidden_layers == len(theirs.model.layers) == len(MIXED)
    assert theirs.dtype == torch.float32
    expected = our_logits(ours, ids, MIXED)
    assert oracle.relative_error(their_logits(theirs, ids), expected) < oracle.TOLERANCE

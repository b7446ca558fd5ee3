"""`ModelHandle`: a checkpoint without its weights, or a model in memory as it is."""

import pickle

import pytest

import cola_jax
from cola_jax.engine.model import ModelHandle
from cola_jax.errors import InputError
from cola_jax.params import Origin


def test_checkpoint_loads_once(tiny_checkpoint):
    handle = ModelHandle(str(tiny_checkpoint), "bfloat16")
    assert handle.loaded is None
    assert handle.digest == handle.metadata["digest"]
    assert not handle.is_changed
    assert handle.load() is handle.load()
    assert handle.load().embedding.dtype == handle.dtype == "bfloat16"


def test_model_in_memory_is_known_by_its_weights(tiny_checkpoint):
    model = cola_jax.load(tiny_checkpoint)
    handle, changed = ModelHandle.of(model), ModelHandle.of(model.replace(norm=model.norm * 2))
    assert handle.digest == ModelHandle(str(tiny_checkpoint)).digest != changed.digest
    assert (handle.is_changed, changed.is_changed) == (False, True)
    assert changed.load() is changed.given
    assert handle.dtype == "float32"


def test_weights_stay_where_they_are(tiny_checkpoint):
    handle = ModelHandle.of(cola_jax.load(tiny_checkpoint))
    sent = pickle.loads(pickle.dumps(handle))
    assert sent.given is sent.loaded is None
    assert (sent.directory, sent.config) == (handle.directory, handle.config)


def test_model_without_a_checkpoint_has_no_tokenizer(tiny_checkpoint):
    handle = ModelHandle.of(cola_jax.load(tiny_checkpoint).replace(origin=Origin()))
    with pytest.raises(InputError, match="not loaded from a checkpoint with a tokenizer"):
        _ = handle.tokenizer
    with pytest.raises(InputError, match="not loaded from a checkpoint with a tokenizer"):
        handle.stop_tokens()

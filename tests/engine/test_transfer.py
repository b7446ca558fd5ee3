"""Models that travel through an object store."""

import jax
import numpy as np
import pytest

ray = pytest.importorskip("ray")

import cola_jax  # noqa: E402
from cola_jax.engine import transfer  # noqa: E402
from cola_jax.engine.transfer import Weights, put_files, write_files  # noqa: E402


@pytest.fixture(autouse=True)
def store(monkeypatch):
    """An object store: a reference is a list of its object."""
    monkeypatch.setattr(ray, "put", lambda value: [value])
    monkeypatch.setattr(ray, "get", lambda reference: reference[0])


def test_files_arrive_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK", 3)
    (tmp_path / "source" / "inner").mkdir(parents=True)
    (tmp_path / "source" / "a").write_bytes(b"12345678")
    (tmp_path / "source" / "inner" / "b").write_bytes(b"")
    write_files(put_files(tmp_path / "source"), tmp_path / "copy")
    assert (tmp_path / "copy" / "a").read_bytes() == b"12345678"
    assert (tmp_path / "copy" / "inner" / "b").read_bytes() == b""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_weights_arrive_as_they_are(tiny_checkpoint, dtype):
    model = cola_jax.load(str(tiny_checkpoint), dtype=dtype)
    changed = model.replace(norm=model.norm * 2)
    arrived = Weights(changed).load(None, str(tiny_checkpoint))
    assert arrived.checkpoint == str(tiny_checkpoint)
    assert jax.tree.structure(arrived) == jax.tree.structure(changed)
    for ours, theirs in zip(jax.tree.leaves(changed), jax.tree.leaves(arrived), strict=True):
        assert (ours.dtype, ours.sharding) == (theirs.dtype, theirs.sharding)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))

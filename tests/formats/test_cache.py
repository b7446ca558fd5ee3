"""Sources that are converted on first use: found again, rebuilt, listed and removed."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.formats import cache, conversion
from tests import tiny


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    conversion.locate_on_hub.cache_clear()
    return tmp_path / "cache" / "models"


@pytest.fixture
def conversions(monkeypatch):
    """The arguments of each conversion."""
    counted = Mock(wraps=cache.convert_opened)
    monkeypatch.setattr(cache, "convert_opened", counted)
    return counted.call_args_list


def test_load_converts_a_directory_once(pair, source, root, conversions):
    model = cola_jax.load(str(source))
    wanted = cola_jax.load(pair("llama-gqa").checkpoint)
    np.testing.assert_array_equal(model.embedding, wanted.embedding)
    assert cola_jax.load(source).config == wanted.config  # a Path
    assert len(conversions) == 1
    assert Path(cache.find(source)).parent == root


def test_find_converts_a_source_again_when_a_file_has_changed(source, conversions):
    first = cache.find(source)
    (source / "notes.txt").write_text("not read")
    assert cache.find(source) == first
    weights = source / "model.safetensors"
    before = weights.stat()
    other = shutil.copy(weights, source / "other")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, weights)  # of the same size, from the same time
    second = cache.find(source)
    assert second != first
    weights.write_bytes(weights.read_bytes())
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.find(source) not in (first, second)
    assert len(conversions) == 3


def test_find_converts_a_hub_id_once_for_each_commit(source, tmp_path, conversions, monkeypatch):
    commits = {"main": "a" * 40, "v2": "b" * 40}

    def download(name, revision, patterns):
        folder = tmp_path / commits.get(revision or "main", revision)
        return folder if folder.exists() else Path(shutil.copytree(source, folder))

    monkeypatch.setattr(conversion, "download_snapshot", download)
    folders = [cache.find(f"some/model{suffix}") for suffix in ("", "@main", "@v2", "")]
    assert folders[0] == folders[1] == folders[3] != folders[2]
    assert len(conversions) == 2


def largest(folder):
    return max((folder / "weights").rglob("*"), key=lambda file: file.stat().st_size)


def test_load_rebuilds_a_damaged_copy(source, conversions, capsys):
    folder = Path(cache.find(source))
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    largest(folder).write_bytes(content)
    assert cola_jax.load(source).config.num_layers
    largest(folder).unlink()
    assert cola_jax.load(source).config.num_layers
    (folder / "cola.json").write_text("{")
    assert cola_jax.load(source).config.num_layers
    assert len(conversions) == 4
    assert capsys.readouterr().err.count(f"the cached model {folder} is made again: ") == 3


def test_a_checkpoint_is_left_where_it_is_even_if_damaged(pair, tmp_path, conversions):
    copy = shutil.copytree(pair("llama-gqa").checkpoint, tmp_path / "copy")
    assert cache.find(str(copy)) == str(copy)
    largest(copy).unlink()
    with pytest.raises(checkpoint.DamagedError, match="is damaged"):
        cola_jax.load(copy)
    assert copy.exists()
    assert conversions == []


def test_find_converts_once_for_two_threads(source, conversions):
    with ThreadPoolExecutor(2) as threads:
        folders = list(threads.map(cache.find, [source] * 2))
    assert len(conversions) == len(set(folders)) == 1


def test_entries_list_what_can_be_removed(source, root):
    folder = Path(cache.find(source))
    (entry,) = cache.cached_models()
    assert (entry.key, entry.source) == (folder.name, str(source.resolve()))
    assert entry.revision is None
    assert entry.bytes == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    (folder / "cola.json").write_text("{")
    (damaged,) = cache.cached_models()
    assert damaged.source == "damaged"
    cache.remove(damaged.key)
    assert list(root.iterdir()) == []


def test_clear_leaves_a_conversion_that_goes_on(root, tmp_path, monkeypatch):
    """As `cola cache --clear` does while another process converts."""
    killed = root / ".2-0123456789abcdef.partial"
    killed.mkdir(parents=True)
    (root / "2-0123456789abcdef.lock").touch()
    save = checkpoint.save

    def cleared(folder, *arguments, **keywords):
        cache.clear()
        return save(folder, *arguments, **keywords)

    monkeypatch.setattr(checkpoint, "save", cleared)
    folder = cache.find(tiny.make_source(tmp_path / "words", layers=1))
    assert not killed.exists()
    assert cola_jax.load_tokenizer(folder)("Hello").input_ids

"""`cola cache`: what it lists and removes."""

import json

import pytest

from cola_jax.cli.main import main
from cola_jax.formats import cache


@pytest.fixture
def kept(source, tmp_path, monkeypatch):
    """Converts a source into a cache of its own; returns its entry."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    cache.find(source)
    return cache.entries()[0]


def test_cache_lists_models(kept, capsys):
    main(["cache"])
    out = capsys.readouterr().out
    for part in (kept.key, kept.source[:20], "float32", f"{kept.bytes / 1e6:,.1f}", ": 1 model, "):
        assert part in out


@pytest.mark.parametrize("name", ["key", "source"])
def test_cache_removes_a_model(kept, capsys, name):
    main(["cache", "--remove", getattr(kept, name)])
    assert "1 model removed" in capsys.readouterr().out
    assert cache.entries() == []


def test_cache_refuses_to_remove_what_it_has_not(kept, capsys):
    with pytest.raises(SystemExit):
        main(["cache", "--remove", kept.key, "another"])
    assert "has no model 'another': `cola cache` lists those" in capsys.readouterr().err
    assert cache.entries() == [kept]


def test_cache_removes_everything(kept, capsys):
    main(["cache", "--clear"])
    main(["cache"])
    assert "0 models, 0.0 MB" in capsys.readouterr().out
    assert list(cache.root().iterdir()) == []


def test_cache_lists_models_as_json(kept, capsys):
    main(["cache", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["directory"] == str(cache.root())
    (model,) = listed["models"]
    assert (model["key"], model["layers"], model["bytes"]) == (kept.key, 6, kept.bytes)

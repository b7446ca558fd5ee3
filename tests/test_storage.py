"""Storage that cannot be used, and links that lead out of a folder."""

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

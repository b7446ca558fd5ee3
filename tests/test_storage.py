"""Files and folders in emulated buckets, and what is refused there."""

import re
from pathlib import Path

import pytest

from cola_jax import files, storage
from cola_jax.errors import InputError


def test_urls_need_their_extra(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    for url, extra in (("gs://bucket/run", "gcs"), (Path("s3://bucket/run"), "s3")):
        with pytest.raises(InputError, match=rf"pip install 'cola-jax\[{extra}\]'"):
            files.check_writable(url)
    with pytest.raises(InputError, match="is in no storage that can be used: gs, s3"):
        files.check_writable("file:///etc")
    assert not storage.is_url("a/s3:/model")


@pytest.mark.slow
def test_storage_holds_whole_files(bucket, tmp_path):
    url = bucket.folder()
    folder = storage.path_of(Path(url))
    assert str(folder) == url
    files.check_writable(url)
    files.check_file(f"{url}/page.html")
    assert not files.exists(url)
    assert files.matching(folder, "*") == []
    for content in (b"old", b"new"):
        files.write_whole(f"{url}/a [1].txt", content)
        files.create_whole(folder / "once", content)
    files.write_whole(folder, b"")  # as consoles mark a folder
    files.write_whole(folder / "sub" / ".hidden", b"")
    assert files.read_bytes(Path(url) / "a [1].txt") == b"new"
    assert files.read_bytes(folder / "once") == b"old"
    assert [file.name for file in files.matching(folder, "*")] == ["a [1].txt", "once", "sub"]
    assert files.written_bytes(url) == 6
    files.remove_files([folder / "once", folder / "missing"])
    with pytest.raises(FileNotFoundError, match=re.escape(url)):
        files.read_bytes(folder / "once")


@pytest.mark.slow
def test_building_uploads_and_download_stays_inside(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    url, progress = bucket.folder(), []
    for name in ("a", "b"):
        with files.building(f"{url}/made") as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / name).write_text(name)
            (partial / "mark").write_text(name)
    with pytest.raises(KeyError), files.building(f"{url}/made"):
        raise KeyError
    with files.building(f"{url}/file", folder=False) as partial:
        partial.write_bytes(b"whole")
    assert files.read_bytes(f"{url}/file") == b"whole"
    assert not list((tmp_path / "cache" / "uploads").iterdir())
    storage.download(f"{url}/made", tmp_path / "copy", lambda *done: progress.append(done))
    assert {file.name for file in (tmp_path / "copy").rglob("*")} == {"sub", "b", "mark"}
    assert progress == [(1, 2), (2, 2)]
    if bucket.scheme == "s3":  # the emulator of GCS refuses such names
        with storage.file_system(url) as (system, path):
            system.pipe_file(f"{path}/made/../../../x", b"")
        with pytest.raises(InputError, match="has a file outside of its folder"):
            storage.download(f"{url}/made", tmp_path / "other", lambda *done: None)


@pytest.mark.slow
def test_storage_that_cannot_be_used_is_named(bucket):
    url = bucket.folder()
    with pytest.raises(InputError, match=r"there is no bucket .*nowhere: create it"):
        files.check_writable(f"{bucket.scheme}://nowhere/run")
    with pytest.raises(TypeError), storage.file_system(url):  # a mistake of ours stays one
        raise TypeError
    with bucket.answering(refused=403):
        for act in (files.check_writable, files.read_bytes, files.exists):
            with pytest.raises(InputError, match=rf"{bucket.scheme}://bucket cannot be used \("):
                act(url)

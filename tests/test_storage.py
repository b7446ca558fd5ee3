"""Files and folders in emulated buckets, and what is refused there."""

import errno
import re
import socket
from pathlib import Path
from typing import Any

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


class Clock:
    """Time that passes in pauses alone."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Storage:
    """Fails until a time, and counts the requests."""

    def __init__(self, clock: Clock, back: float, error: Exception):
        self.clock, self.back, self.error, self.requests = clock, back, error, 0

    def ask(self) -> str:
        self.requests += 1
        if self.clock.now < self.back:
            raise self.error
        return "content"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def patience(clock):
    """Patience with a bucket that has answered before."""
    patience = storage.Patience(lambda: clock.now, clock.sleep)
    patience.request("s3://bucket/a", lambda: None)
    return patience


RESET = ConnectionResetError("reset by peer")


def test_an_outage_of_ten_minutes_is_waited_for(clock, patience, caplog):
    away = Storage(clock, 600, RESET)
    assert patience.request("s3://bucket/b", away.ask) == "content"
    assert clock.pauses[:7] == [0.5, 1, 2, 4, 8, 15, 15]
    assert away.requests == len(clock.pauses) + 1
    began, ended = [record.getMessage() for record in caplog.records]
    assert began == "s3://bucket does not answer (reset by peer: waiting up to 900 s)"
    assert ended.startswith("s3://bucket answers again, after 6")
    with pytest.raises(ConnectionResetError):
        patience.request("s3://bucket/b", Storage(clock, clock.now + 1000, RESET).ask)
    assert sum(clock.pauses) == pytest.approx(1500, abs=30)


def test_an_address_that_never_answered_is_given_up_soon(clock, patience):
    with pytest.raises(ConnectionResetError):
        patience.request("s3://typo/b", Storage(clock, 600, RESET).ask)
    assert 15 <= clock.now <= 30


def http_error(status: int) -> OSError:
    """An error of s3fs with the answer of a server."""
    error: Any = Exception("answer")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
    translated = OSError(errno.EIO, "translated")
    translated.__cause__ = error
    return translated


def test_outages_are_told_from_what_does_not_pass():
    from aiohttp import ServerDisconnectedError
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError
    from gcsfs.retry import HttpError
    from google.auth.exceptions import DefaultCredentialsError, TransportError

    passing = [
        *(http_error(status) for status in (500, 503, 429)),
        *(HttpError({"code": code, "message": "x"}) for code in (502, "503")),
        EndpointConnectionError(endpoint_url="http://x"),
        ServerDisconnectedError(),
        TransportError("x"),
        TimeoutError(),
        socket.gaierror(-3, "no name"),
        OSError(errno.EHOSTUNREACH, "x"),
    ]
    lasting = [
        *(http_error(status) for status in (400, 403, 404, 501)),
        HttpError({"code": 401, "message": "x"}),
        NoCredentialsError(),
        DefaultCredentialsError("x"),
        PermissionError(),
        OSError(errno.ENOSPC, "x"),
        TypeError(),
    ]
    assert [error for error in passing if not storage.is_outage(error)] == []
    assert [error for error in lasting if storage.is_outage(error)] == []


def test_what_is_missing_is_an_answer(clock, patience, caplog):
    missing = Storage(clock, 600, FileNotFoundError())
    for act in (Storage(clock, 600, PermissionError()), missing):
        with pytest.raises(type(act.error)):
            patience.request("s3://bucket/b", act.ask)
        assert act.requests == 1
    with pytest.raises(FileNotFoundError):
        patience.request("gs://new/b", missing.ask)
    assert "gs://new" in patience.answered
    assert not caplog.records


@pytest.mark.slow
def test_a_bucket_that_fails_for_a_while_is_waited_for(bucket, monkeypatch, caplog):
    url, clock = bucket.folder(), Clock()
    files.write_whole(f"{url}/a", b"a")

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        bucket.proxy.refused = 0

    monkeypatch.setattr(storage, "PATIENCE", storage.Patience(lambda: clock.now, sleep))
    with bucket.answering(refused=503):
        assert files.read_bytes(f"{url}/a") == b"a"
    assert clock.pauses == [0.5]
    assert "bucket does not answer" in caplog.text


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
        files.store_of(folder).create(folder / "once", content)
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

"""Places, texts that come from elsewhere, whole writes, and locks."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from etils import epath

from cola_jax import files
from cola_jax.errors import InputError

KILLED = """
import os, pathlib, sys
from cola_jax.files import building
with building(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def test_matching_lists_names_alone(tmp_path):
    folder = epath.Path(tmp_path / "a[b]*")
    assert files.matching(folder, "*.txt") == []
    folder.mkdir()
    for name in ("b.txt", "a.txt", ".a.txt", "a.txt.partial"):
        (folder / name).touch()
    for pattern, names in (("*.txt", ["a.txt", "b.txt"]), (".*.txt", [".a.txt"])):
        assert [file.name for file in files.matching(folder, pattern)] == names


def test_entries_are_those_of_one_listing(tmp_path, monkeypatch):
    assert files.entries(tmp_path / "missing") == {}
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (86400, 86400.5))
    time = datetime.fromtimestamp(86400.5, UTC)
    assert files.entries(tmp_path) == {"a": time}
    entries = [{"name": "b/run/a", "LastModified": time}, {"name": "b/run/c", "mtime": time}]
    storage = SimpleNamespace(ls=lambda path, detail: entries)
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **options: storage)
    assert files.entries("s3://b/run") == {"a": time, "c": time}


def test_check_writable_refuses_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    files.check_file(tmp_path / "file")
    files.check_writable(tmp_path / "missing" / "x")
    with pytest.raises(OSError, match=r"file is not a directory. Give another"):
        files.check_writable(tmp_path / "file" / "below" / "x")
    with pytest.raises(InputError, match="is a directory: give a file"):
        files.check_file(tmp_path)
    monkeypatch.setattr(files.os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(OSError, match="is read-only for you"):
        files.check_writable(tmp_path / "missing" / "x")


def test_check_apart_refuses_inside_and_around(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "source")
    files.check_apart(tmp_path / "source-2", tmp_path / "source")
    for place in ("source", "source/sub", "link/sub", "."):
        with pytest.raises(InputError, match="choose a destination elsewhere"):
            files.check_apart(tmp_path / place, tmp_path / "source")
    with pytest.raises(InputError, match="is inside the source s3://bucket/model"):
        files.check_apart("s3://bucket/model/sub", "s3://bucket/model")
    monkeypatch.chdir(tmp_path)
    files.check_apart("s3://bucket/model", ".")
    files.check_apart(".", "s3://bucket/model")


def test_inside_refuses_links_that_lead_out_of_a_folder(tmp_path):
    folder, blobs = tmp_path / "big" / "run", tmp_path / "models--a--b" / "blobs"
    for made in (folder / "sub", blobs):
        made.mkdir(parents=True)
    (tmp_path / "typed").symlink_to(folder)  # the user's own
    (blobs / "0123").write_text("blob")
    links = {"within": "sub", "blob": blobs / "0123", "out": tmp_path, "up": "../..", "gone": "/x"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    assert files.inside(tmp_path / "typed", "sub", "new") == tmp_path / "typed" / "sub" / "new"
    assert [files.inside(folder, name).name for name in ("within", "blob")] == ["within", "blob"]
    for name in ("out", "up", "gone"):
        with pytest.raises(InputError, match=rf"run/{name} is a link to /.*not in .*copy the file"):
            files.inside(folder, name, "more")
        with pytest.raises(InputError, match="is a link to"):
            files.matching(files.path_of(folder), f"{name}*")
    (folder / "within" / "deep").symlink_to(tmp_path)
    with pytest.raises(InputError, match="within/deep is a link"):
        files.inside(folder, "within", "deep")


def test_read_text_takes_utf_8_with_a_mark(tmp_path):
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbfmine")
    assert files.read_text(tmp_path / "mine.txt") == "mine"
    (tmp_path / "mine.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"mine\.txt cannot be read \('utf-8' codec can't decode"):
        files.read_text(tmp_path / "mine.txt")


def test_only_regular_files_are_read_and_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        for act in (files.read_bytes, lambda place: files.write_whole(place, b"")):
            with pytest.raises(InputError, match="is a directory, pipe or device, not a file"):
                act(place)


def test_parse_object_reads_or_refuses_in_one_line():
    sound = '{"a": [1, 1e300, "é\\n\\ud83d\\ude00"]}'
    assert files.parse_object(b"\xef\xbb\xbf" + sound.encode(), "f") == {"a": [1, 1e300, "é\n😀"]}
    for text in (
        *("", "{} {}", '{"a": 1,\n]', b"\xff\xff", '{"a": NaN}', '["\\ud800"]', "[]"),
        "[" * 100_000,
    ):
        with pytest.raises(InputError, match=r"f\.json:3") as raised:
            files.parse_object(text, "f.json:3")
        assert str(raised.value).isprintable()


def test_parse_yaml_refuses_tags_and_what_is_broken():
    assert files.parse_yaml("a: [1, 0-5, true]", "f") == {"a": [1, "0-5", True]}
    for text in ("a: [", "!!python/name:os.system", "a: !x b", "*a"):
        with pytest.raises(InputError, match=r"f\.yaml cannot be read \("):
            files.parse_yaml(text, "f.yaml")


def test_readable_json_writes_paths_on_one_line():
    value = {"paths": [[0, 1, 1], (), (2,)], "empty": {}, "é\n": [1.5, True, None, {"a": [3, 4]}]}
    text = files.readable_json(value)
    assert "    [0, 1, 1],\n" in text
    assert json.loads(text) == json.loads(json.dumps(value))


def test_write_whole_replaces_a_file(tmp_path):
    before = os.umask(0o027)
    try:
        for content in (b"old", b"new"):
            files.write_whole(tmp_path / "file", content)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_write_whole_leaves_nothing_after_a_failure(tmp_path, monkeypatch):
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(self))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space") as error:
        files.write_whole(tmp_path / "file", b"new")
    assert error.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("folder", [True, False])
def test_building_moves_what_is_complete_alone(tmp_path, folder):
    place = tmp_path / "a" / "made"
    for content in ("old", "new"):
        with files.building(place, folder=folder) as partial:
            assert partial.parent == place.parent
            assert not (os.listdir(partial) if folder else partial.read_bytes())
            (partial / "file" if folder else partial).write_text(content)
            with (  # by another process
                pytest.raises(InputError, match="made is being written by another process: wait"),
                files.building(place, folder=folder),
            ):
                pass
    with pytest.raises(KeyError), files.building(place, folder=folder):
        raise KeyError
    assert (place / "file" if folder else place).read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["made"]
    for nowhere in (tmp_path / "a" / ("made" * 63), Path("/dev/null/made")):
        with (
            pytest.raises(OSError, match=r"File name too long|File exists|Not a directory"),
            files.building(nowhere, folder=folder),
        ):
            pass
    assert os.listdir(tmp_path / "a") == ["made"]


def test_building_removes_what_a_killed_process_left(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "made")], check=False)
    assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
    (tmp_path / ".made.notes.partial").write_text("theirs")
    with files.building(tmp_path / "made"):
        pass
    assert {*os.listdir(tmp_path)} == {"made", ".made.notes.partial"}


def test_building_keeps_the_old_folder_of_a_process_killed_while_it_was_replaced(tmp_path):
    (tmp_path / ".made.old").mkdir()
    (tmp_path / ".made.old" / "file").write_text("old")
    with pytest.raises(KeyError), files.building(tmp_path / "made"):
        raise KeyError
    assert (tmp_path / "made" / "file").read_text() == "old"


def test_programs_are_kept_by_processor_where_the_user_does_not_say(tmp_path, monkeypatch):
    def kept(**chosen: str) -> str:
        monkeypatch.setattr(os, "environ", {"COLA_CACHE": str(tmp_path), **chosen})
        files.keep_programs()
        return os.environ["JAX_COMPILATION_CACHE_DIR"]

    assert kept(JAX_COMPILATION_CACHE_DIR="/elsewhere") == "/elsewhere"
    mine = kept()
    assert mine.startswith(f"{tmp_path}/programs/")
    monkeypatch.setattr("platform.processor", lambda: "another")
    assert kept() != mine
    mine = kept(XDG_CACHE_HOME=str(tmp_path), COLA_CACHE="")
    assert mine.startswith(f"{tmp_path}/cola-jax/programs/")

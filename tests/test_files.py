"""Places, texts that come from elsewhere, whole writes, and locks."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path, PurePath

import pytest
from etils import epath

from cola_jax import checkpoint, files
from cola_jax.errors import InputError
from cola_jax.runs.run import Run

KILLED = """
import os, pathlib, sys
from cola_jax.files import building
with building(pathlib.Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_check_url_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    for url, package in (("gs://bucket/run", "gcsfs"), ("s3://bucket/run", "s3fs")):
        with pytest.raises(InputError, match=f"pip install {package}"):
            files.check_url(url)
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: name)
    files.check_url("gs://bucket/run")
    with pytest.raises(InputError, match="is in no storage that can be used: gs://"):
        files.check_url("file:///etc")


@pytest.mark.parametrize("place", ["s3://bucket/model", Path("s3://bucket/model")])
def test_check_local_refuses_urls(place) -> None:
    with pytest.raises(InputError, match="checkpoints on URLs are not supported yet: use a local"):
        files.check_local(place)
    for local in ("C:/model", "a/s3:/model"):
        files.check_local(local)


def test_matching_lists_names_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a[b]*"
    assert files.matching(epath.Path(folder), "*.txt") == []
    folder.mkdir()
    for name in ("b.txt", "a.txt", ".a.txt", "a.txt.partial"):
        (folder / name).touch()
    for pattern, names in (("*.txt", ["a.txt", "b.txt"]), (".*.txt", [".a.txt"])):
        assert [file.name for file in files.matching(epath.Path(folder), pattern)] == names


def test_check_links_follows_those_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("here")
    (tmp_path / "folder" / "link").symlink_to("file")
    files.check_links(tmp_path / "folder")
    files.check_links(tmp_path / "missing")


@pytest.mark.parametrize("target", ["outside", "file"])
def test_check_links_refuses_those_that_lead_out(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / target).mkdir() if target == "outside" else (tmp_path / target).write_text("mine")
    (folder / "sub" / "link").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="is a symbolic link out of"):
        files.check_links(folder)
    (folder / "sub" / "link").unlink()
    os.mkfifo(folder / "sub" / "pipe")
    with pytest.raises(InputError, match="pipe is a pipe or device: remove it"):
        files.check_links(folder)


def test_check_links_guards_runs_and_checkpoints(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.open({}, {}):
        pass
    (tmp_path / "run" / "starts" / "link").symlink_to(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for entry in tiny_checkpoint.iterdir():
        (copy / entry.name).symlink_to(entry)
    for act in (
        Run(run.directory).manifest,
        lambda: run.open({}, {}).__enter__(),
        lambda: checkpoint.read_metadata(copy),
    ):
        with pytest.raises(InputError, match="is a symbolic link out of"):
            act()


def test_check_writable_refuses_what_is_neither_a_file_nor_a_directory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("nothing")
    for place in (tmp_path / "pipe", "/dev/zero", tmp_path / "loop", tmp_path / "link"):
        with pytest.raises(InputError, match="is a pipe, device or broken link"):
            files.check_writable(place)


def test_check_writable_refuses_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    files.check_file(tmp_path / "file")
    files.check_writable(tmp_path / "missing" / "x")
    with pytest.raises(InputError, match="/ is a directory"):
        files.check_file("/")
    with pytest.raises(OSError, match="file is not a directory"):
        files.check_writable(tmp_path / "file" / "below" / "x")
    with pytest.raises(InputError, match="is a directory: give a file"):
        files.check_file(tmp_path)
    monkeypatch.setattr(files.os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(OSError, match="is read-only for you"):
        files.check_writable(tmp_path / "missing" / "x")


def test_check_apart_refuses_inside_and_around(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "source")
    files.check_apart(tmp_path / "source-2", tmp_path / "source")
    for place in ("source", "source/sub", "link/sub", "."):
        with pytest.raises(InputError, match="choose a destination elsewhere"):
            files.check_apart(tmp_path / place, tmp_path / "source")


def test_read_text_takes_utf_8_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbfmine")
    assert files.read_text(tmp_path / "mine.txt") == "mine"
    (tmp_path / "mine.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"mine\.txt cannot be read \('utf-8' codec can't decode"):
        files.read_text(tmp_path / "mine.txt")
    with pytest.raises(FileNotFoundError):
        files.read_text(tmp_path / "missing")


def test_read_bytes_refuses_what_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="is a directory, pipe or device, not a file"):
            files.read_bytes(place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1] [2]", "Extra data"),
        ('{"a": 1,\n]', "line 2"),
        (b"\xff\xff", "codec can't decode"),
        ('{"a": NaN}', "NaN is not a number that JSON has: write null"),
        ("-Infinity", "-Infinity is not a number"),
        ("9" * 5000, "Exceeds the limit"),
        ('["\\ud800"]', "surrogates not allowed"),
        pytest.param("[" * 100_000, "recursion", id="deep"),
    ],
)
def test_parse_json_refuses(text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        files.parse_json(text, "f.json:3")
    assert "f.json:3" in str(raised.value)
    assert str(raised.value).isprintable()


def test_parse_json_reads_values() -> None:
    assert files.parse_json('{"a": [1, "é\\n\\ud83d\\ude00"]}', "f") == {"a": [1, "é\n😀"]}
    assert files.parse_object(b"\xef\xbb\xbf{}", "f") == {}
    with pytest.raises(InputError, match=r"f: a JSON object belongs here, not \[\]"):
        files.parse_object("[]", "f")


@pytest.mark.parametrize("text", ["a: [", "!!python/name:os.system", "a: !x b", "*a", "- a\nb: c"])
def test_parse_yaml_refuses(text: str) -> None:
    assert files.parse_yaml("a: [1, 0-5, true]", "f") == {"a": [1, "0-5", True]}
    with pytest.raises(InputError, match=r"f\.yaml cannot be read \("):
        files.parse_yaml(text, "f.yaml")


def test_readable_json_writes_paths_on_one_line() -> None:
    value = {"paths": [[0, 1, 1], (), (2,)], "empty": {}, "é\n": [1.5, True, None, {"a": [3, 4]}]}
    text = files.readable_json(value)
    assert "    [0, 1, 1],\n" in text
    assert json.loads(text) == json.loads(json.dumps(value))
    assert files.readable_json({"at": PurePath("a")}, default=str) == '{\n  "at": "a"\n}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.readable_json([{"a": math.nan}], allow_nan=False)


def test_write_whole_replaces_a_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for content in (b"old", b"new"):
            files.write_whole(tmp_path / "file", content)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_write_whole_leaves_nothing_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(self))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space") as raised:
        files.write_whole(tmp_path / "file", b"new")
    assert raised.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_write_whole_follows_no_planted_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").write_text("mine")
    files.write_whole(tmp_path / "page", b"page")
    (tmp_path / ".page.known.partial").symlink_to("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "known")
    with pytest.raises(FileExistsError):
        files.write_whole(tmp_path / "page", b"other")
    with (
        pytest.raises(FileExistsError),
        files.building(tmp_path / "page", folder=False),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "page").read_bytes() == b"page"


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_write_whole_refuses_to_replace_others(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").mkdir() if kind == "folder" else os.mkfifo(tmp_path / "x")
    with pytest.raises(InputError, match="is a directory, pipe or device, not a file"):
        files.write_whole(tmp_path / "x", b"")


FOLDER_OR_FILE = pytest.mark.parametrize("folder", [True, False])


@FOLDER_OR_FILE
def test_building_moves_what_is_complete(tmp_path: Path, folder: bool) -> None:
    place = tmp_path / "a" / "made"
    for content in ("old", "new"):
        with files.building(place, folder=folder) as partial:
            assert partial.parent == place.parent
            assert not (os.listdir(partial) if folder else partial.read_bytes())
            (partial / "file" if folder else partial).write_text(content)
    assert (place / "file" if folder else place).read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["made"]


@FOLDER_OR_FILE
def test_building_leaves_nothing_after_an_error(tmp_path: Path, folder: bool) -> None:
    with pytest.raises(KeyError), files.building(tmp_path / "a" / "made", folder=folder):
        raise KeyError
    assert not os.listdir(tmp_path)
    with (
        pytest.raises(OSError, match="File name too long"),
        files.building(tmp_path / "a" / ("made" * 63), folder=folder),
    ):
        pass
    assert not os.listdir(tmp_path)


@FOLDER_OR_FILE
def test_building_is_of_one_process_at_a_time(tmp_path: Path, folder: bool) -> None:
    with files.building(tmp_path / "made") as partial:
        with (
            pytest.raises(InputError, match="made is being written by another process: wait"),
            files.building(tmp_path / "made", folder=folder),
        ):
            pass
        assert partial.exists()
    assert os.listdir(tmp_path) == ["made"]


def test_building_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "made")], check=False)
    assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
    (tmp_path / ".made.notes.partial").write_text("theirs")
    with files.building(tmp_path / "made"):
        pass
    assert {*os.listdir(tmp_path)} == {"made", ".made.notes.partial"}


@FOLDER_OR_FILE
def test_building_needs_a_folder(tmp_path: Path, folder: bool) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"File exists|Not a directory"),
        files.building(tmp_path / "file" / "made", folder=folder),
    ):
        pass


def test_hold_says_that_another_holds_it(tmp_path: Path) -> None:
    with files.hold(tmp_path / "lock"), pytest.raises(InputError, match="busy here"):
        files.hold(tmp_path / "lock", "busy here")
    with files.hold(tmp_path / "lock", "busy here"):
        pass


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    assert files.cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("COLA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_directory() == tmp_path / "xdg" / "cola-jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_directory() == tmp_path / ".cache" / "cola-jax"


@pytest.mark.parametrize("chosen", [None, "/elsewhere"])
def test_keep_programs_where_the_user_does_not_say(tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(os, "environ", {"COLA_CACHE": str(tmp_path)})
    if chosen:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = chosen
    files.keep_programs()
    kept = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert kept == chosen if chosen else kept.startswith(f"{tmp_path}/programs/")


def test_programs_directory_is_of_one_kind_of_processor(monkeypatch):
    here = files.programs_directory()
    monkeypatch.setattr("platform.processor", lambda: "another")
    assert files.programs_directory() != here
    assert files.programs_directory().parent == here.parent

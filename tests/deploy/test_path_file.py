"""Files of a path: read by each of their names, and checked field by field."""

import json

import pytest
from huggingface_hub import constants

from cola_jax.deploy.effect import ReportedEffect
from cola_jax.deploy.path_file import PATH_FILE, PathFile, find_path_file, read_path
from cola_jax.errors import InputError
from cola_jax.formats.identity import Identity
from cola_jax.path import parse_path
from cola_jax.runs.estimates import Estimate
from tests.formats.hub_server import COMMIT

MODEL = Identity("ab" * 32, "someone/tiny", "someone/tiny", COMMIT, "float32")
EFFECT = ReportedEffect(
    task="arc-easy",
    prompts=8,
    before=Estimate("correct", "the model", 0.5, n=9),
    after=Estimate("correct", "0-1,3-4", 0.6, n=9),
    change=Estimate("change", "0-1,3-4", 0.1, "points", -0.1, 0.3, n=9, note="better"),
    sentence="0-1,3-4 is better.",
    facts={"hash": "0123456789abcdef", "earlier tries": "none"},
)
FIELDS = {
    "path": "0-1,3-4",
    "layers": 4,
    "num_layers": 5,
    "model": MODEL.digest,
    "model_name": "someone/tiny",
    "model_dtype": "float32",
    "base": {"hub_id": "someone/tiny", "revision": COMMIT},
    "task": "arc-easy",
    "wordings": [{"key": "834f684528b1", "format": "plain", "shots": 0, "chat": False}],
    "budget": {"generations": 30, "max_cost": "80%"},
    "chosen_on": {"questions": "00c4dc0b9e19", "wordings": "834f684528b1", "complete": True},
    "effects": [EFFECT.to_json()],
    "commands": {"vllm": "vllm serve someone/tiny"},
}


def write(folder, **changes):
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / PATH_FILE
    file.write_text(json.dumps(FIELDS | changes))
    return file


def test_path_file_reads_what_it_writes(tmp_path):
    written = PathFile.of(FIELDS, "here")
    written.write(tmp_path)
    assert json.loads((tmp_path / PATH_FILE).read_text()) == FIELDS
    read = PathFile.read(tmp_path / PATH_FILE)
    assert read == written
    assert read.effects == [EFFECT]
    assert read.chosen is not None
    assert read.chosen.questions == {"00c4dc0b9e19"}
    assert "found for the task arc-easy; on arc-easy: 0-1,3-4 is better." in read.describe()
    assert "\\x1b[2J" in PathFile(path="0", task="a\x1b[2J").describe()  # a stranger's text
    assert PathFile(path="0", effects=[EFFECT] * 9).describe().endswith("is better. and 5 more")


def test_read_path_takes_a_file_its_folder_and_a_repository(tmp_path, hub):
    file = write(tmp_path / "me" / "found")
    hub.repositories["models/me/tiny"][PATH_FILE] = file.read_bytes()
    hub.repositories["models/me/model"]["config.json"] = b"{}"
    for name in (file, file.parent, "me/tiny", "me/tiny@main", f"me/tiny@{COMMIT}"):
        assert read_path(str(name), 5, MODEL) == (0, 1, 3, 4)
    with pytest.raises(InputError, match=r"me/tiny@v2: .*|me/tiny has no revision 'v2' on the Hub"):
        read_path("me/tiny@v2", 5, MODEL)
    with pytest.raises(InputError, match=r"me/other is neither on the Hub nor a file or directory"):
        read_path("me/other", 5, MODEL)
    for name in ("me/model", "ä/ü", "me/ü"):  # the Hub has no such names
        with pytest.raises(
            InputError, match=rf"^{name} names no path: a path is a text such as 0-"
        ):
            read_path(name, 5, MODEL)
    with pytest.raises(InputError, match=r"names no path: .*a folder with a path\.json"):
        read_path(str(tmp_path), 5, MODEL)


def test_find_path_file_prefers_local_places_and_never_asks_the_hub_about_a_path(
    tmp_path, monkeypatch, hub
):
    file = write(tmp_path / "me" / "tiny")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "0-5,7")  # a folder of this name is not asked about either
    assert str(find_path_file(write(tmp_path / "x-1").parent.name)) == "x-1/path.json"
    assert str(find_path_file("me/tiny")) == "me/tiny/path.json"
    assert find_path_file(str(tmp_path)) is None
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"path\.json is a link to /etc/hostname"):
        find_path_file("me/tiny")
    hub.shutdown()
    for text in (
        "0-5,7a,(8-9)*0.5x2",
        "0-5,7",
        "0-5, 7",
        "7",
        "0-5,(6-7)x2,8",
        "",
        " ",
        "dropped:/tmp/x",
        "0-5/../../a",
    ):
        assert find_path_file(text) is None


def test_a_folder_with_the_name_of_a_path_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "3a")
    assert read_path("3a", 5) == parse_path("3a", 5)
    assert "3a is read as a path: for the folder of this name, give ./3a" in caplog.text
    assert read_path("./3a", 5) == (0, 1, 3, 4)


def test_read_path_asks_the_cache_where_the_hub_is_away(tmp_path, hub, monkeypatch):
    hub.repositories["models/me/tiny"][PATH_FILE] = write(tmp_path).read_bytes()
    assert read_path("me/tiny", 5) == (0, 1, 3, 4)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_path("me/tiny", 5) == (0, 1, 3, 4)
    with pytest.raises(InputError, match=r"me/new \(revision main\) is not a file or directory"):
        read_path("me/new", 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, r"has no path: the field path must be a text such as 0-5,7-29, it is N"),
        ({"path": "0-1,3-5"}, r"names layer 5, but the model has layers 0\.\.4"),
        ({"path": "(0-4)x3"}, r"has more than 10 steps"),
        ({"path": "0-1", "layers": 3}, r"it states 3 layers, but its path runs 2: it was changed"),
        ({"path": "0,1a", "layers": None, "steps": 3}, r"it states 3 steps, but its path runs 2"),
        ({"layers": 0}, r"layers: Input should be greater than or equal to 1"),
        ({"layers": True}, r"layers: Input should be a valid integer, got True\)\. Give a file as"),
        ({"layers": 10**400}, r"layers: Input should be less than or equal to 1000000, got 1000"),
        ({"task": "x" * 2000}, r"task: String should have at most 1000 characters"),
        ({"budget": dict.fromkeys(map(str, range(101)), 1)}, r"budget: .* at most 100 items"),
        ({"wordings": [{}] * 10_001}, r"wordings: List should have at most 10000 items"),
        ({"num_layers": 6}, r"its path is of a model of 6 layers, but the model has 5"),
        ({"model": "cd" * 32}, r"has paths of another model \(someone/tiny, digest cdcdcd"),
        ({"model": 5}, r"model: Input should be a valid string"),
        ({"base": {"hub_id": "../up"}}, r"base\.hub_id: String should match pattern"),
        ({"base": {"hub_id": "a/b; rm"}}, r"base\.hub_id: String should match pattern"),
        ({"chosen_on": {"questions": ["a"]}}, r"chosen_on\.questions: Input should be a valid str"),
        ({"wordings": [{"shots": []}]}, r"wordings\.0\.shots"),
        ({"effects": [{"task": "x"}]}, r"effects\.0\.prompts: "),
        ({"commands": {"vllm": ["rm"]}}, r"commands\.vllm: Input should be a valid string"),
    ],
)
def test_read_path_refuses_fields_of_strangers(tmp_path, changes, message):
    file = write(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as raised:
        read_path(str(tmp_path), 5, MODEL)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert str(file.parent) in str(raised.value)


def test_read_path_refuses_broken_files_and_longer_paths_than_allowed(tmp_path):
    file = write(tmp_path)
    with pytest.raises(InputError, match=r"has more than 3 steps"):
        read_path(str(file), 5, MODEL, max_length=3)
    file.write_text('{"path": "0-1"')
    with pytest.raises(InputError, match=r"path\.json cannot be read"):
        read_path(str(file), 5, MODEL)
    with pytest.raises(FileNotFoundError):
        read_path(str(tmp_path / "none.json"), 5, MODEL)


def test_read_path_reads_what_static_writes(tmp_path, caplog):
    file = tmp_path / "static.json"
    file.write_text(json.dumps({"path": "0-1,3-4", "length": 4, "found": "0-1,3-4"}))
    assert read_path(str(file), 5) == read_path("0-1,3-4", 5) == (0, 1, 3, 4)
    assert not any(record.levelname == "WARNING" for record in caplog.records)
    file.write_text(json.dumps({"path": "0-4", "found": "0-1,3-4"}))
    assert read_path(str(file), 5) == (0, 1, 2, 3, 4)
    assert "the path 0-4, which is used: to use the one that was found, give 0-1,3-4" in caplog.text
    file.write_text(json.dumps({"path": "0-1,3-4"}))  # of earlier versions
    with pytest.raises(InputError, match="names layer 4, but the model has layers"):
        read_path(str(file), 4)
    file.write_text("{}")
    with pytest.raises(InputError, match="has no path"):
        read_path(str(file), 5)

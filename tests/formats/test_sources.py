"""Sources: files, folders and Hub ids, online, offline and unreachable. Nothing asks the Hub."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from cola_jax.formats.conversion import convert
from cola_jax.formats.sources import locate, locate_on_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture
def hub(source, tmp_path, monkeypatch):
    """Make a cache as `snapshot_download` leaves it, with one model; the Hub is offline."""
    locate_on_hub.cache_clear()
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    shutil.move(source, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


@pytest.fixture
def answer(monkeypatch):
    """Return a function that sets the Hub's answer: a commit, or an error."""

    def set_answer(reply):
        def model_info(self, *arguments, **options):
            if isinstance(reply, Exception):
                raise reply
            return SimpleNamespace(sha=reply)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return set_answer


def refusal(kind):
    """Make an error as the Hub's client raises it."""
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("not here\nRequest ID: 1", response=response)


def test_convert_records_the_commit_of_a_hub_id(pair, hub, tmp_path):
    metadata = convert("someone/tiny@main", tmp_path / "made")
    origin = {"kind": "hub", "name": "someone/tiny", "revision": COMMIT, "license": None}
    assert metadata["origin"] == origin
    plain = json.loads((pair("llama-gqa").checkpoint / "cola.json").read_text())
    assert metadata["digest"] == plain["digest"]
    with pytest.raises(ValueError, match=r"names a revision, and --revision v1 another"):
        convert("someone/tiny@main", tmp_path / "again", revision="v1")


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_locate_asks_the_cache_offline(hub, revision):
    located = locate("someone/tiny", revision)
    assert located.key == f"someone/tiny@{COMMIT}"
    origin = {"kind": "hub", "name": "someone/tiny", "revision": COMMIT, "license": None}
    assert located.open().origin == origin


def test_locate_asks_the_hub_first(hub, answer):
    (hub / "snapshots" / OTHER).mkdir()
    answer(OTHER)
    located = locate("someone/tiny")
    assert located.key == f"someone/tiny@{OTHER}"
    with pytest.raises(ValueError, match=r"config\.json of someone/tiny: .* is not a model"):
        located.open()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(errors.RepositoryNotFoundError), r"a/b is neither on the Hub nor a file or dir"),
        (refusal(errors.GatedRepoError), r"a/b is gated: accept its terms at https://hugging"),
        (refusal(errors.RevisionNotFoundError), r"a/b has no revision 'v9' on the Hub: give a"),
        (ConnectionError("no route\nto host"), r"a/b \(revision v9\) .* the Hub \(no route\)"),
        (refusal(errors.HfHubHTTPError), r"could not be downloaded from the Hub \(.*not here"),
    ],
    ids=["unknown", "gated", "revision", "unreachable", "broken"],
)
def test_locate_says_what_is_wrong_in_one_line(hub, answer, error, message):
    answer(error)
    with pytest.raises(ValueError, match=message) as raised:
        locate("a/b", "v9")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["someone/other", "someone/tiny@v2", f"someone/tiny@{OTHER}"])
def test_locate_says_that_it_is_offline(hub, name):
    with pytest.raises(ValueError, match=r"not a file or directory here, .*HF_HUB_OFFLINE"):
        locate(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/modle", r"is not a model: no such .*\(did you mean .*/model\?\), and it is not"),
        ("{}/model.guf", r"is not a model: .*did you mean .*/model\.gguf\?"),
        ("{}/modl.gguf", r"does not exist \(did you mean .*/model\.gguf\?\)\."),
        ("a b", r"a b is not a model: no such directory or \.gguf file, and it is not a Hub"),
        ("a/b/c", r"it is not a Hub id like"),
        ("../up", r"it is not a Hub id like"),
    ],
)
def test_locate_refuses_other_names(tmp_path, name, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        locate(name.format(tmp_path))

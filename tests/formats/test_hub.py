"""Hub ids: which commit they mean, online, offline and unreachable. No test asks the real Hub."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from cola_jax.formats.conversion import convert
from cola_jax.formats.hub import HubModel, open_hub, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture
def hub(source, tmp_path, monkeypatch):
    """Makes a cache as `snapshot_download` leaves it, with one model; the Hub is offline."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    shutil.move(source, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


@pytest.fixture
def answer(monkeypatch):
    """Returns a function that sets what the Hub answers: a commit, or an error."""

    def set_answer(given):
        def model_info(self, name, *, revision, timeout):
            assert timeout <= 5
            if isinstance(given, Exception):
                raise given
            return SimpleNamespace(sha=given)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return set_answer


def refusal(kind):
    """Makes an error as the Hub's client raises it."""
    return kind("not here\nRequest ID: 1", response=SimpleNamespace(headers={}, request=None))


def test_convert_records_the_commit_of_a_hub_id(pair, hub, tmp_path):
    metadata = convert("someone/tiny@main", tmp_path / "made")
    assert metadata["origin"] == {"kind": "hub", "name": "someone/tiny", "revision": COMMIT}
    here = json.loads((pair("llama-gqa").checkpoint / "cola.json").read_text())
    assert metadata["digest"] == here["digest"]
    with pytest.raises(ValueError, match=r"names a revision, and --revision v1 another"):
        convert("someone/tiny@main", tmp_path / "again", revision="v1")


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_resolve_asks_the_cache_offline(hub, revision):
    model = resolve("someone/tiny", revision)
    assert model == HubModel("someone/tiny", COMMIT)
    assert open_hub(model).origin == {"kind": "hub", "name": "someone/tiny", "revision": COMMIT}


def test_resolve_asks_the_hub_first(hub, answer):
    answer(OTHER)
    assert resolve("someone/tiny", None).commit == OTHER
    answer(None)
    with pytest.raises(ValueError, match=r"names no commit of someone/tiny"):
        resolve("someone/tiny", None)


def test_resolve_asks_the_cache_where_the_hub_cannot_be_reached(hub, answer):
    answer(TimeoutError("timed out"))
    assert resolve("someone/tiny", None).commit == COMMIT


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(errors.RepositoryNotFoundError), r"no model 'a/b' on the Hub, and no such file"),
        (refusal(errors.GatedRepoError), r"a/b is gated: accept its terms at https://hugging"),
        (refusal(errors.RevisionNotFoundError), r"a/b has no revision 'v9' on the Hub: give a"),
        (errors.HFValidationError("bad id"), r"a/b is not a model of the Hub: bad id"),
        (ConnectionError("no route\nto host"), r"Hub cannot be reached \(no route\), and its"),
        (refusal(errors.HfHubHTTPError), r"Hub cannot be reached \(not here\), and its cache has"),
    ],
    ids=["unknown", "gated", "revision", "invalid", "unreachable", "broken"],
)
def test_resolve_says_what_is_wrong_in_one_line(hub, answer, monkeypatch, error, message):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    answer(error)
    with pytest.raises(ValueError, match=message) as raised:
        resolve("a/b", "v9")
    assert "\n" not in str(raised.value)


def test_resolve_says_that_it_is_offline(hub):
    with pytest.raises(ValueError, match=r"no file or directory 'a/b' here, HF_HUB_OFFLINE is set"):
        resolve("a/b", None)
    with pytest.raises(ValueError, match=r"has no such model at revision v2"):
        resolve("someone/tiny", "v2")
    with pytest.raises(ValueError, match=r"neither an existing directory, nor a \.gguf file"):
        resolve("some where", None)


def test_open_hub_refuses_what_it_cannot_download(hub):
    with pytest.raises(ValueError, match=r"someone/tiny \(commit ffffffffffff\) could not be down"):
        open_hub(HubModel("someone/tiny", OTHER))

"""Conversion: dtypes, metadata, whole destinations, and sources on the Hub, which is not asked."""

import json
import re
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

import cola_jax
from cola_jax.errors import InputError
from cola_jax.formats.conversion import convert, locate, locate_on_hub
from tests import tiny

WEIGHTS = "model.safetensors"


def contents(folder):
    """Return the bytes of every file in a folder, by relative path."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def save(tensors, folder):
    """Replace the weights of a source; return the file's bytes."""
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return (folder / WEIGHTS).read_bytes()


def digest_of(folder):
    return json.loads((folder / "cola.json").read_text())["digest"]


def test_convert_returns_the_written_metadata(pair, source, tmp_path):
    metadata = convert(str(source), tmp_path / "made")
    written = json.loads((tmp_path / "made" / "cola.json").read_text())
    assert written == json.loads(json.dumps(metadata))
    origin = {"kind": "directory", "name": str(source), "revision": None, "license": None}
    assert (metadata["origin"], metadata["dtype"]) == (origin, "float32")
    assert re.fullmatch(r"[0-9a-f]{64}", metadata["digest"])
    assert digest_of(pair("llama-gqa").checkpoint) == metadata["digest"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_convert_rounds_as_torch_does(source, tmp_path, dtype):
    assert convert(str(source), tmp_path / "made", dtype=dtype)["dtype"] == dtype
    model = cola_jax.load(tmp_path / "made")
    assert model.embedding.dtype == jnp.dtype(dtype)
    theirs = load_file(source / WEIGHTS)
    for ours, name in (
        (model.layers[0].down[3].T, "model.layers.3.mlp.down_proj.weight"),
        (model.embedding, "model.embed_tokens.weight"),
    ):
        rounded = theirs[name].to(getattr(torch, dtype)).float().numpy()
        np.testing.assert_array_equal(np.asarray(ours, np.float32), rounded)


def test_convert_keeps_the_dtype_of_the_source(source, tmp_path):
    tensors = {name: x.bfloat16() for name, x in load_file(source / WEIGHTS).items()}
    save(tensors, source)
    calls = []
    metadata = convert(str(source), tmp_path / "made", on_progress=lambda *call: calls.append(call))
    assert metadata["dtype"] == "bfloat16"
    total = 2 * sum(tensor.numel() for tensor in tensors.values())
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert len(calls) > 6
    norm = np.asarray(cola_jax.load(tmp_path / "made").norm, np.float32)
    np.testing.assert_array_equal(norm, tensors["model.norm.weight"].float().numpy())


@pytest.mark.parametrize("checkpoint", [False, True])
def test_convert_replaces_nothing_but_a_checkpoint(source, tmp_path, checkpoint):
    made = tmp_path / "made"
    if checkpoint:
        convert(str(source), made)
    made.mkdir(exist_ok=True)
    (made / "thesis.txt").write_text("years of work")
    (tmp_path / "cola.json").write_text("{}")  # as an older checkpoint has, which would go
    before = contents(tmp_path)
    for place, overwrite, message in (
        (made, False, "made exists already: pass --overwrite to replace it"),
        (made, True, r"holds thesis\.txt, which is not of a checkpoint"),
        (tmp_path, True, "choose a destination elsewhere"),  # around the source
    ):
        with pytest.raises(ValueError, match=message):
            convert(str(source), place, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_failed_convert_leaves_everything_unchanged(source, tmp_path, monkeypatch):
    made = tmp_path / "made"
    first = convert(str(source), made)
    assert convert(str(source), made, dtype="bfloat16", overwrite=True)["digest"] != first["digest"]
    before, rename = contents(tmp_path), Path.rename

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".partial"):
            raise OSError("disk on fire")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_for_the_new_one)
        with pytest.raises(OSError, match="disk on fire"):
            convert(str(source), made, overwrite=True)
    assert contents(tmp_path) == before
    tensors = load_file(source / WEIGHTS)
    tensors["model.layers.5.mlp.down_proj.weight"][3, 4] = float("nan")  # found halfway through
    tensors["model.norm.weight"][0] = 1e5
    before["source/model.safetensors"] = save(tensors, source)
    for place in (made, tmp_path / "other"):
        with pytest.raises(ValueError, match=r"layers\.5\.mlp\.down_proj\.weight.*not finite"):
            convert(str(source), place, overwrite=True)
    with pytest.raises(ValueError, match=r"norm\.weight.*not finite in float16.*another --dt"):
        convert(str(source), made, dtype="float16", overwrite=True)
    assert contents(tmp_path) == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "made"}


def test_convert_refuses_invalid_arguments(source, tmp_path):
    for place, made, settings, message in (
        (source, "made", {"dtype": "int4"}, "dtype 'int4' is not one of float32, bfloat16"),
        (source, "made", {"revision": "main"}, "--revision is for Hub ids"),
        ("s3://bucket/model", "made", {}, "is a URL, not a local path: copy it"),
    ):
        with pytest.raises(InputError, match=message):
            convert(str(place), tmp_path / made, **settings)
    assert {entry.name for entry in tmp_path.iterdir()} == {"source"}


def test_convert_raises_os_error_where_weights_cannot_be_written(source, tmp_path, capfd):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, before[1]))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large"):
            convert(str(source), tmp_path / "made")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {entry.name for entry in tmp_path.iterdir()} == {"source"}
    assert not capfd.readouterr().err  # Orbax logs the error as well


def test_digest_depends_on_the_weights_alone(pair, source, tmp_path):
    """A single changed bit shows; other file names do not."""
    (source / WEIGHTS).unlink()
    pair("llama-gqa").theirs.save_pretrained(source, max_shard_size="40KB")
    shards = list(source.glob("*.safetensors"))
    assert len(shards) > 2
    original = digest_of(pair("llama-gqa").checkpoint)
    assert convert(str(source), tmp_path / "shards")["digest"] == original
    tensors = {k: v for f in shards for k, v in load_file(f).items()}
    shards[0].unlink()
    with pytest.raises(ValueError, match=r"lacks model-00.*complete the download"):
        locate(str(source)).open()
    (source / "model.safetensors.index.json").unlink()
    tensors["model.norm.weight"][:1].mul_(1 + 2**-22)
    save(tensors, source)
    assert convert(str(source), tmp_path / "changed")["digest"] != original


@pytest.mark.parametrize("token", [None, "</s>", "<pad>"])
def test_convert_copies_the_tokenizer_and_its_padding_token(tmp_path, token):
    source, words = tiny.make_source(tmp_path / "source", layers=1), tiny.tokenizer()
    if token is not None:
        words.add_special_tokens({"pad_token": token})
    words.save_pretrained(source)
    (source / "secret.txt").write_text("not ours")
    assert words.pad_token_id == {None: None, "</s>": 1, "<pad>": len(words) - 1}[token]
    assert convert(str(source), tmp_path / "made")["pad_token"] == words.pad_token_id
    assert cola_jax.load(tmp_path / "made").pad_token == words.pad_token_id
    copied = cola_jax.load_tokenizer(tmp_path / "made")
    assert copied("iron ore").input_ids == words("iron ore").input_ids
    chat = [{"role": "user", "content": "ab"}]
    assert copied.apply_chat_template(chat, tokenize=False) == "<s>user: ab\n"
    assert not list((tmp_path / "made").rglob("secret.txt"))


def test_convert_tries_the_tokenizer(source, tmp_path):
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the tokenizer of .* cannot be read"):
        convert(str(source), tmp_path / "made")
    tiny.tokenizer().save_pretrained(source)
    with pytest.raises(ValueError, match=r"the tokenizer of another model.*model embeds 97\."):
        convert(str(source), tmp_path / "made")
    assert not (tmp_path / "made").exists()


COMMIT, OTHER = "e" * 40, "f" * 40


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


def refusal(kind):
    """Make an error as the Hub's client raises it."""
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("not here\nRequest ID: 1", response=response)


def test_convert_records_the_commit_of_a_hub_id_offline(pair, hub, tmp_path):
    metadata = convert("someone/tiny@main", tmp_path / "made")
    origin = {"kind": "hub", "name": "someone/tiny", "revision": COMMIT, "license": None}
    assert metadata["origin"] == origin
    assert metadata["digest"] == digest_of(pair("llama-gqa").checkpoint)
    for revision in (None, COMMIT):
        assert locate("someone/tiny", revision).key == f"someone/tiny@{COMMIT}"
    with pytest.raises(ValueError, match=r"names a revision, and --revision v1 another"):
        convert("someone/tiny@main", tmp_path / "again", revision="v1")


def test_locate_asks_the_hub_first(hub, monkeypatch):
    (hub / "snapshots" / OTHER).mkdir()
    answer = Mock(return_value=SimpleNamespace(sha=OTHER))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    located = locate("someone/tiny")
    assert located.key == f"someone/tiny@{OTHER}"
    with pytest.raises(ValueError, match=r"config\.json of someone/tiny: .* is not a model"):
        located.open()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a/b", refusal(errors.RepositoryNotFoundError), "a/b is neither on the Hub nor a file or"),
        ("a/b", refusal(errors.GatedRepoError), r"is gated: accept its terms at https://hugging"),
        ("a/b@v9", refusal(errors.RevisionNotFoundError), "a/b has no revision 'v9' on the Hub: g"),
        ("a/b@v9", ConnectionError("no\nhost"), r"a/b \(revision v9\) .* the Hub \(no\)"),
        ("someone/other", None, r"not a file or directory here, .*HF_HUB_OFFLINE"),
        ("someone/tiny@v2", None, r"not a file or directory here, .*HF_HUB_OFFLINE"),
        ("{}/modle", None, r"is not a model: no such .*\(did you mean .*/model\?\), and it is not"),
        ("{}/modl.gguf", None, r"does not exist \(did you mean .*/model\.gguf\?\)\."),
        ("a/b/c", None, r"it is not a Hub id like"),
        ("../up", None, r"it is not a Hub id like"),
    ],
)
def test_locate_says_what_is_wrong_in_one_line(hub, tmp_path, monkeypatch, name, error, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"")
    if error is not None:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", Mock(side_effect=error))
    with pytest.raises(ValueError, match=message) as raised:
        locate(name.format(tmp_path))
    assert "\n" not in str(raised.value)

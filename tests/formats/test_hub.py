"""Uploads to a server that answers as the Hub does."""

import huggingface_hub
import pytest

from cola_jax.errors import InputError
from cola_jax.formats.hub import check_push, push


def test_push_replaces_the_weights_of_an_earlier_upload(hub, tmp_path, monkeypatch):
    for name in ("config.json", "model-00001.safetensors", ".eval_results/gsm8k.yaml", "failed/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    check_push(tmp_path, "me/tiny")
    assert push(tmp_path, "me/tiny", "model").endswith("/me/tiny")
    files = hub.repositories["models/me/tiny"]
    assert sorted(files) == [".eval_results/gsm8k.yaml", "config.json", "model-00001.safetensors"]
    assert "private" not in str(hub.created[0])
    for name in ("path.json", "adapter_config.json"):  # of exports in other formats
        files[name] = b"{}"
    (tmp_path / "model-00001.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    push(tmp_path, "me/tiny", "model", private=True)
    assert sorted(files) == [".eval_results/gsm8k.yaml", "config.json", "model.safetensors"]
    assert "private" in str(hub.created[1])
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match=r"could not be uploaded to me/tiny .*--repo-type model"):
        push(tmp_path, "me/tiny", "model")


def test_check_push_refuses_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="needs a token of the Hub"):
        check_push(tmp_path, "me/tiny")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    with pytest.raises(InputError, match="'me/a/b' is not the name of a repository"):
        check_push(tmp_path, "me/a/b")
    with pytest.raises(InputError, match="gs://a/b is a URL, not a local path"):
        check_push("gs://a/b", "me/tiny")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "key").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"sub/key is a link to /etc/hostname"):
        check_push(tmp_path, "me/tiny")

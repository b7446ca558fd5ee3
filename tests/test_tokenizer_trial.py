"""Broken tokenizers and chat templates, each refused in one line."""

import json
from pathlib import Path

import pytest

from cola_jax import template_worker, tokenizer_trial
from cola_jax.tokenizer_trial import check_template, load_folder, try_tokenizer
from tests import tiny

CONFIG, FAST = "tokenizer_config.json", "tokenizer.json"


@pytest.fixture
def folder(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def edit(file, **changes):
    """Changes values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(folder, vocab_size=320):
    """Returns why the tokenizer of a folder is refused."""
    with pytest.raises(ValueError, match="model-7") as raised:
        try_tokenizer(load_folder(folder, "model-7"), "model-7", vocab_size)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_try_tokenizer_accepts_one_that_works(folder):
    try_tokenizer(load_folder(folder, "model-7"), "model-7", 320)
    tiny.tokenizer(chat=False).save_pretrained(folder)
    try_tokenizer(load_folder(folder, "model-7"), "model-7", 320)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_load_folder_refuses_truncated_files(folder, keep):
    whole = (folder / FAST).read_bytes()
    (folder / FAST).write_bytes(whole[:keep])
    assert "cannot be loaded" in refused(folder)
    (folder / FAST).write_bytes(whole)
    (folder / CONFIG).write_bytes((folder / CONFIG).read_bytes()[: max(keep, 0) % 90])
    assert "is not JSON" in refused(folder)


@pytest.mark.parametrize("text", ["{}", "[]", "null", "\0", '{"version": 1}', '{"model": {}}'])
def test_load_folder_refuses_other_files(folder, text):
    (folder / FAST).write_text(text)
    assert "cannot be loaded" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "No such code is run"),
        ({"tokenizer_class": 3}, "tokenizer_class of tokenizer_config.json must be a text, got 3"),
        ({"model_max_length": "many"}, "model_max_length of tokenizer_config.json must be a num"),
    ],
)
def test_load_folder_refuses_settings(folder, changes, message):
    edit(folder / CONFIG, **changes)
    assert message in refused(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ raise_exception('no system message') }}",
        "{{ messages[3].content }}",
        "{{ nothing() }}",
        "{{ 1 / 0 }}",
        "{% include 'x' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",  # what no sandbox lets through
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
    ],
)
def test_try_chat_template_refuses(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    assert "has a chat template that cannot write one user message" in refused(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{% generation %}{{ '%100000000000d' % 1 }}{% endgeneration %}",
    ],
)
def test_check_template_refuses_what_has_no_bound(folder, template, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "TEMPLATE_SECONDS", 1)
    (folder / "chat_template.jinja").write_text(template)
    assert "takes more than 1 s or 500 MB to write one user message" in refused(folder)


def test_check_template_tries_the_default_of_several(folder):
    tokenizer = load_folder(folder, "model-7")
    tokenizer.chat_template = {"tools": "{{ x }}", "default": "{{ 'x' * 10**10 }}"}
    with pytest.raises(ValueError, match="to write one user message"):
        check_template(tokenizer, "model-7")


def test_check_template_leaves_other_errors_to_transformers(folder, monkeypatch):
    tokenizer = load_folder(folder, "model-7")
    for template in ("{% for m in messages %}", "{{ 1 / 0 }}", "{{ bos_token }}"):
        tokenizer.chat_template = template
        check_template(tokenizer, "model-7")
    for template in ({"a": "{{ x }}", "b": "{{ y }}"}, 3, [{"a": 1}]):
        tokenizer.chat_template = template
        check_template(tokenizer, "model-7")
    monkeypatch.setattr(tokenizer_trial.sys, "executable", str(folder / "missing"))
    assert not tokenizer_trial.exceeds("{{ 'x' * 10**11 }}", "{}")


def test_template_worker_is_no_part_of_the_package():
    """It must start without JAX."""
    source = Path(template_worker.__file__).read_text()
    assert "import cola_jax" not in source
    assert "from cola_jax" not in source


def test_try_tokenizer_refuses_that_of_another_model(folder):
    assert "encodes a sentence with token id" in refused(folder, vocab_size=90)

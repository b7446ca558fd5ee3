"""What is loaded is never executed, and local files need no network."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.chat import render_chat, user_message
from cola_jax.cli.main import main
from cola_jax.errors import InputError
from cola_jax.tasks.registry import load_hub
from tests import tiny

PACKAGE = Path(cola_jax.__file__).parent
# unpickling, evaluating, running code of a model, and loaders that do one of these
EXECUTING = re.compile(
    r"^\s*(?:import|from) (?:pickle|dill|cloudpickle|joblib|marshal|shelve|torch)\b"
    r"|(?<![\w.])(?:eval|exec|__import__)\(|\bos\.(?:system|popen)\(|shell=True"
    r"|allow_pickle=True|trust_remote_code=True|read_pickle|yaml\.(?:load|unsafe_load|full_load)\(",
    re.MULTILINE,
)
MARKED = "open({!r}, 'w').close()"


def test_nothing_that_executes_is_used():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert not (match := EXECUTING.search(text)), (file, match)


def test_load_folder_runs_no_code_of_a_tokenizer(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "code.py").write_text(MARKED.format(str(marker)))
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["code.Evil", None]}}
    file.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"the tokenizer of model cannot be read \("):
        checkpoint.load_folder(tmp_path, "model")
    assert not marker.exists()


def test_render_chat_runs_templates_in_a_sandbox():
    tokenizer = tiny.tokenizer()
    for template in (
        *("{% for m in messages %}", "{{ raise_exception('no system message') }}", "{{ 1 / 0 }}"),
        *("{% include 'x' %}", "{{ messages.append(1) }}"),
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",  # which no sandbox lets through
        "{{ cycler.__init__.__globals__['os'].system('true') }}",
    ):
        tokenizer.chat_template = template
        with pytest.raises(InputError, match=r"the tokenizer's chat template cannot be read \("):
            render_chat(tokenizer, user_message("Hello"))


def test_no_code_of_a_data_set_runs(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / f"{tmp_path.name}.py").write_text(MARKED.format(str(marker)))
    for place in (tmp_path, tmp_path / f"{tmp_path.name}.py"):
        with pytest.raises(ValueError, match="could not be loaded"):
            load_hub(str(place), None, "test")
    assert not marker.exists()


def test_commands_on_local_files_use_no_network(tiny_checkpoint, tmp_path, monkeypatch):
    used = []

    def note(*arguments: Any, **keywords: Any) -> None:
        used.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, note)
    task = tiny.write_questions(tmp_path / "task.jsonl", 1)
    model, run = str(tmp_path / "model"), str(tmp_path / "run")
    flags = ["--model", model, "--task", str(task), "--chat", "--output", run, "--quiet"]
    main(["convert", str(tiny_checkpoint.parent / "theirs"), model])
    main(["search", *flags, "--scorer", "letter", "--simulations", "1", "--data", "1"])
    assert not used
    with pytest.raises(Exception, match="no network"):
        huggingface_hub.HfApi().model_info("someone/model")
    assert used  # so it would be noted

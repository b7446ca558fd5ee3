"""What is loaded is never executed, and local files need no network."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.chat import render_chat, user_message
from cola_jax.cli.main import main
from cola_jax.deploy.path_file import read_path
from cola_jax.deploy.verify.claims import read_claim
from cola_jax.errors import InputError
from cola_jax.formats.hub import check_push
from cola_jax.formats.huggingface import INDEX, open_directory
from cola_jax.formats.identity import Identity
from cola_jax.formats.peers import mergekit_config, read_paths
from cola_jax.formats.vision import Tower
from cola_jax.runs.run import Run
from cola_jax.tasks.registry import load_hub
from tests import tiny

PACKAGE = Path(cola_jax.__file__).parent
# unpickling, evaluating, running code of a model, and loaders that do one of these
EXECUTING = re.compile(
    r"^\s*(?:import|from) (?:pickle|dill|cloudpickle|joblib|marshal|shelve)\b"
    r"|(?<![\w.])(?:eval|exec|__import__)\(|\bos\.(?:system|popen)\(|shell=True"
    r"|allow_pickle=True|trust_remote_code=True|read_pickle|torch\.load\b"
    r"|yaml\.(?:load|unsafe_load|full_load)\(",
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


def test_programs_are_started_at_known_places_alone():
    starting = re.compile(r"\bsubprocess\b|\bPopen\b|\bos\.(?:exec|spawn|posix_spawn)|webbrowser")
    files = [file for file in PACKAGE.rglob("*.py") if starting.search(file.read_text())]
    places = {file.relative_to(PACKAGE).as_posix() for file in files}
    assert places == {"scoring/grader.py", "formats/demo_model.py", "runs/machine.py"}


@pytest.fixture
def reached(monkeypatch) -> list[Any]:
    """The hosts and storage that were asked for, all of which fail."""
    reached = []

    def note(*arguments: Any, **keywords: Any) -> None:
        reached.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, note)
    monkeypatch.setattr(fsspec, "filesystem", note)
    return reached


@pytest.mark.parametrize("place", ["s3://bucket/x", "gs://bucket/x", "https://x.org/x", "a/model"])
def test_places_that_files_name_are_not_reached(tiny_checkpoint, tmp_path, reached, place):
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    metadata, recipe, static = (
        checkpoint.read_metadata(base),
        tmp_path / "r.yaml",
        tmp_path / "s.json",
    )
    metadata["origin"] |= {"name": place, "multimodal": "smolvlm"}
    (base / checkpoint.METADATA).write_text(json.dumps(metadata))
    model = Identity.of(metadata)
    recipe.write_text(mergekit_config((0, 1), place))
    static.write_text(json.dumps({"path": "0-1", "model": place}))
    assert read_paths(recipe, 5, model=model) == [(0, 1)]
    assert read_path(str(static), 5, model) == (0, 1)
    for file in (recipe, static):
        assert read_claim(str(file), base, 5).path == (0, 1)
    with pytest.raises(InputError, match=r"the vision tower of .*Convert the model again"):
        Tower(str(base))
    theirs = Path(shutil.copytree(tiny_checkpoint.parent / "theirs", tmp_path / "theirs"))
    (theirs / INDEX).write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(InputError, match=r"which is not a file beside it|lacks"):
        open_directory(theirs)
    assert not reached


@pytest.mark.parametrize("kind", ["run", "checkpoint", "model", "upload"])
def test_links_lead_to_no_other_files(tiny_checkpoint, tmp_path, monkeypatch, kind):
    folder, mine = tmp_path / "folder", tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    links = {"run": "questions", "checkpoint": "tokenizer/x", "model": "README.md", "upload": "x"}
    sources = {"checkpoint": tiny_checkpoint, "model": tiny_checkpoint.parent / "theirs"}
    if kind in sources:
        shutil.copytree(sources[kind], folder)
    else:
        folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    read = {
        "run": lambda: Run(folder).parts(),
        "checkpoint": lambda: checkpoint.read_metadata(folder),
        "model": lambda: open_directory(folder),
        "upload": lambda: check_push(folder, "me/x"),
    }[kind]
    read()
    (folder / links[kind]).unlink(missing_ok=True)
    (folder / links[kind]).symlink_to(mine if kind == "run" else mine / "file")
    with pytest.raises(InputError, match=rf"{links[kind]} is a link to {mine}"):
        read()
    (folder / links[kind]).unlink()
    (folder / links[kind]).symlink_to(folder)  # within it
    if kind != "model":
        read()


LISTENING = """
import json, psutil
from cola_jax.engine.cluster import connect
connect(None)
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
ports = [port for process in processes for port in process.net_connections("inet")]
print(json.dumps([port.laddr.ip for port in ports if port.status == psutil.CONN_LISTEN]))
"""


@pytest.mark.slow
def test_ray_listens_on_the_loopback_interface_alone():
    environment = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    addresses = json.loads(done.stdout.splitlines()[-1])
    assert len(addresses) > 3  # of the driver, the head and its workers
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


def test_each_promise_names_its_test():
    page = (PACKAGE.parent / ".github" / "SECURITY.md").read_text()
    rows = re.findall(r"^\| (?!promise|---)(.*?) \|.*\| (.*?) \|$", page, re.MULTILINE)
    assert len(rows) > 10
    for promise, named in rows:
        tests = re.findall(r"`(\S+\.py)::(test_\w+)`", named)
        assert tests, promise
        for file, name in tests:
            assert f"def {name}(" in (PACKAGE.parent / "tests" / file).read_text(), promise


def test_commands_on_local_files_use_no_network(tiny_checkpoint, tmp_path, reached):
    task = tiny.write_questions(tmp_path / "task.jsonl", 1)
    model, run = str(tmp_path / "model"), str(tmp_path / "run")
    flags = ["--model", model, "--task", str(task), "--chat", "--output", run, "--quiet"]
    main(["convert", str(tiny_checkpoint.parent / "theirs"), model])
    main(["search", *flags, "--scorer", "letter", "--simulations", "1", "--data", "1"])
    assert not reached
    with pytest.raises(Exception, match="no network"):
        huggingface_hub.HfApi().model_info("someone/model")
    assert reached  # so it would be noted

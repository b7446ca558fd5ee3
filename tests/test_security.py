"""What the security page says is never done, looked for in the source of the package."""

import ast
import functools
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.checkpoint import load_tokenizer
from cola_jax.cli.main import main
from cola_jax.tasks.hub import load_hub
from tests import tiny

PACKAGE = Path(cola_jax.__file__).parent
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
PICKLES |= {"torch"}  # whose `load` is one
EVALUATED = {"eval", "exec", "compile", "__import__", "execfile"}
SHELL = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
YAML = {"yaml.parse", "yaml.safe_dump", "yaml.safe_load"}  # the first makes events, and no objects
NETWORK = {"urllib", "requests", "http", "socket", "aiohttp", "httpx", "ftplib", "fsspec"}
HUB = {"huggingface_hub", "datasets"}
# parse what the package wrote itself: all else goes through json_text
OWN_JSON = {
    "formats/cache.py", "json_text.py", "runs/growth.py", "scoring/grade_worker.py",
    "template_worker.py", "tokenizer_trial.py",
}  # fmt: skip
# import modules by a name: the package's own, and two that write logs
IMPORTERS = {"__init__.py", "deploy/router/tracking.py"}


@functools.cache
def trees() -> list[tuple[str, ast.Module]]:
    """Parses the modules of the package."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [(one.relative_to(PACKAGE).as_posix(), ast.parse(one.read_text())) for one in files]


def imported(tree: ast.Module) -> set[str]:
    """The packages that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """The calls of a module, by the last part of their names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            yield getattr(node.func, "id", name), node


def keyword(call: ast.Call, name: str) -> Any:
    found = [one.value for one in call.keywords if one.arg == name]
    return ast.literal_eval(found[0]) if found and isinstance(found[0], ast.Constant) else found


def test_nothing_is_unpickled() -> None:
    found = 0
    for name, tree in trees():
        assert not imported(tree) & PICKLES, name
        for called, call in calls(tree):
            assert called not in {"read_pickle", "to_pickle"}, name
            if ast.unparse(call.func) in {"np.load", "numpy.load", "jnp.load", "jax.numpy.load"}:
                found += 1
                assert keyword(call, "allow_pickle") is False, name
    assert found


def test_nothing_is_evaluated() -> None:
    found = set()
    for name, tree in trees():
        for called, call in calls(tree):
            whole = ast.unparse(call.func)
            assert not (isinstance(call.func, ast.Name) and called in EVALUATED), name
            assert whole not in SHELL, name
            assert keyword(call, "shell") in (False, []), name
            if whole.startswith("yaml."):
                found.add(whole)
                assert whole in YAML, name
            if called == "import_module":
                assert name in IMPORTERS, name
            if called == "from_string":
                assert name == "template_worker.py", name
    assert found == YAML


def test_templates_of_models_run_in_a_sandbox() -> None:
    sandbox = dict(trees())["template_worker.py"]
    names = {called for called, _ in calls(sandbox)}
    assert "ImmutableSandboxedEnvironment" in names
    assert "Environment" not in names


def test_json_is_parsed_within_bounds() -> None:
    parsing = {
        name
        for name, tree in trees()
        for _, call in calls(tree)
        if ast.unparse(call.func) in {"json.load", "json.loads"}
    }
    assert parsing == OWN_JSON


def test_no_code_of_a_model_runs() -> None:
    found = 0
    for name, tree in trees():
        for called, call in calls(tree):
            if called == "from_pretrained":
                found += 1
                assert keyword(call, "trust_remote_code") is False, name
    assert found


def test_no_code_of_a_data_set_runs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    marker = tmp_path / "ran"
    (folder / "data.py").write_text(f"open({str(marker)!r}, 'w')")
    for place in (folder, folder / "data.py"):
        with pytest.raises(ValueError, match="could not be loaded"):
            load_hub(str(place), None, "test")
    assert not marker.exists()


def test_the_network_is_used_in_few_places() -> None:
    files = dict(trees())
    assert not {name for name, tree in files.items() if imported(tree) & NETWORK}
    hub = {name for name, tree in files.items() if imported(tree) & HUB}
    assert hub == {"formats/hub.py", "tasks/hub.py"}


def test_commands_on_local_files_use_no_network(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def note(*arguments: Any, **keywords: Any) -> None:
        used.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, note)
    task = tiny.write_questions(tmp_path / "task.jsonl", 1)
    model, run = str(tmp_path / "model"), str(tmp_path / "run")
    given = ["--model", model, "--task", str(task), "--chat", "--output", run, "--quiet"]
    main(["convert", str(tiny_checkpoint.parent / "theirs"), model])
    main(["search", *given, "--scorer", "letter", "--simulations", "1", "--data", "1"])
    assert not used
    with pytest.raises(Exception, match="no network"):
        huggingface_hub.HfApi().model_info("someone/model")
    assert used  # so it would be noted


def test_temporary_files_are_private(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, modes = [], set()

    def folder(*arguments: Any, **keywords: Any) -> Any:
        one = temporary(*arguments, **keywords)
        modes.add(stat.S_IMODE(os.stat(one.name).st_mode))
        made.append(one.name)
        return one

    temporary = checkpoint.tempfile.TemporaryDirectory
    monkeypatch.setattr(checkpoint.tempfile, "TemporaryDirectory", folder)
    before = os.umask(0)
    try:
        load_tokenizer(tiny_checkpoint)
    finally:
        os.umask(before)
    assert modes == {0o700}
    assert not any(map(os.path.exists, made))
    # the one way in which all other temporary files are made
    ways = {
        ast.unparse(call.func)
        for _, tree in trees()
        for _, call in calls(tree)
        if "tempfile" in ast.unparse(call.func)
    }
    assert ways == {"tempfile.TemporaryDirectory"}

"""What the security page says is never done, looked for in the source of the package."""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cola_jax
from cola_jax import checkpoint
from cola_jax.checkpoint import load_tokenizer

PACKAGE = Path(cola_jax.__file__).parent
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NETWORK = {"urllib", "requests", "http", "socket", "aiohttp", "httpx", "ftplib"}
# download what the user names; the demo's package is checked by its digest
DOWNLOADS = {"convert/hub.py", "commands/demo.py", "runs/hosts.py"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for file in PACKAGE.rglob("*.py"):
        yield file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text())


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


def test_nothing_is_unpickled_or_evaluated() -> None:
    for name, tree in trees():
        assert not imported(tree) & PICKLES, name
        for called, call in calls(tree):
            plain = isinstance(call.func, ast.Name)
            assert not (plain and called in {"eval", "exec", "compile", "__import__"}), name
            if called == "load" and ast.unparse(call.func) in {"np.load", "numpy.load"}:
                assert keyword(call, "allow_pickle") is False, name
            if ast.unparse(call.func) == "yaml.load":
                assert "BaseLoader" in ast.unparse(call), name
            assert ast.unparse(call.func) not in {"yaml.unsafe_load", "yaml.full_load"}, name


def test_no_code_of_a_model_runs() -> None:
    found = 0
    for name, tree in trees():
        for called, call in calls(tree):
            if called == "from_pretrained":
                found += 1
                assert keyword(call, "trust_remote_code") is False, name
    assert found


def test_the_network_is_used_in_few_places() -> None:
    using = {name for name, tree in trees() if imported(tree) & NETWORK}
    assert using <= DOWNLOADS


def test_temporary_files_are_private(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def folder(*arguments: Any, **keywords: Any) -> Any:
        made = temporary(*arguments, **keywords)
        seen.append(stat.S_IMODE(os.stat(made.name).st_mode))
        return made

    temporary = checkpoint.tempfile.TemporaryDirectory
    monkeypatch.setattr(checkpoint.tempfile, "TemporaryDirectory", folder)
    before = os.umask(0)
    try:
        load_tokenizer(tiny_checkpoint)
    finally:
        os.umask(before)
    assert seen
    assert set(seen) == {0o700}

"""What is recorded of the machine and the command of a start."""

import json
import re
import sys

from cola_jax.runs import machine


def test_machine_records_the_command_and_versions(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cola", "search", "--model", "a b"])
    found = machine.machine()
    assert found["command_line"] == "cola search --model 'a b'"
    assert found["versions"].keys() >= {"cola-jax", "jax"}
    assert json.loads(json.dumps(found)) == found


def test_git_commit_is_that_of_a_checkout(tmp_path, monkeypatch):
    machine.git_commit.cache_clear()
    commit = machine.git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "a" / "b" / "machine.py"))
    machine.git_commit.cache_clear()
    assert machine.git_commit() is None
    machine.git_commit.cache_clear()

"""The record of the machine and the command."""

import json
import re
import sys
from pathlib import Path

from cola_jax.runs import machine


def test_machine_records_the_command_and_versions(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/.venv/bin/cola", "search", "--model", "a b"])
    record = machine.machine()
    assert record["command_line"] == "cola search --model 'a b'"
    assert record["versions"].keys() >= {"cola-jax", "jax"}
    assert json.loads(json.dumps(record)) == record


def test_git_commit_is_that_of_a_checkout(tmp_path):
    commit = machine.git_commit(Path(machine.__file__).parents[2])
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    assert machine.git_commit(tmp_path) is None

"""Where converted models and compiled programs are kept."""

import json
import os
import subprocess
import sys

from cola_jax.cache_directory import cache_directory, programs_directory

PROGRAM = """
import json, os
from cola_jax.cli.main import main
main(["tasks", "--json"])
print(json.dumps([os.environ["JAX_COMPILATION_CACHE_DIR"]]))
"""


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("COLA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "cola-jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "cola-jax"


def test_programs_are_kept_where_the_user_does_not_say(tmp_path):
    """The variables are set before JAX is imported, which reads them then."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["COLA_CACHE"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    for given, wanted in (({}, str(tmp_path / "programs")), ({"X": "/x"}, "/x")):
        more = {"JAX_COMPILATION_CACHE_DIR": given["X"]} if given else {}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment | more
        )
        (found,) = json.loads(done.stdout.splitlines()[-1])
        assert found.startswith(wanted)


def test_programs_of_other_processors_are_apart(monkeypatch):
    here = programs_directory()
    monkeypatch.setattr("platform.processor", lambda: "another")
    assert programs_directory() != here
    assert programs_directory().parent == here.parent

"""The command line: its results, messages and signals, and one line for every mistake."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from cola_jax.cli import main as cli
from cola_jax.cli.flags import checkpoint_of
from cola_jax.cli.report import Report
from cola_jax.progress import log
from cola_jax.runs.run import Run
from tests import tiny

SMALL = ["--simulations", "4", "--leaves", "2", "--data", "1"]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Three questions."""
    return tiny.write_questions(tmp_path_factory.mktemp("task") / "task.jsonl", 3)


@pytest.fixture
def common(tiny_checkpoint, task, tmp_path):
    """The flags that every run needs."""
    checkpoint_of.cache_clear()  # which logs a model once
    out = str(tmp_path / "run")
    return ["--model", str(tiny_checkpoint), "--task", str(task), "--out", out]


def test_search_writes_a_report(common, tmp_path, capsys, refused):
    cli.main(["search", *common, *SMALL])
    said = capsys.readouterr()
    assert "right before" in said.out
    assert "report:" in said.err
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    assert content["estimates"][0]["name"] == "right before (pretrained model)"
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    error = refused("search", *common, *SMALL, "--seed", "4", "--rules.max-skip", "2")
    assert "seed: 0 there, 4 here" in error
    assert "--rules.max-skip: 4 there, 2 here" in error


def test_a_run_becomes_paths_that_are_evaluated(common, tmp_path, monkeypatch):
    """A search is written for other projects, and their files are read again."""
    monkeypatch.setattr(Report, "show", lambda self, run: None)
    search = ["--preset", "random", "--simulations", "30", "--leaves", "10", "--data", "1"]
    cli.main(["search", *common, *search, "--control", "none"])
    file, out = str(tmp_path / "polar.json"), str(tmp_path / "polar")
    cli.main(["report", str(tmp_path / "run"), "--polar", file])
    verdicts = verdicts_of(tmp_path / "run")
    cli.main(["evaluate", *common, "--out", out, "--paths-file", file, "--data", "1"])
    replayed = verdicts_of(out)
    both = verdicts.keys() & replayed.keys()
    assert [replayed[key] for key in both] == [verdicts[key] for key in both]
    assert {path for _, path in replayed} == {path for _, path in verdicts}


def verdicts_of(directory):
    """Returns the verdict of each (question, path) of a run."""
    rows = Run(directory).evaluations(["question", "path", "verdict"]).to_pylist()
    return {(row["question"], tuple(row["path"])): row["verdict"] for row in rows}


HELP = """
import json, sys
import cola_jax
heavy = {"jax", "jaxlib", "flax", "numpy", "transformers", "pyarrow", "orbax", "torch", "datasets"}
imported, codes = [sorted(heavy & set(sys.modules))], []
from cola_jax.cli.main import main
for arguments in ([], ["--help"], ["search", "--help"], ["evaluate", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        codes.append(end.code)
    imported.append(sorted(heavy & set(sys.modules)))
print(json.dumps([imported, codes]))
"""


def test_help_imports_no_jax():
    """Neither does the package itself; `cola` alone prints the help."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    *said, last = done.stdout.splitlines()
    assert json.loads(last) == [[[]] * 5, [0] * 4]
    assert sum(line.startswith("usage: cola ") for line in said) == 4
    assert done.stderr == ""


def test_a_mistake_is_one_line_before_anything_is_written(common, tmp_path, refused):
    for flags, message in (
        (["--model", "nothing"], "could not be"),
        (["--output", __file__], "test_main.py"),
        (["--simulations", "0"], "at least 1"),
        (["--data", "4"], "data 4 is more than the 3 questions"),
        (["--memory-budget", "1kB"], "memory budget of 1kB is too small.*give at least"),
    ):
        assert re.search(message, refused("search", *common, "--simulations", "4", *flags))
        assert not (tmp_path / "run").exists()


def test_bug_shows_its_traceback(common, monkeypatch):
    """A ValueError that is not an InputError is ours, wherever it is raised."""
    monkeypatch.setattr(
        "cola_jax.runs.work.search_batch", lambda *_, **__: np.zeros(3).reshape(2, 2)
    )
    with pytest.raises(ValueError, match="cannot reshape"):
        cli.main(["search", *common, *SMALL])


def test_messages_by_their_level(common, capsys):
    command = ["evaluate", *common, "--data", "1"]
    cli.main(command)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"loading {common[1]}"
    assert any(line.startswith("3 evaluations in ") for line in lines)
    assert not any(line.startswith(("devices", "configuration")) for line in lines)
    cli.main([*command, "--quiet", "--json"])
    out, error = capsys.readouterr()
    assert json.loads(out)["estimates"]
    assert error == ""
    log.warning("a [bold] word\x1b")
    assert capsys.readouterr().err == "warning: a [bold] word\\x1b\n"
    checkpoint_of.cache_clear()
    cli.main([*command, "-v"])
    with pytest.raises(SystemExit):
        cli.main([*command, "-v", "--paths", "0-9"])
    said = capsys.readouterr().err
    for part in ("configuration:\n", "\nmodel: ", "checkpoint: ", "devices: ", "\nTraceback "):
        assert part in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_and_says_what_is_kept(number, status, monkeypatch, capsys):
    def run(arguments):
        try:
            signal.raise_signal(number)
        finally:
            assert signal.getsignal(number) == signal.SIG_DFL  # a second one kills

    before = [signal.getsignal(each) for each in cli.SIGNALS]
    monkeypatch.setattr(cli, "run_command", run)
    with pytest.raises(SystemExit) as ended:
        cli.main(["search"])
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith("\ninterrupted: all written rows are kept.")
    assert [signal.getsignal(each) for each in cli.SIGNALS] == before


AT_THE_START = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == PLACE:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
AT_THE_END = """
import atexit, signal, sys
atexit.register(signal.raise_signal, signal.SIGINT)
"""
MAIN = "sys.argv = ['cola', 'tasks']; from cola_jax.__main__ import main; main()"


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("PLACE = 'cola_jax.cli.main'" + AT_THE_START, -signal.SIGINT, ""),
        ("PLACE = 'cola_jax.cli.commands'" + AT_THE_START, 130, "\ninterrupted: all written"),
        (AT_THE_END, -signal.SIGINT, ""),
    ],
)
def test_a_signal_while_python_starts_or_ends_prints_no_traceback(code, status, text):
    command = [sys.executable, "-c", code + MAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(text)

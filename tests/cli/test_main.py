"""The command line: its results, one line for every mistake, and signals, wherever they fall."""

import gc
import json
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cola_jax.cli import main as cli
from cola_jax.cli.main import Interrupted, raising_signals
from cola_jax.cli.report import Report
from cola_jax.runs.run import Run
from tests import tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Three questions."""
    return tiny.write_questions(tmp_path_factory.mktemp("task") / "task.jsonl", 3)


@pytest.fixture
def common(tiny_checkpoint, task, tmp_path):
    """The flags that every run needs."""
    out = str(tmp_path / "run")
    return ["--model", str(tiny_checkpoint), "--task", str(task), "--out", out]


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(Report, "show", lambda self, run: None)


SMALL = ["--simulations", "4", "--leaves", "2", "--data", "1"]


def changed(common, **fields):
    """The common flags with other values."""
    common = list(common)
    for name, value in fields.items():
        common[common.index(f"--{name}") + 1] = str(value)
    return common


def test_search_writes_a_report(common, tmp_path, capsys):
    cli.main(["search", *common, *SMALL])
    said = capsys.readouterr()
    assert "correct before" in said.out
    assert "report:" in said.err
    (entry,) = json.loads((tmp_path / "run" / "results.json").read_text())["results"].values()
    assert entry.keys() >= {"acc,none", "acc_stderr,none", "found_among_paths_upper_bound,none"}
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    (tmp_path / "run" / "report.html").unlink()
    cli.main(["report", str(tmp_path / "run"), "--page", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").exists()
    assert not (tmp_path / "run" / "report.html").exists()


def test_evaluate(common, tmp_path, capsys):
    (tmp_path / "paths.txt").write_text("# two paths\n0-4\n\n0,2,4  # a short one\n")
    paths = ["--paths", "0-4", "0,(1-2)x2,3-4", "--paths-file", str(tmp_path / "paths.txt")]
    cli.main(["evaluate", *common, *paths, "--random", "3", "--seed", "1", "--data", "1"])
    recorded = Run(tmp_path / "run").manifest()["settings"]["paths"]
    assert recorded[:3] == [[0, 1, 2, 3, 4], [0, 1, 2, 1, 2, 3, 4], [0, 2, 4]]
    assert 5 <= len(recorded) <= 6  # each path once
    assert Run(tmp_path / "run").evaluations().num_rows == 3 * len(recorded)
    assert "0-4 (identity)" in capsys.readouterr().out


def test_a_run_becomes_paths_that_are_evaluated(common, tmp_path, no_report):
    """A search is written for other projects, and their files are read again."""
    search = ["--preset", "random", "--simulations", "30", "--leaves", "10", "--data", "1"]
    cli.main(["search", *common, *search, "--control", "none"])
    file, out = str(tmp_path / "polar.json"), str(tmp_path / "polar")
    cli.main(["report", str(tmp_path / "run"), "--polar", file])
    verdicts = verdicts_of(tmp_path / "run")
    cli.main(["evaluate", *changed(common, out=out), "--paths-file", file, "--data", "1"])
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


def test_bad_model_is_named(common, tmp_path, refused):
    model = tmp_path / "nothing"
    assert "is not a model: no such" in refused("search", *changed(common, model=model))
    error = refused("evaluate", *changed(common, model="some/model"), "--random", 1)
    assert "some/model (revision main) is not a file or directory here, and could not be" in error


def test_bad_destination_is_named(common, tmp_path, refused, no_report):
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("search", *changed(common, out=tmp_path / "file"), status=2)
    below = changed(common, out=tmp_path / "file" / "run")
    assert "is not a directory" in refused("search", *below)
    refused("search", *changed(common, out=tmp_path / ("x" * 300)))
    cli.main(["search", *common, *SMALL])
    error = refused("search", *common, *SMALL, "--seed", "4", "--rules.max-skip", "2")
    assert "seed: 0 there, 4 here" in error
    assert "--rules.max-skip: 4 there, 2 here" in error


def test_bad_number_makes_no_directory(common, tmp_path, refused):
    for flag in ("--simulations", "--leaves", "--batch-size"):
        assert "at least 1" in refused("search", *common, flag, "0")
    assert not (tmp_path / "run").exists()
    assert "not a run directory" in refused("report", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "4"], "data 4 is more than the 3 questions"),
        (["--data", "5", "--tensor", "2"], "needs 10 devices, this host has 8"),
        (["--memory-budget", "1kB"], "memory budget of 1kB is too small.*give at least"),
        (["--shard", "4/5"], "shard 4/5 has none of the 3 questions"),
        (["--dtype", "fp16"], "a CPU does not run float16: give --dtype float32"),
    ],
)
def test_devices_and_hosts_that_do_not_fit_are_refused(common, tmp_path, refused, flags, message):
    """Before anything is written."""
    error = refused("search", *common, "--simulations", "4", *flags)
    assert re.search(message, " ".join(error.split()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (lambda *_, **__: np.zeros(3).reshape(2, 2), "cannot reshape"),
        (lambda *_, **__: list(zip([1], [], strict=True)), "zip"),
    ],
)
def test_bug_shows_its_traceback(common, monkeypatch, bug, message):
    """A ValueError that is not an InputError is ours, wherever it is raised."""
    monkeypatch.setattr("cola_jax.runs.searches.search_batch", bug)
    with pytest.raises(ValueError, match=message):
        cli.main(["search", *common, *SMALL])


# signals


def wait():
    """Let a signal that was put off arrive."""
    for _ in range(200):
        time.sleep(0.01)


@raising_signals()
def signalled(number):
    try:
        signal.raise_signal(number)
    finally:
        assert signal.getsignal(number) == signal.SIG_DFL  # a second one kills


@raising_signals()
def collecting(callback):
    gc.callbacks.append(callback)
    gc.collect()
    wait()


@raising_signals()
def importing():
    __import__("signalled")
    assert "signalled" in sys.modules
    wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_once_and_handlers_are_put_back(number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(Interrupted) as caught:
        signalled(number)
    assert caught.value.number == number
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert after == before


def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost():
    def collect(phase, info):
        gc.callbacks.remove(collect)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        collecting(collect)


def test_a_signal_during_an_import_waits_for_its_end(tmp_path, monkeypatch):
    (tmp_path / "signalled.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nimport time\ntime.sleep(0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Interrupted):
        importing()


def test_other_threads_leave_signals_alone():
    before, done = signal.getsignal(signal.SIGTERM), []

    def body():
        with raising_signals():
            done.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [(signal.SIGINT, 130, "interrupted: all written"), (signal.SIGTERM, 143, "terminated: all")],
)
def test_a_command_says_what_is_kept(number, status, text, monkeypatch, capsys):
    monkeypatch.setattr(cli, "run_command", lambda arguments: signal.raise_signal(number))
    with pytest.raises(SystemExit) as ended:
        cli.main(["search"])
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"\n{text}")


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

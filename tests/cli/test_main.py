"""The command line: what it makes, what it records, and one line for whatever is wrong."""

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from cola_jax.cli import main as cli
from cola_jax.cli.commands import parse
from cola_jax.cli.report import Report
from cola_jax.runs.run import Run
from cola_jax.strategies.rules import PRESETS, TreeRules
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


def test_convert(tiny_checkpoint, tmp_path, capsys, refused):
    source = str(tiny_checkpoint.parent / "theirs")
    cli.main(["convert", source, str(tmp_path / "made"), "--dtype", "bfloat16"])
    assert "5 layers, width 32, bfloat16" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "made" / "cola.json").exists()
    error = refused("convert", source, tmp_path / "made")
    assert "--overwrite" in error


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


def test_rules_start_from_the_preset(common, monkeypatch):
    monkeypatch.setitem(PRESETS, "cola", TreeRules(max_skip=1, widening=3.0))
    for preset in (["--preset", "cola"], ["--preset=best", "--preset=cola"]):
        command: Any = parse(["search", *common, *preset, "--rules.max-move", "1"])
        assert (command.rules.max_skip, command.rules.widening) == (1, 3.0)
        assert command.rules.max_move == 1


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
@pytest.mark.parametrize("place", ["runs.searches.search_batch", "cli.flags.Hosts.__post_init__"])
def test_bug_shows_its_traceback(common, monkeypatch, bug, message, place):
    """A ValueError that is not an InputError is ours, wherever it is raised."""
    monkeypatch.setattr(f"cola_jax.{place}", bug)
    with pytest.raises(ValueError, match=message):
        cli.main(["search", *common, *SMALL])


def test_shards_fill_one_run(common, tmp_path, capsys, no_report):
    """Their batches are others than those of one process, so scores may be rounded otherwise."""
    cli.main(["search", *common, *SMALL])
    apart = changed(common, out=tmp_path / "apart")
    for shard in ("0/2", "1/2"):
        cli.main(["search", *apart, *SMALL, "--shard", shard])
    assert re.findall(r"(\d+) evaluations in", capsys.readouterr().err) == ["15", "10", "5"]
    runs = [Run(tmp_path / name) for name in ("run", "apart")]
    whole, both = ({(r["question"], r["node"]): r for r in evaluations(run)} for run in runs)
    assert whole.keys() == both.keys()
    for key, row in whole.items():
        for name in ("path", "verdict", "answer", "wave", "parent", "edit"):
            assert both[key][name] == row[name]
        np.testing.assert_allclose(both[key]["scores"], row["scores"], rtol=1e-5)
    starts = runs[1].manifest()["starts"]
    assert sum(start["metrics"]["evaluations"] for start in starts) == len(whole)


def evaluations(run):
    return run.evaluations().to_pylist()

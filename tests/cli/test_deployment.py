"""`cola export`, `static`, `menu` and `lm-eval`: what they write and refuse."""

import functools
import json
import logging
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
import yaml

from cola_jax.checkpoint import read_metadata
from cola_jax.cli.commands import parse
from cola_jax.cli.export import LmEval
from cola_jax.cli.main import main
from cola_jax.execute.evaluator import PathEvaluator
from cola_jax.formats.conversion import convert
from tests import tiny
from tests.formats.gguf_writer import tiny_llama, write


def export(model, path, out, *flags):
    main(["export", "--model", str(model), "--path", str(path), "--out", str(out), *flags])


def refused(capsys, *arguments):
    """Runs an export that must fail, and returns its error."""
    with pytest.raises(SystemExit) as error:
        export(*arguments)
    assert error.value.code == 1
    return capsys.readouterr().err


def test_export_writes_the_command_and_the_effect(tiny_checkpoint, tmp_path, capsys):
    measured = {"task": "sums", "n": 9, "before": 0.5, "after": 0.5, "difference": 0.0}
    values = {"path": "0-1,3-4", "effect": measured | {"interval": [-0.1, 0.1]}}
    file = tmp_path / "static.json"
    file.write_text(json.dumps(values))
    export(tiny_checkpoint, file, tmp_path / "out", "--effect", str(file))
    said = capsys.readouterr().out
    assert "path 0-1,3-4, 4 layers of 5, " in said
    card = (tmp_path / "out" / "README.md").read_text()
    command = f"cola export --model {tiny_checkpoint} --path {file} --output {tmp_path / 'out'}"
    assert f"{command} --effect {file}\n" in card
    assert "| sums | 9 |" in card
    file.write_text(json.dumps(values | {"model": "xyz"}))
    export(tiny_checkpoint, file, tmp_path / "other")
    assert "static.json is of another checkpoint ('xyz', here it is" in capsys.readouterr().err
    again = (tiny_checkpoint, "0-1,3-4", tmp_path / "third", "--effect", str(file))
    assert "Measure this path on this model" in refused(capsys, *again)


def test_export_writes_a_recipe_of_the_source(tiny_checkpoint, tmp_path):
    export(tiny_checkpoint, "0-4,4", tmp_path / "one.yaml", "--format", "mergekit")
    recipe = yaml.safe_load((tmp_path / "one.yaml").read_text())
    name = read_metadata(tiny_checkpoint)["origin"]["name"]
    assert recipe["slices"][0]["sources"][0]["model"] == name
    flags = ("--format", "mergekit", "--source", "someone/tiny")
    export(tiny_checkpoint, "0-4,4", tmp_path / "two.yaml", *flags)
    assert "model: someone/tiny" in (tmp_path / "two.yaml").read_text()


def test_export_copies_the_gguf_file_that_was_converted(tmp_path, capsys):
    source = tmp_path / "tiny.gguf"
    write(source, tiny_llama(), "Q4_0")
    convert(str(source), tmp_path / "ours")
    export(tmp_path / "ours", "0,2", tmp_path / "out.gguf", "--format", "gguf")
    assert (tmp_path / "out.gguf").stat().st_size < source.stat().st_size
    flags = (tmp_path / "ours", "0,2", tmp_path / "out.yaml", "--format", "mergekit")
    assert "give --source the Hub id or directory" in refused(capsys, *flags)
    source.unlink()
    flags = (tmp_path / "ours", "0,2", tmp_path / "new.gguf", "--format", "gguf")
    assert "tiny.gguf, which is not a GGUF file that exists here" in refused(capsys, *flags)


def test_export_refuses_bad_input(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for arguments, message in (
        (("0-5", tmp_path / "out"), "names layer 5, but the model has layers 0..4"),
        (("0-4", tmp_path / "full"), "exists already and is not empty"),
        (("0-4", tiny_checkpoint / "out"), "is inside the source"),
        (("0-4", tmp_path / "out", "--share"), "path 0-4 runs no layer twice"),
        (("0-4", tmp_path / "out", "--source", "x"), "--source is for --format mergekit or gguf"),
        (
            ("0-4", tmp_path / "out", "--format", "gguf"),
            "is not a GGUF file that exists here: give --source",
        ),
        (("0-4", tmp_path / "out", "--format", "gguf", "--share"), "--share is for --format hf"),
    ):
        assert message in refused(capsys, tiny_checkpoint, *arguments)
    assert {entry.name for entry in tmp_path.iterdir()} == {"full"}
    for inside in (tiny_checkpoint, tiny_checkpoint / "new.yaml"):
        flags = (tiny_checkpoint, "0-4", inside, "--format", "mergekit")
        assert "choose a destination elsewhere" in refused(capsys, *flags)


SMALL = ["--generations", "2", "--offspring", "4", "--first", "3", "--finalists", "3"]


def test_static_writes_a_path_and_its_effect(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, out = tiny.write_questions(tmp_path / "task.jsonl", 14), tmp_path / "out"
    common = ["static", "--model", str(tiny_checkpoint), "--task", str(task), "--limit", "9"]
    command = [*common, "--held-out", "5", "--out", str(out), *SMALL]
    main(command)
    shown = " ".join(capsys.readouterr().out.split())
    assert "5 held-out questions" in shown
    result = json.loads((out / "static.json").read_text())
    assert result["front"][0]["path"] == "0-4"
    assert result["effect"]["n"] == 5
    assert result["layers"] <= 5

    before = sorted(out.rglob("*.parquet"))

    def forbid(*_: object) -> None:
        raise AssertionError("everything has been evaluated before")

    monkeypatch.setattr(PathEvaluator, "__call__", forbid)
    main(command)
    assert sorted(out.rglob("*.parquet")) == before
    assert json.loads((out / "static.json").read_text()) == result
    capsys.readouterr()
    main(["static", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == result
    assert sorted(out.rglob("*.parquet")) == before
    with pytest.raises(SystemExit):
        main([*command, "--generations", "3"])
    assert "--rules.generations: 2 there, 3 here" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([*common, "--out", str(tmp_path / "other")])
    assert "no questions are held out" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([*command, "--shard", "0/2"])
    assert "cannot be divided" in " ".join(capsys.readouterr().err.split())


def test_menu_of_a_search(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tiny.write_questions(tmp_path / "task.jsonl", 20)
    common = ["--model", str(tiny_checkpoint), "--task", str(task), "--limit", "12"]
    parts = ["--held-out", "8"]
    search = ["search", *common, "--simulations", "6", "--leaves", "6", "--control", "none"]
    main([*search, *parts, "--out", str(tmp_path / "run")])
    out = tmp_path / "menu"
    command = ["menu", *common, *parts, "--out", str(out), "--runs"]
    main([*command, str(tmp_path / "run"), "--size", "3", "--candidates", "4"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "is right (needs the answer)" in shown
    menu = json.loads((out / "menu.json").read_text())
    assert menu["paths"][0] == "0-4"
    assert 2 <= len(menu["paths"]) <= 3
    capsys.readouterr()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    main(["menu", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == menu
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")} == before
    effects = {one["rule"].split(",")[0]: one for one in menu["effects"]}
    assert any(name.startswith("single") for name in effects)
    assert {"vote", "logprob", "entropy", "certainty", "selector"} < set(effects)
    assert effects["pretrained model"]["held_out"]["difference"] == 0
    with np.load(out / "selector.npz", allow_pickle=False) as selector:
        assert selector["weights"].shape[1] == len(menu["paths"])
    bad = [
        ([*command, str(out / "held-out")], "8 of the held-out questions"),
        ([*command, str(tmp_path / "run"), "--size", "1"], "leaves nothing to choose"),
        ([*command, str(tmp_path / "run"), "--max-layers", "4"], "begins with the identity path"),
    ]
    for arguments, message in bad:
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in " ".join(capsys.readouterr().err.split())


def test_parse_leaves_the_arguments_to_the_harness():
    arguments = ["--model", "cola", "--tasks", "a,b", "--preset", "nothing of ours", "--help"]
    assert parse(["lm-eval", *arguments]) == LmEval(tuple(arguments))


def test_lm_eval_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["lm-eval", "--model", "cola"])
    assert "pip install 'cola-jax[lm-eval]'" in capsys.readouterr().err


def test_lm_eval_hands_over_its_arguments(monkeypatch):
    """The commas of a path are written as +, since the harness cuts at commas."""
    harness = pytest.importorskip("lm_eval.__main__")
    seen, before = [], sys.argv
    monkeypatch.setattr(harness, "cli_evaluate", lambda: seen.extend(sys.argv))
    main(["lm-eval", "--model_args", "checkpoint=m,path=0-5,7,7", "--tasks", "a"])
    assert seen == ["lm-eval", "--model_args", "checkpoint=m,path=0-5+7+7", "--tasks", "a"]
    assert sys.argv is before


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of four rows, without the harness's own, which take seconds to list."""
    tasks = pytest.importorskip("lm_eval.tasks")
    without = functools.partial(tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", without)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # to which the harness adds its own
    rows = tiny.write_questions(tmp_path / "rows.jsonl", 4)
    fields = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
    }
    file = tmp_path / "local.yaml"
    file.write_text(json.dumps(fields))  # JSON is YAML
    return str(file)


def test_lm_eval_runs_a_task_on_a_path(tiny_checkpoint, task, tmp_path, capsys):
    given = f"checkpoint={tiny_checkpoint},path=0-1,3,3,4,data=1"
    flags = ["--model", "cola", "--model_args", given, "--tasks", task, "--limit", "3"]
    main(["lm-eval", *flags, "--output_path", str(tmp_path / "out.json")])
    assert "acc_norm" in capsys.readouterr().out
    (file,) = tmp_path.glob("out*.json")
    results = json.loads(file.read_text())
    assert results["config"]["model_num_layers"] == tiny.LAYERS
    assert results["n-samples"]["local"] == {"original": 4, "effective": 3}
    assert 0 <= results["results"]["local"]["acc,none"] <= 1


def test_lm_eval_reports_bad_model_arguments(tiny_checkpoint, task, capsys):
    """From the harness's command line down to the model, as one line."""
    given = f"checkpoint={tiny_checkpoint},path=0-1,9"
    with pytest.raises(SystemExit):
        main(["lm-eval", "--model", "cola", "--model_args", given, "--tasks", task])
    error = capsys.readouterr().err.splitlines()
    assert "error: path '0-1,9' names layer 9, but the model has layers 0..4." in error


def test_lm_eval_says_what_the_harness_refuses_in_one_line(tiny_checkpoint, task, capsys):
    model = ["--model", "cola", "--model_args", f"checkpoint={tiny_checkpoint}"]
    for tasks, message in ((["--tasks", "nosuch"], "nosuch"), ([], "No tasks specified")):
        with pytest.raises(SystemExit) as end:
            main(["lm-eval", *model, *tasks])
        assert end.value.code == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: lm-evaluation-harness: ")
        assert message in error


def test_distill_refuses_a_folder_that_another_process_writes(tmp_path, capsys):
    flags = ["--model", "m", "--run", "r", "--task", "arithmetic", "-o", str(tmp_path / "router")]
    with filelock.FileLock(tmp_path / ".router.lock"), pytest.raises(SystemExit) as end:
        main(["distill", *flags])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "router is being written by another process" in error
    assert "loading" not in error

"""`cola export` and `lm-eval`: what they write and refuse."""

import functools
import json
import logging
import sys

import pytest
import yaml

from cola_jax.checkpoint import read_metadata
from cola_jax.cli.commands import parse
from cola_jax.cli.export import LmEval
from cola_jax.cli.main import main
from cola_jax.formats.conversion import convert
from tests import tiny
from tests.formats.gguf_writer import tiny_llama, write


def export(model, path, out, *flags):
    main(["export", "--model", str(model), "--path", str(path), "--out", str(out), *flags])


@pytest.fixture
def refused_export(refused):
    """Run an export that must fail; return why."""

    def run(model, path, out, *flags):
        return refused("export", "--model", model, "--path", path, "--out", out, *flags)

    return run


def test_export_writes_a_card_with_the_effect(tiny_checkpoint, tmp_path, capsys, refused_export):
    measured = {"task": "sums", "n": 9, "before": 0.5, "after": 0.5, "difference": 0.0}
    values = {"path": "0-1,3-4", "effect": measured | {"interval": [-0.1, 0.1]}}
    file = tmp_path / "static.json"
    file.write_text(json.dumps(values))
    export(tiny_checkpoint, file, tmp_path / "out", "--effect", str(file))
    said = capsys.readouterr().out
    assert "path 0-1,3-4, 4 layers of 5, " in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "cola export --model theirs --path '0-1,3-4'\n" in card
    assert "| sums | 9 |" in card
    file.write_text(json.dumps(values | {"model": "xyz"}))
    export(tiny_checkpoint, file, tmp_path / "other")
    assert "static.json is of another checkpoint ('xyz', here it is" in capsys.readouterr().err
    again = (tiny_checkpoint, "0-1,3-4", tmp_path / "third", "--effect", str(file))
    assert "Measure this path on this model" in refused_export(*again)


def test_export_writes_a_recipe_of_the_source(tiny_checkpoint, tmp_path):
    export(tiny_checkpoint, "0-4,4", tmp_path / "one.yaml", "--format", "mergekit")
    recipe = yaml.safe_load((tmp_path / "one.yaml").read_text())
    name = read_metadata(tiny_checkpoint)["origin"]["name"]
    assert recipe["slices"][0]["sources"][0]["model"] == name
    flags = ("--format", "mergekit", "--source", "someone/tiny")
    export(tiny_checkpoint, "0-4,4", tmp_path / "two.yaml", *flags)
    assert "model: someone/tiny" in (tmp_path / "two.yaml").read_text()


def test_export_copies_the_gguf_file_that_was_converted(tmp_path, refused_export):
    source = tmp_path / "tiny.gguf"
    write(source, tiny_llama(), "Q4_0")
    convert(str(source), tmp_path / "ours")
    export(tmp_path / "ours", "0,2", tmp_path / "out.gguf", "--format", "gguf")
    assert (tmp_path / "out.gguf").stat().st_size < source.stat().st_size
    flags = (tmp_path / "ours", "0,2", tmp_path / "out.yaml", "--format", "mergekit")
    assert "give --source the Hub id or directory" in refused_export(*flags)
    source.unlink()
    flags = (tmp_path / "ours", "0,2", tmp_path / "new.gguf", "--format", "gguf")
    assert "tiny.gguf, which is not a GGUF file that exists here" in refused_export(*flags)


def test_export_refuses_bad_input(tiny_checkpoint, tmp_path, refused_export):
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
        assert message in refused_export(tiny_checkpoint, *arguments)
    assert {entry.name for entry in tmp_path.iterdir()} == {"full"}
    for inside in (tiny_checkpoint, tiny_checkpoint / "new.yaml"):
        flags = (tiny_checkpoint, "0-4", inside, "--format", "mergekit")
        assert "choose a destination elsewhere" in refused_export(*flags)


def test_parse_leaves_the_arguments_to_the_harness():
    arguments = ["--model", "cola", "--tasks", "a,b", "--preset", "nothing of ours", "--help"]
    assert parse(["lm-eval", *arguments]) == LmEval(tuple(arguments))


def test_lm_eval_names_the_extra(monkeypatch, refused):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'cola-jax[lm-eval]'" in refused("lm-eval", "--model", "cola")


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

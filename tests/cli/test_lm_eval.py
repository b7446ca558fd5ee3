"""`cola lm-eval`: the harness's own command line, with the model `cola` registered."""

import functools
import json
import logging
import sys

import pytest

from cola_jax.cli.lm_eval import LmEval
from cola_jax.cli.main import main, parse
from tests import tiny


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


def test_lm_eval_refuses_the_cache_of_another_path(tiny_checkpoint, task, tmp_path, capsys):
    pytest.importorskip("sqlitedict")
    given = f"checkpoint={tiny_checkpoint},data=1,path="
    flags = ["lm-eval", "--model", "cola", "--tasks", task, "--limit", "2"]
    cache = ["--use_cache", str(tmp_path / "cache"), "--model_args"]
    main([*flags, *cache, f"{given}0-4"])
    main([*flags, *cache, f"{given}0-4"])
    with pytest.raises(SystemExit):
        main([*flags, *cache, f"{given}0-1,3,3,4"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cache_rank0.db does not belong to this command: its path is 0-4, here it is" in error


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

"""`cola static`, `menu`, `distill`, `export` and `lm-eval`: what they write and refuse."""

import functools
import json
import logging
import sys
from pathlib import Path

import pytest
import yaml

from cola_jax.checkpoint import read_metadata
from cola_jax.cli.main import main
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.formats.conversion import convert
from tests import tiny
from tests.formats.gguf_writer import tiny_llama, write


@pytest.fixture
def common(tiny_checkpoint, tmp_path):
    """The flags of a model and of a task with held-out questions."""
    task = str(tiny.write_questions(tmp_path / "task.jsonl", 20))
    return ["--model", str(tiny_checkpoint), "--task", task, "--limit", "12", "--held-out", "8"]


def part_files(folder):
    """The part files of all runs in a folder, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}


def test_static_writes_a_path_and_its_effect(common, tmp_path, capsys, monkeypatch, refused):
    out = tmp_path / "out"
    command = ["static", *common, "--out", str(out)]
    command += ["--generations", "2", "--offspring", "4", "--first", "3", "--finalists", "3"]
    main(command)
    shown = capsys.readouterr().out
    assert "8 held-out questions" in " ".join(shown.split())
    result = json.loads((out / "static.json").read_text())
    assert result["front"][0]["path"] == "0-4"
    assert result["effect"]["n"] == 8
    assert result["layers"] <= 5
    before = part_files(out)
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["static", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == result
    assert part_files(out) == before
    main(["report", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == result
    main(["report", str(out)])
    assert capsys.readouterr().out == shown
    assert "--page is for runs" in refused("report", out, "--page", tmp_path / "page.html")
    assert " (--generations: 2 there, 3 here)" in refused(*command, "--generations", "3")
    norm = ["--scorer", "options-norm", "--fitness", "likelihood"]
    line = refused("static", *common, *norm, "--out", tmp_path / "norm")
    assert "the fitness likelihood needs" in line
    assert "'options-norm' are not: use `options`" in line
    assert "no questions are held out" in refused("static", *common[:-2], "--out", tmp_path / "new")


def test_static_bounds_and_shows_the_cost_of_paths(common, tmp_path, capsys, refused):
    out, costs = tmp_path / "out", tmp_path / "costs.json"
    costs.write_text("[2, 1, 5, 1, 1]")
    command = ["static", *common, "--layer-costs", str(costs), "--max-cost", "50%"]
    command += ["--generations", "1", "--offspring", "4", "--first", "3", "--finalists", "2"]
    main([*command, "--out", str(out)])
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("10 ms", "100.0 %", "and cost"))
    plain, *others = json.loads((out / "static.json").read_text())["front"]
    assert plain["milliseconds"] == 10
    assert others
    assert max(entry["milliseconds"] for entry in others) <= 5
    costs.write_text("[2, 1, 5, 1, 2]")
    changed = refused(*command, "--out", out)
    assert "(--layer-costs: [2, 1, 5, 1, 1] there, [2, 1, 5, 1, 2] here)" in changed
    assert "--max-cost 0.5ms is below" in refused(*command, "--max-cost", "0.5ms", "--out", out)


@pytest.mark.slow  # searches twice
def test_static_with_kl_reads_no_answers(common, tmp_path, capsys, monkeypatch, refused):
    settings = ["--generations", "3", "--offspring", "6", "--first", "3", "--fitness", "kl"]
    task, other = Path(common[3]), tmp_path / "other.jsonl"
    rows = [json.loads(line) for line in task.read_text().splitlines()]
    for i, row in enumerate(rows):  # other options, and other correct ones
        row["choices"] = {"text": tiny.WORDS[i % 5 : i % 5 + 3], "label": ["A", "B", "C"]}
        row["answerKey"] = "ABC"[-i % 3]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = []
    for file in (task, other):
        out, common[3] = tmp_path / file.stem, str(file)
        main(["static", *common, *settings, "--max-layers", "4", "--out", str(out)])
        results.append(json.loads((out / "static.json").read_text()))
    assert "the divergence (KL, nats)" in " ".join(capsys.readouterr().out.split())
    first, second = ([{**p, "held_out": 0} for p in result["front"]] for result in results)
    assert first == second  # paths and their divergences; accuracy differs
    plain, *rest = first
    assert abs(plain["validation"]) < 1e-5
    chosen = min(rest, key=lambda entry: entry["validation"])
    assert chosen["chosen"]
    assert chosen["validation"] > 0
    assert results[0]["effect"]["n"] == 8
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["static", "--config", str(tmp_path / "other" / "config.yaml"), "--json"])
    assert json.loads(capsys.readouterr().out) == results[1]
    assert "give --max-layers of at most 4" in refused(
        "static", *common, *settings, "--out", tmp_path / "no-limit"
    )


def test_menu_of_a_search(common, tmp_path, capsys, monkeypatch, refused):
    run, out = tmp_path / "run", tmp_path / "menu"
    search = ["search", *common, "--simulations", "6", "--leaves", "6", "--control", "none"]
    main([*search, "--out", str(run)])
    command = ["menu", *common, "--out", str(out), "--runs"]
    main([*command, str(run), "--size", "3", "--candidates", "4"])
    assert "some path of" in capsys.readouterr().out
    menu = json.loads((out / "menu.json").read_text())
    assert menu["paths"][0] == "0-4"
    assert 2 <= len(menu["paths"]) <= 3
    effects = {effect["rule"].split(",")[0]: effect for effect in menu["effects"]}
    assert {"vote", "logprob", "selector"} < set(effects)
    assert effects["pretrained model"]["held_out"]["difference"] == 0
    assert (out / "selector.safetensors").exists()
    other = ["--out", str(tmp_path / "tried"), "--runs", str(run)]
    main(["menu", *common, *other, "--try-scorer", "options-norm", "--json"])
    assert json.loads(capsys.readouterr().out)["paths"][0] == "0-4"
    before = part_files(out)
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["menu", "--config", str(out / "config.yaml"), "--json"])  # the same command
    assert json.loads(capsys.readouterr().out) == menu
    assert part_files(out) == before
    for flags, message in (
        (["--size", "1"], "size must be at least 2"),
        (["--max-layers", "4"], "begins with the identity path"),
    ):
        assert message in refused(*command, run, *flags)


def export(model, path, out, *flags):
    main(["export", "--model", str(model), "--path", str(path), "--out", str(out), *flags])


def test_export_writes_a_card_with_the_effect_and_uploads(tiny_checkpoint, hub, tmp_path, capsys):
    effect = {"task": "arc-easy", "n": 9, "before": 0.5, "after": 0.5, "interval": [-0.1, 0.1]}
    values = {"path": "0-1,3-4", "effect": effect}
    file = tmp_path / "static.json"
    file.write_text(json.dumps(values))
    flags = "--effect", str(file), "--push-to-hub", "me/tiny"
    export(tiny_checkpoint, file, tmp_path / "out", *flags)
    files = {x.relative_to(tmp_path / "out") for x in (tmp_path / "out").rglob("*") if x.is_file()}
    assert {*map(Path, hub.repositories["models/me/tiny"])} == files
    assert "path 0-1,3-4, 4 layers of 5, " in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "cola export --model theirs --path '0-1,3-4'\n" in card
    assert "| arc-easy | 9 |" in card
    assert (tmp_path / "out" / ".eval_results" / "arc_easy.yaml").exists()
    export(tiny_checkpoint, file, tmp_path / "one.yaml", "--format", "mergekit")
    recipe = yaml.safe_load((tmp_path / "one.yaml").read_text())
    name = read_metadata(tiny_checkpoint)["origin"]["name"]
    assert recipe["slices"][0]["sources"][0]["model"] == name


def test_export_refuses_the_path_of_another_model(tiny_checkpoint, tmp_path, refused):
    file = tmp_path / "static.json"
    file.write_text(json.dumps({"path": "0-1", "model": "ab" * 32, "model_name": "someone/large"}))
    line = refused("export", "--model", tiny_checkpoint, "--path", file, "--out", tmp_path / "out")
    assert "another model (someone/large, digest abababababab) than the one here (theirs" in line
    assert not (tmp_path / "out").exists()


def test_export_copies_the_gguf_file_that_was_converted(tmp_path, refused):
    source, ours = tmp_path / "tiny.gguf", tmp_path / "ours"
    write(source, tiny_llama(), "Q4_0")
    convert(str(source), ours)
    export(ours, "0,2", tmp_path / "out.gguf", "--format", "gguf")
    assert (tmp_path / "out.gguf").stat().st_size < source.stat().st_size
    source.unlink()
    command = ["export", "--model", ours, "--path", "0,2", "--out", tmp_path / "new", "--format"]
    assert "give --source the Hub id or directory" in refused(*command, "mergekit")
    assert "here: give --source the .gguf file that it was converted from" in refused(
        *command, "gguf"
    )


def test_export_refuses_flags_that_do_not_fit(tiny_checkpoint, tmp_path, refused):
    command = ["export", "--model", tiny_checkpoint, "--path", "0-4", "--out", tmp_path / "out"]
    for flags, message in (
        (["--share"], "path 0-4 runs no layer twice"),
        (["--push-to-hub", "me/x", "--format", "gguf"], "--push-to-hub is for --format hf, not"),
        (["--private"], "--private is for uploads: give --push-to-hub"),
        (["--source", "x"], "--source is for --format mergekit or gguf, not hf"),
        (["--format", "mergekit", "--out", tiny_checkpoint / "new"], "is inside the source"),
    ):
        assert message in refused(*command, *flags)
    assert not list(tmp_path.iterdir())


def test_lm_eval_names_the_extra(monkeypatch, refused):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'cola-jax[lm-eval]'" in refused("lm-eval", "--model", "cola")


def test_lm_eval_runs_a_task_on_a_path(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    """Without the harness's own tasks, which take seconds to list."""
    tasks = pytest.importorskip("lm_eval.tasks")
    without = functools.partial(tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", without)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # to which the harness adds its own
    monkeypatch.chdir(tmp_path)
    tiny.write_questions(tmp_path / "rows.jsonl", 4)
    (fields, *_) = json.loads((Path(__file__).parents[1] / "deploy/harness_tasks.json").read_text())
    file = tmp_path / "choice.yaml"
    file.write_text(json.dumps(fields))  # JSON is YAML
    before, flags = sys.argv, ["lm-eval", "--model", "cola", "--tasks", str(file), "--limit", "3"]
    # the harness cuts its arguments at commas
    given = f"checkpoint={tiny_checkpoint},path=0-1,3,3,4,data=1"
    main([*flags, "--model_args", given, "--output_path", str(tmp_path / "out.json")])
    assert "acc_norm" in capsys.readouterr().out
    assert sys.argv is before
    (file,) = tmp_path.glob("out*.json")
    results = json.loads(file.read_text())
    assert results["config"]["model_num_layers"] == tiny.LAYERS
    assert results["n-samples"]["choice"] == {"original": 4, "effective": 3}
    with pytest.raises(SystemExit):
        main([*flags, "--model_args", f"checkpoint={tiny_checkpoint},path=0-1,9"])
    error = capsys.readouterr().err.splitlines()
    assert "error: path '0-1,9' names layer 9, but the model has layers 0..4." in error

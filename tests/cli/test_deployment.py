"""`cola static`, `menu`, `distill` and `lm-eval`: what they write and refuse."""

import functools
import json
import logging
import sys
from pathlib import Path

import pytest

import cola_jax
from cola_jax.cli.main import main
from cola_jax.deploy.path_file import PathFile
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.layer_costs import LayerCosts
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.runs.estimates import CHANGE, CHOSEN, MODEL
from cola_jax.runs.results import read_results
from cola_jax.runs.run import Run
from cola_jax.steps import is_whole
from tests import tiny


@pytest.fixture
def common(tiny_checkpoint, tmp_path):
    """The flags of a model and of a task with held-out questions."""
    task = str(tiny.write_questions(tmp_path / "task.jsonl", 20))
    return ["--model", str(tiny_checkpoint), "--task", task, "--limit", "12", "--held-out", "8"]


def part_files(folder):
    """The part files of all runs in a folder, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}


def check_chosen_on_training_questions(used, run):
    """Check that what is used has the 12 training questions, and that the 8 held out measure it."""
    chosen_on, measured_on = (ChosenOn.from_json(run[x]) for x in ("chosen_on", "measured_on"))
    assert used["chosen_on"] == run["chosen_on"]
    assert (len(chosen_on.questions), len(measured_on.questions)) == (12, 8)
    assert not chosen_on.overlap(measured_on).questions
    assert len(chosen_on.wordings) == 1


def test_static_writes_a_path_and_its_effect(common, tmp_path, capsys, monkeypatch, refused):
    out = tmp_path / "out"
    command = ["static", *common, "--out", str(out)]
    command += ["--generations", "2", "--offspring", "4", "--first", "3", "--finalists", "3"]
    main(command)
    shown = capsys.readouterr().out
    assert "8 held-out questions" in " ".join(shown.split())
    used = json.loads((out / "static.json").read_text())
    assert used["layers"] <= 5
    results = read_results(out / "results.json")
    assert results.groups[0] == MODEL
    (chosen,) = (each for each in results if each.note == CHOSEN)
    assert (chosen.n, chosen.group) == (8, used["found"])
    check_chosen_on_training_questions(used, results.run)
    assert used["path"] == "0-4"  # as eight questions do not show that another is better
    assert results.sentences[0].startswith("Recommended: the model as it is. ")
    before = part_files(out)
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["static", "--config", str(out / "config.yaml"), "--json"])  # the same command
    again = json.loads(capsys.readouterr().out)
    assert again["estimates"] == results.to_json()["estimates"]
    assert part_files(out) == before
    main(["report", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == again
    main(["report", str(out), "--page", str(tmp_path / "page.html")])
    assert capsys.readouterr().out == shown
    assert used["found"] in (tmp_path / "page.html").read_text()
    (out / "results.json").unlink()
    assert "no results.json: run the same `cola static` again" in refused("report", out)
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
    assert all(words in shown for words in ("10.0 ms", "100.0 %"))
    times = [each for each in read_results(out / "results.json") if each.name == "time"]
    assert (times[0].group, times[0].value) == (MODEL, 10)
    assert 0 < max(each.value for each in times[1:]) <= 5
    costs.write_text("[2, 1, 5, 1, 2]")
    changed = refused(*command, "--out", out)
    assert "(--layer-costs: [2, 1, 5, 1, 1] there, [2, 1, 5, 1, 2] here)" in changed
    assert "--max-cost 0.5ms is below" in refused(*command, "--max-cost", "0.5ms", "--out", out)


def test_static_over_parts_is_recorded_resumed_and_chosen_from(
    common, tmp_path, capsys, monkeypatch, refused
):
    """The shares of the weights are the costs of parts, unless a file has their times."""
    out, costs = tmp_path / "out", tmp_path / "costs.json"
    command = ["static", *common, "--parts", "--shares", "0.5,0.25", "--max-cost", "85%"]
    command += ["--generations", "2", "--offspring", "6", "--first", "3", "--finalists", "3"]
    main([*command, "--out", str(out)])
    used = json.loads((out / "static.json").read_text())
    assert used["budget"]["parts"] is True
    assert used["budget"]["shares"] == "0.5,0.25"
    path = PathFile.of(used, "static.json").layers_of("static.json", tiny.LAYERS, found=True)
    found = cola_jax.parse_path(used["found"], tiny.LAYERS)
    assert used["steps"] == len(found)
    assert "layers" not in used
    assert path == found
    assert not all(map(is_whole, found))
    results = read_results(out / "results.json")
    recorded = Run(out).settings()
    assert (recorded["parts"], recorded["shares"]) == (True, [0.5, 0.25])
    assert results.run["settings"]["part_costs"] == recorded["part_costs"]
    assert results.value("layers", used["found"]) == pytest.approx(
        LayerCosts(tiny.LAYERS, parts=recorded["part_costs"]).layers(found)
    )
    capsys.readouterr()
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["static", "--config", str(out / "config.yaml"), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["estimates"] == results.to_json()["estimates"]
    costs.write_text(json.dumps({"milliseconds": [1] * 5, "parts": [[0.5, 0.5]] * 5}))
    chosen = cola_jax.choose(out, 5 * 0.99, layer_costs=costs)
    assert LayerCosts(tiny.LAYERS).of(chosen) <= 5 * 0.99
    whole = [flag for flag in command if flag not in ("--parts", "--shares", "0.5,0.25")]
    assert "parts" in refused(*whole, "--out", out)


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
        results.append(read_results(out / "results.json"))
    capsys.readouterr()
    first, second = (
        {each.group: each.value for each in result if each.name == "validation"}
        for result in results
    )
    assert first == second  # paths and their divergences; accuracy differs
    assert abs(first.pop(MODEL)) < 1e-5
    (chosen,) = (each for each in results[0] if each.note == CHOSEN)
    assert 0 < first[chosen.group] == min(first.values())
    assert chosen.n == 8
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["static", "--config", str(tmp_path / "other" / "config.yaml"), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["estimates"] == results[1].to_json()["estimates"]
    assert "give --max-layers of at most 4" in refused(
        "static", *common, *settings, "--out", tmp_path / "no-limit"
    )


def test_menu_of_a_search(common, tmp_path, capsys, monkeypatch, refused):
    run, out = tmp_path / "run", tmp_path / "menu"
    search = ["search", *common, "--simulations", "12", "--leaves", "6", "--control", "none"]
    main([*search, "--out", str(run)])
    command = ["menu", *common, "--out", str(out), "--runs"]
    main([*command, str(run), "--size", "3", "--candidates", "4"])
    assert "some path of" in capsys.readouterr().out
    menu = json.loads((out / "menu.json").read_text())
    assert menu["paths"][0] == "0-4"
    assert 2 <= len(menu["paths"]) <= 3
    results = read_results(out / "results.json")
    check_chosen_on_training_questions(menu, results.run)
    rules = {group.split(",")[0] for group in results.groups}
    assert {MODEL, "vote", "logprob", "selector"} < rules
    assert results.find(CHANGE, MODEL) is None
    assert (out / "selector.safetensors").exists()
    other = ["--out", str(tmp_path / "tried"), "--runs", str(run)]
    main(["menu", *common, *other, "--try-scorer", "options-norm", "--json"])
    assert json.loads(capsys.readouterr().out)["run"]["settings"]["paths"][0] == "0-4"
    before = part_files(out)
    monkeypatch.setattr(PathEvaluator, "__call__", None)  # everything has been evaluated before
    main(["menu", "--config", str(out / "config.yaml"), "--json"])  # the same command
    again = json.loads(capsys.readouterr().out)
    assert again["estimates"] == results.to_json()["estimates"]
    assert json.loads((out / "menu.json").read_text()) == menu
    assert part_files(out) == before
    for flags, message in (
        (["--size", "1"], "size must be at least 2"),
        (["--max-layers", "4"], "begins with the identity path"),
    ):
        assert message in refused(*command, run, *flags)


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

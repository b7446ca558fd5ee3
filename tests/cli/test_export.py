"""`cola export`: what each format writes, prints and refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import cola_jax
from cola_jax.checkpoint import read_metadata
from cola_jax.cli.main import main
from cola_jax.formats.conversion import convert
from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL, Estimate
from cola_jax.runs.results import Results, read_results, write_results
from tests import tiny
from tests.formats.gguf_writer import tiny_llama, write


def export(model, path, out, *flags):
    main(["export", "--model", str(model), "--path", str(path), "--out", str(out), *flags])


def test_export_takes_the_path_of_a_front_for_a_cost(tiny_checkpoint, tmp_path, capsys, refused):
    """And the model card has the budget, and the verdict of that path."""
    task = str(tiny.write_questions(tmp_path / "task.jsonl", 20))
    common = ["--model", str(tiny_checkpoint), "--task", task, "--limit", "12", "--held-out", "8"]
    out, costs = tmp_path / "out", tmp_path / "costs.json"
    costs.write_text("[2, 1, 5, 1, 1]")
    command = ["static", *common, "--layer-costs", str(costs), "--max-cost", "60%"]
    command += ["--generations", "2", "--offspring", "6", "--first", "3", "--finalists", "3"]
    main([*command, "--out", str(out)])
    export = ["export", *common[:2], "--path", str(out / "static.json")]
    capsys.readouterr()
    main([*export, "--max-cost", "50%", "--output", str(tmp_path / "model")])
    front = [each for each in read_results(out / "results.json") if each.name == "time"]
    (name,) = re.findall(r"path ([0-9,-]+), ", capsys.readouterr().out)
    assert name in {each.group for each in front if each.value <= 5}
    assert cola_jax.format_path(cola_jax.choose(out, 5)) == name
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| budget | a cost of at most 50%, by measured times of layers |" in card
    assert f"The report: Nothing shown: {name} does not differ" in card
    served = ["--format", "vllm", "--source", "me/base", "--output", str(tmp_path / "served")]
    main([*export, "--max-cost", "50%", *served])
    content = json.loads((tmp_path / "served" / "path.json").read_text())
    assert content["path"] == name
    assert content["budget"]["max_cost"] == "60%"  # of the search
    assert content["budget"]["budget"] == "a cost of at most 50%, by measured times of layers"
    assert [effect["change"]["group"] for effect in content["effects"]] == [name]
    keys = content["chosen_on"]["questions"].split()
    assert len(keys) == 20  # those held out chose it among the paths of the front
    for flags, message in (
        (["--max-cost", "1ms"], "costs at most 1 ms"),
        (["--layer-costs", str(costs)], "for a path within --max-cost"),
    ):
        assert message in refused(*export, *flags, "--output", tmp_path / "other")
    plain = ["export", *common[:2], "--path", "0-3", "--max-cost", "80%"]
    assert "give its static.json" in refused(*plain, "--output", tmp_path / "other")


def test_export_writes_a_card_with_the_effect_and_uploads(tiny_checkpoint, hub, tmp_path, capsys):
    file = tmp_path / "static.json"
    file.write_text(json.dumps({"path": "0-1,3-4"}))
    estimates = [Estimate(CORRECT, group, 0.5) for group in (MODEL, "0-1,3-4")]
    estimates.append(Estimate(CHANGE, "0-1,3-4", 0, "points", -0.1, 0.1, n=9))
    run = {"settings": {"command": "evaluate"}, "start": {"task": "arc-easy"}}
    write_results(Results(estimates, run), tmp_path / "results.json")
    flags = "--effect", str(tmp_path / "results.json"), "--push-to-hub", "me/tiny"
    export(tiny_checkpoint, file, tmp_path / "out", *flags)
    files = {x.relative_to(tmp_path / "out") for x in (tmp_path / "out").rglob("*") if x.is_file()}
    assert {*map(Path, hub.repositories["models/me/tiny"])} == files
    assert "path 0-1,3-4, 4 layers of 5, " in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "cola export --model theirs --path '0-1,3-4' --output THIS_FOLDER\n" in card
    assert "| arc-easy | 9 |" in card
    assert (tmp_path / "out" / ".eval_results" / "arc_easy.yaml").exists()
    export(tiny_checkpoint, file, tmp_path / "one.yaml", "--format", "mergekit")
    recipe = yaml.safe_load((tmp_path / "one.yaml").read_text())
    name = read_metadata(tiny_checkpoint)["origin"]["name"]
    assert recipe["slices"][0]["sources"][0]["model"] == name


@pytest.mark.parametrize("engine", ["vllm", "exllamav3"])
def test_export_writes_the_file_of_a_path_and_prints_a_command(
    tiny_checkpoint, hub, tmp_path, capsys, engine
):
    chosen = {"questions": "00c4dc0b9e19", "wordings": "834f684528b1", "complete": True}
    file = tmp_path / "static.json"
    used = {"path": "0-1,3-4", "found": "0-1,3-4", "task": "arc-easy", "chosen_on": chosen}
    used |= {"wordings": [{"key": "834f684528b1", "format": "plain"}], "budget": {"max_layers": 4}}
    file.write_text(json.dumps(used))
    estimates = [Estimate(CORRECT, group, 0.5) for group in (MODEL, "0-1,3-4")]
    estimates.append(Estimate(CHANGE, "0-1,3-4", 0, "points", -0.1, 0.1, n=9))
    run = {"settings": {"command": "evaluate"}, "start": {"task": "arc-easy"}}
    write_results(Results(estimates, run), tmp_path / "results.json")
    out = tmp_path / "out"
    flags = "--effect", str(tmp_path / "results.json"), "--push-to-hub", "me/found"
    export(tiny_checkpoint, file, out, "--format", engine, "--source", "me/base@v1", *flags)
    command = capsys.readouterr().out.splitlines()[-1]
    starts = {"vllm": "vllm serve me/base --revision v1 --hf-overrides '{"}
    starts["exllamav3"] = "hf download me/base --revision v1 --local-dir base && python examples/"
    assert command.startswith(starts[engine])
    content = json.loads((out / "path.json").read_text())
    assert content["commands"][engine] == command
    assert content["base"] == {"hub_id": "me/base", "revision": "v1"}
    for name in ("path", "task", "wordings", "budget", "chosen_on"):
        assert content[name] == used[name]
    assert content["model"] == read_metadata(tiny_checkpoint)["digest"]
    (effect,) = content["effects"]
    assert effect["facts"]["hash"].startswith("none: cola evaluate measured it")
    files = {str(x.relative_to(out)) for x in out.rglob("*") if x.is_file()}
    assert files == {"path.json", "README.md", ".eval_results/arc_easy.yaml"}
    assert {*hub.repositories["models/me/found"]} == files
    card = (out / "README.md").read_text()
    for text in (
        "\nbase_model: me/base\n",
        f"\n{command}\n",
        "| found for the task | arc-easy |\n| in the wordings | format plain |\n",
        "| with the budget | max_layers 4 |\n| chosen on | 1 question in 1 prompt |\n",
        f"cola export --model theirs --path '0-1,3-4' --format {engine} --source me/base@v1 "
        "--output THIS_FOLDER\n",
        "There are no weights here: engines run the path on those of me/base at revision v1.\n",
        "| arc-easy | 9 |",
    ):
        assert text in card
    assert str(tiny_checkpoint.parent) not in card + (out / "path.json").read_text()
    # what was written names the path, in each of its forms
    for text in (out, out / "path.json", "me/found"):
        export(tiny_checkpoint, text, tmp_path / "again", "--format", engine)
        again = json.loads((tmp_path / "again" / "path.json").read_text())
        assert {x: again[x] for x in used if x != "found"} == {
            x: used[x] for x in used if x != "found"
        }
        assert "effects" not in again  # which are stated where their results are given
        shutil.rmtree(tmp_path / "again")


def test_export_says_that_missing_parts_are_zeros(tiny_checkpoint, tmp_path, capsys, refused):
    export(tiny_checkpoint, "0-1,2a,3m", tmp_path / "hf")
    said = capsys.readouterr().out
    assert "path 0-1,2a,3m, 4 steps of a model with 5 layers, " in said
    assert "are zeros here, which is exact and saves neither time nor memory" in said
    export(tiny_checkpoint, "0-1", tmp_path / "whole")
    assert "zeros" not in capsys.readouterr().out
    command = [
        "export",
        "--model",
        tiny_checkpoint,
        "--path",
        "0,1*0.5",
        "--output",
        tmp_path / "x",
    ]
    assert "weights cannot: its MLP reads all" in refused(*command)


def test_export_of_a_path_names_the_folder_of_its_model(tiny_checkpoint, tmp_path, capsys, refused):
    command = ["--format", "vllm", "--chosen-on", "unknown"]
    export(tiny_checkpoint, "0-1,3-4", tmp_path / "out", *command)
    theirs = read_metadata(tiny_checkpoint)["origin"]["name"]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"vllm serve {theirs} --hf-")
    content = json.loads((tmp_path / "out" / "path.json").read_text())
    assert content["commands"]["vllm"].startswith("vllm serve theirs --hf-overrides '{")
    assert not {"base", "chosen_on", "task"} & content.keys()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "here, and the base model is a local directory: give its place.\n" in card
    flags = ["--model", tiny_checkpoint, "--out", tmp_path / "new", "--format", "vllm"]
    for path, more, message in (
        ("0-4", ["--allow-overlap"], "--allow-overlap is for --effect"),
        ("0-4", ["--source", "x"], "--source x is neither a directory nor a Hub id"),
        ("0-4", ["--source", "a/b@"], "--source a/b@ is neither a directory nor a Hub id"),
        ("0-4", ["--source", "a/b@v; rm"], "--source a/b@v; rm is neither a directory nor a"),
        ("0-5", [], "names layer 5, but the model has layers 0..4"),
        ("me/x", [], "me/x"),
    ):
        assert message in refused("export", "--path", path, *flags, *more)
    assert not (tmp_path / "new").exists()


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
        (["--format", "peft"], "path 0-4 runs no step twice"),
        (["--push-to-hub", "me/x", "--format", "gguf"], "hf, peft, vllm or exllamav3, not gguf"),
        (["--private"], "--private is for uploads: give --push-to-hub"),
        (["--source", "x"], "--source is for --format mergekit, gguf, vllm or exllamav3, not hf"),
        (["--format", "mergekit", "--out", tiny_checkpoint / "new"], "is inside the source"),
    ):
        assert message in refused(*command, *flags)
    assert not list(tmp_path.iterdir())

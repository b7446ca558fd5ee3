"""`cola generate`, `search` and `scan`: completions, layer costs, and the map of blocks."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.cli.main import main
from cola_jax.cli.runs import read_prompts
from cola_jax.runs.results import read_results
from cola_jax.runs.run import Run
from tests import tiny

PATHS = ("0-4", "0-1,3-4")


@pytest.fixture
def command(tiny_checkpoint):
    return ["generate", "--model", str(tiny_checkpoint), "--data", "1", "--max-new-tokens", "5"]


def test_generate_writes_what_the_function_decodes(
    command, tiny_checkpoint, tmp_path, capsys, refused
):
    prompts, out = tmp_path / "prompts.jsonl", str(tmp_path / "run")
    rows = [{"prompt": " ".join(tiny.WORDS[i : i + 3]), "id": f"p{i}"} for i in range(5)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command += ["--prompts-file", str(prompts), "--paths", *PATHS, "--out", out]
    main(command)
    run = Run(out)
    assert run.facts().command == "generate"
    rows = {(row["question"], tuple(row["path"])): row for row in run.evaluations().to_pylist()}
    paths = [cola_jax.parse_path(path, 5) for path in PATHS]
    assert rows.keys() == {(f"p{i}", path) for i in range(5) for path in paths}
    tokenizer, model = cola_jax.load_tokenizer(tiny_checkpoint), cola_jax.load(tiny_checkpoint)
    ids = tokenizer(" ".join(tiny.WORDS[:3]), return_tensors="np").input_ids
    stop = cola_jax.Stop(stop_tokens(tiny_checkpoint), tokenizer=tokenizer)
    alone = cola_jax.generate(model, ids, [paths], max_new_tokens=5, stop=stop)
    for c, path in enumerate(paths):
        row = rows["p0", path]
        tokens = alone.tokens[0, c, : alone.length[0, c]].tolist()
        assert row["tokens"] == tokens
        assert row["text"] == stop.text(tokens)
        assert row["finish"] == alone.finish[0, c]
        assert row["logprob"] == pytest.approx(float(np.sum(alone.logprob[0, c])), abs=1e-4)
        # there is no answer to grade
        assert row["verdict"] is row["grade"] is row["answer_text"] is None
    said = capsys.readouterr().out
    assert said.count("0-4") == said.count("0-1,3-4") == 5
    before = [part["evaluations"].stat().mtime for part in run.parts()]
    main(["generate", "--config", f"{out}/config.yaml", "--json"])  # the same command
    printed = json.loads(capsys.readouterr().out)
    assert {
        (row["question"], cola_jax.parse_path(row["path"], 5)) for row in printed
    } == rows.keys()
    assert printed[0].keys() == {"question", "path", "finish", "logprob", "text"}
    assert [part["evaluations"].stat().mtime for part in run.parts()] == before
    assert "stop: [] there, ['x'] here" in refused(*command, "--stop", "x")


def test_generate_draws_what_the_function_draws(command, tiny_checkpoint, tmp_path, refused):
    text, out = " ".join(tiny.WORDS[:3]), str(tmp_path / "run")
    command += ["--prompt", text, "--paths", *PATHS, "--out", out]
    assert "top_p is 0.8, but nothing is drawn" in refused(*command, "--top-p", "0.8")
    command += ["--temperature", "2", "--sample-seed", "3", "--top-p", "0.8"]
    main(command)
    ids = cola_jax.load_tokenizer(tiny_checkpoint)(text, return_tensors="np").input_ids
    drawn = cola_jax.generate(
        cola_jax.load(tiny_checkpoint),
        ids,
        [[cola_jax.parse_path(path, 5) for path in PATHS]],
        max_new_tokens=5,
        stop=cola_jax.Stop(stop_tokens(tiny_checkpoint)),
        temperature=2.0,
        top_p=0.8,
        seed=3,
    )
    rows = Run(out).evaluations().to_pylist()
    tokens = [row[row != -1].tolist() for row in drawn.tokens[0]]
    assert [row["tokens"] for row in rows] == tokens
    assert "--sample-seed: 3 there, 4 here" in refused(*command, "--sample-seed", "4")
    assert "--top-p: 0.8 there, 0.7 here" in refused(*command, "--top-p", "0.7")
    assert "the temperature is nan" in refused(*command, "--temperature", "nan")


def test_search_records_and_shows_layer_costs(tiny_checkpoint, tmp_path, capsys, refused):
    costs = tmp_path / "costs.json"
    costs.write_text("[2, 1, 5, 1, 1]")
    task = str(tiny.write_questions(tmp_path / "task.jsonl", 2))
    command = ["search", "--model", str(tiny_checkpoint), "--task", task, "--simulations", "4"]
    command += ["--control", "none", "--output", str(tmp_path / "run"), "--layer-costs", str(costs)]
    main(command)
    assert Run(tmp_path / "run").settings()["layer_costs"] == [2, 1, 5, 1, 1]
    shown = capsys.readouterr().out
    assert re.search(r"mean time of the best paths +[\d.]+ ms", shown)
    costs.write_text("[2, 1, 5, 1, 2]")
    assert "(--layer-costs: [2, 1, 5, 1, 1] there, [2, 1, 5, 1, 2] here)" in refused(*command)


def test_evaluate_compares_paths_over_prompts(tiny_checkpoint, tmp_path, capsys, refused):
    command = ["evaluate", "--model", tiny_checkpoint, "--task", "arithmetic", "--level", "1"]
    command += ["--limit", "4", "--prompts", "2", "--output", tmp_path / "run", "--paths", "0-3"]
    assert "identity path in each prompt: add --paths 0-4" in refused(*command)
    assert not (tmp_path / "run").exists()
    both = refused(*command, "0-4", "--choose-prompts", "2")
    assert "--prompts in all of them: give one of the two" in both
    main([*map(str, command), "0-4"])
    text = " ".join(capsys.readouterr().out.split())
    assert "16 evaluations on 4 of 4 questions, in 2 prompts; 5 layers." in text
    assert "prompt 1 prompt 2" in text
    main([*map(str, command), "0-4", "--json"])
    (task,) = json.loads(capsys.readouterr().out)
    names = [each["name"] for each in task["estimates"] if each.get("group") == "0-3"]
    assert names == ["layers", "correct", "points more", "prompt 1", "prompt 2", "prompt sd"]


def test_generate_prints_without_a_directory(command, capsys, tmp_path, monkeypatch, refused):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "there are no prompts" in refused(*command)
    main([*command, "--prompt", "sun moon", "[bold]ice[/bold]", "--chat"])
    assert capsys.readouterr().out.count("0-4") == 2
    assert not list(Path(tmp_path).iterdir())

    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("cola_jax.cli.runs.run_with_progress", interrupt)
    with pytest.raises(SystemExit) as end:
        main([*command, "--prompt", tiny.WORDS[0]])
    assert end.value.code == 130
    assert "interrupted: nothing is kept. Give --output" in capsys.readouterr().err


def test_read_prompts_names_prompts_by_place_and_rows_by_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "id": 7}\n{"prompt": "b"}\n')
    read = [(question.id, question.text) for question in read_prompts(("sun",), file)]
    assert read == [("0", "sun"), ("7", "a"), ("2", "b")]
    for lines, message in (
        ('{"prompt": 3}', r"rows\.jsonl:1: the field 'prompt' must be a text, it is 3"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "two prompts have the id '1'"),
        ('{"prompt": "a"}', "two prompts have the id '1'"),  # that of its line
    ):
        file.write_text(lines + "\n")
        with pytest.raises(ValueError, match=message):
            read_prompts(("sun", "moon"), file)


def test_scan_maps_every_block(tiny_checkpoint, tmp_path, capsys, refused):
    task, out = tiny.write_questions(tmp_path / "task.jsonl", 4), tmp_path / "run"
    command = ["scan", "--model", str(tiny_checkpoint), "--task", str(task), "--out", str(out)]
    main([*command, "--longest-block", "2"])
    text = " ".join(capsys.readouterr().out.split())
    assert "corrected for 18 blocks" in text
    assert "76 evaluations on 4 of 4 questions" in text
    results = read_results(out / "results.json")
    rows = list(csv.DictReader(io.StringIO((out / "report.csv").read_text())))
    assert [row["group"] for row in rows] == [each.group for each in results]
    assert results.run["paths"]["skip 0-1"] == "2-4"
    page = (out / "report.html").read_text()
    assert page.count("<figure id=") == 1
    assert "Nothing shown: no block" in page
    main(command)  # all blocks: those of the run and others
    assert len(read_results(out / "results.json").groups) == 1 + 29
    for flags, message in (
        (["--longest-block", "6"], "give 1 to 5"),
        (["--prompts", "2"], "leave out --prompts, and try the best with `cola verify`"),
        (["--limit", "1"], "a map needs 2 or more questions, there is 1"),
    ):
        assert message in refused(*command, *flags)

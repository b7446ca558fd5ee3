"""`cola generate` and `cola scan`: completions along paths, and the map of blocks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.cli.main import main
from cola_jax.cli.report import Report
from cola_jax.cli.runs import read_prompts
from cola_jax.runs.run import Run
from tests import tiny
from tests.cli.conftest import Refused

PATHS = ("0-4", "0-1,3-4")


@pytest.fixture
def model(tiny_checkpoint):
    return str(tiny_checkpoint)


def generate(model, *arguments):
    main(["generate", "--model", model, "--data", "1", "--max-new-tokens", "5", *arguments])


@pytest.fixture
def refused_generate(refused, model):
    """Run a command that must fail; return why."""

    def run(*arguments, status=1):
        flags = ["--data", "1", "--max-new-tokens", "5"]
        return refused("generate", "--model", model, *flags, *arguments, status=status)

    return run


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": " ".join(tiny.WORDS[i : i + 3]), "id": f"p{i}"} for i in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_generate_writes_what_the_function_decodes(
    model, prompts, tmp_path, capsys, refused_generate
):
    out = str(tmp_path / "run")
    flags = ("--prompts-file", prompts, "--paths", *PATHS, "--out", out, "--batch-size", "2")
    generate(model, *flags)
    run = Run(out)
    assert run.manifest()["settings"]["command"] == "generate"
    rows = {(row["question"], tuple(row["path"])): row for row in run.evaluations().to_pylist()}
    paths = [cola_jax.parse_path(path, 5) for path in PATHS]
    assert rows.keys() == {(f"p{i}", path) for i in range(5) for path in paths}
    tokenizer, ours = cola_jax.load_tokenizer(model), cola_jax.load(model)
    ids = tokenizer(" ".join(tiny.WORDS[:3]), return_tensors="np").input_ids
    stop = cola_jax.Stop(stop_tokens(model), tokenizer=tokenizer)
    alone = cola_jax.generate(ours, ids, [paths], max_new_tokens=5, stop=stop)
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
    generate(model, *flags[:-2])  # a finished run is printed again
    assert capsys.readouterr().out.count("0-4") == 5
    main(["generate", "--config", f"{out}/config.yaml", "--json"])  # the same command
    printed = json.loads(capsys.readouterr().out)
    assert {(row["question"], row["path"]) for row in printed} == {
        (f"p{i}", path) for i in range(5) for path in PATHS
    }
    assert printed[0].keys() == {"question", "path", "finish", "logprob", "text"}
    assert [part["evaluations"].stat().mtime for part in run.parts()] == before
    error = refused_generate(*flags, "--stop", "x")
    assert "created with different settings" in error
    assert "stop: [] there, ['x'] here" in error
    assert "different settings" in refused_generate(*flags, "--max-new-tokens", "4")
    assert "different settings" in refused_generate(*flags[:-2], "--paths", "0-4")
    with pytest.raises(ValueError, match=r"made by .generate., not by a search"):
        Report((out,)).run()


def test_generate_prints_without_a_directory(model, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    generate(model, "--prompt", "sun moon", "[bold]ice[/bold]", "--chat")
    assert capsys.readouterr().out.count("0-4") == 2
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there are no prompts"),
        (
            ("--prompt", "sun", "--max-new-tokens", "300"),
            "question 0 has 3 tokens and 300 new ones",
        ),
        (("--prompt", "sun", "--paths", "0-9"), "0..4"),
        (("--prompts-file", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_generate_refuses_bad_arguments(arguments, message, refused_generate):
    assert message in refused_generate(*arguments)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"prompt": 3}', "rows.jsonl:1: the field 'prompt' must be a text, it is 3"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "two prompts have the id '1'"),
        # a row without an id has that of its line
        ('{"prompt": "a"}', "two prompts have the id '1'"),
        ('{"prompt": "a\\ud800"}', "rows.jsonl:1 cannot be read ('utf-8' codec can't encode"),
    ],
)
def test_read_prompts_refuses_bad_rows(tmp_path, lines, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prompts(("sun", "moon"), file)
    rows = '{"prompt": "a", "id": 7}\n{"prompt": "b"}\n'
    file.write_text(rows)
    read = [(question.id, question.text) for question in read_prompts(("sun",), file)]
    assert read == [("0", "sun"), ("7", "a"), ("2", "b")]


def test_interrupt_without_a_run_directory_says_that_nothing_is_kept(model, capsys, monkeypatch):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("cola_jax.cli.runs.run_with_progress", interrupt)
    with pytest.raises(SystemExit) as end:
        generate(model, "--prompt", tiny.WORDS[0])
    assert end.value.code == 130
    assert "interrupted: nothing is kept. Give --output" in capsys.readouterr().err


def test_scan_maps_every_block(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    task = tiny.write_questions(tmp_path / "task.jsonl", 4)
    out = tmp_path / "run"
    common = ["--model", str(tiny_checkpoint), "--task", str(task), "--out", str(out)]
    main(["scan", *common, "--longest-block", "2"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "18 blocks on 4 questions" in shown
    assert "measured on the other" in shown
    assert len((out / "report.csv").read_text().splitlines()) == 1 + 18
    page = (out / "report.html").read_text()
    assert page.count("<figure id=") == 1
    assert "Nothing shown: no block" in page
    main(["scan", *common])  # all blocks: those of the run and others
    assert " blocks on 4 questions" in " ".join(capsys.readouterr().out.split())
    assert len((out / "report.csv").read_text().splitlines()) > 1 + 18
    for flags, message in (
        (["--longest-block", "2"], "created with different settings"),
        (["--longest-block", "6"], "give 1 to 5"),
        (["--limit", "1"], "a map needs 2 or more questions, there is 1"),
    ):
        assert message in refused("scan", *common, *flags)

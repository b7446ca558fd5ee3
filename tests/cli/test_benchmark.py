"""`cola benchmark`: the table, the file and the errors."""

import json

import pytest

from cola_jax.cli.benchmark import ratio_table
from cola_jax.cli.main import main
from cola_jax.execute import benchmark
from tests import tiny

TINY = benchmark.llama(4, 32, 4, 2, 48, 97)
FLAGS = ["--tokens", "16", "--paths", "4", "--reads", "2", "--rounds", "1"]


def test_benchmark_writes_what_its_table_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(benchmark.SHAPES, "tiny", TINY)
    monkeypatch.setattr(benchmark, "MATMUL_SIZE", 64)
    file = tmp_path / "results.json"
    main(["benchmark", "--model", "tiny", "--out", str(file), *FLAGS])
    results = json.loads(file.read_text())
    assert results["command"]["model"] == "tiny"
    assert ratio_table(results).row_count == 6 + 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"run_paths, 4 paths of one question, T = 16 {chr(0x2502)}" in shown
    assert "run_path, path by path, over run_paths" in shown
    main(["benchmark", "--model", "tiny", "--json", *FLAGS])
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == results.keys() - {"command"}


def test_benchmark_searches_a_task(tiny_checkpoint, tmp_path, capsys):
    task, file = tiny.write_questions(tmp_path / "task.jsonl", 3), tmp_path / "results.json"
    flags = ["--task", str(task), "--limit", "2", "--simulations", "3", "--rounds", "2"]
    (tmp_path / "run.yaml").write_text(f"output: {file}")
    config = ["--config", str(tmp_path / "run.yaml")]
    main(["benchmark", "--model", str(tiny_checkpoint), *config, *flags])
    results = json.loads(file.read_text())
    assert results["command"]["limit"] == results["questions"] == 2
    assert 0 < results["least"] <= results["evaluations_per_second"] <= results["most"]
    assert len(results["rounds"]) == 2
    assert f"questions of up to {results['tokens']} tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "arithmetic"], "smollm2-135m is a shape with random weights"),
        (["--model", "gpt 5"], "gpt 5 is not a model: no such directory"),
        (["--model", "smolm2-135m"], "did you mean smollm2-135m?"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--out", "."], ". is a directory: give a file."),
    ],
)
def test_benchmark_refuses_bad_input(arguments, message, refused):
    assert message in refused("benchmark", *arguments)

"""`cola benchmark`: the table, the file and the errors."""

import json

import pytest

from cola_jax.cli.main import main
from tests import tiny


def test_benchmark_writes_what_its_table_shows(tiny_checkpoint, tmp_path, capsys):
    task, file = tiny.write_questions(tmp_path / "task.jsonl", 3), tmp_path / "results.json"
    flags = ["--task", str(task), "--limit", "2", "--simulations", "3", "--rounds", "2"]
    (tmp_path / "run.yaml").write_text(f"output: {file}")
    config = ["--config", str(tmp_path / "run.yaml")]
    main(["benchmark", "--model", str(tiny_checkpoint), *config, *flags])
    results = json.loads(file.read_text())
    assert results["command"]["limit"] == results["questions"] == 2
    assert 0 < results["least"] <= results["evaluations_per_second"] <= results["most"]
    assert len(results["rounds"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert f"questions of up to {results['tokens']} tokens" in shown
    assert f"prefix sharing {chr(0x2502)} {results['rounds'][1]['prefix_sharing']:.2f}x" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt 5"], "gpt 5 is not a model: no such directory"),
        (["--model", "m", "--rounds", "0"], "rounds must be at least 1"),
        (["--model", "m", "--output", "."], ". is a directory: give a file."),
    ],
)
def test_benchmark_refuses_bad_input(arguments, message, refused):
    assert message in refused("benchmark", "--task", "arithmetic", *arguments)

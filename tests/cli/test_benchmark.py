"""`cola benchmark`: the table, the file and the errors."""

import json

from cola_jax.checkpoint import read_metadata
from cola_jax.cli.main import main
from cola_jax.layer_costs import read_layer_costs
from tests import tiny


def test_benchmark_writes_what_its_table_shows(tiny_checkpoint, tmp_path, capsys, refused):
    task, file = tiny.write_questions(tmp_path / "task.jsonl", 3), tmp_path / "results.json"
    command = ["benchmark", "--model", str(tiny_checkpoint), "--task", str(task), "--limit", "2"]
    main([*command, "--simulations", "3", "--rounds", "2", "--output", str(file)])
    results = json.loads(file.read_text())
    assert results["command"]["limit"] == results["questions"] == 2
    assert 0 < results["least"] <= results["evaluations_per_second"] <= results["most"]
    assert len(results["rounds"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert f"questions of up to {results['tokens']} tokens" in shown
    assert f"prefix sharing {results['rounds'][1]['prefix_sharing']:.2f}x" in shown
    main([*command, "--layers", "--rounds", "1", "--output", str(file)])
    costs = json.loads(file.read_text())
    assert len(costs["milliseconds"]) == tiny.LAYERS
    assert min(*costs["milliseconds"], costs["path_milliseconds"]) > 0
    assert costs["dtype"] == "float32"
    shown = " ".join(capsys.readouterr().out.split())
    assert f"layer 4 {costs['milliseconds'][4]:.3g} ms a question" in shown
    digest = read_metadata(tiny_checkpoint)["digest"]
    read = read_layer_costs(file, tiny.LAYERS, digest)
    assert read.milliseconds == tuple(costs["milliseconds"])
    assert "rounds must be at least 1" in refused(*command, "--rounds", "0")
    assert "in one prompt: leave out --prompts" in refused(*command, "--prompts", "2")
    assert ". is a directory: give a file." in refused(*command, "--output", ".")

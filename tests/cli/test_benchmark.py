"""`cola benchmark`: the table, the file and the errors."""

import pytest

from cola_jax.checkpoint import read_metadata
from cola_jax.cli import benchmark
from cola_jax.cli.benchmark import SPEED
from cola_jax.cli.main import main
from cola_jax.errors import InputError
from cola_jax.layer_costs import read_layer_costs
from cola_jax.runs.results import read_results
from tests import tiny


def test_benchmark_writes_what_its_table_shows(
    tiny_checkpoint, tmp_path, capsys, refused, monkeypatch
):
    task, file = tiny.write_questions(tmp_path / "task.jsonl", 3), tmp_path / "results.json"
    command = ["benchmark", "--model", str(tiny_checkpoint), "--task", str(task), "--limit", "2"]
    main([*command, "--simulations", "3", "--rounds", "2", "--output", str(file)])
    results = read_results(file)
    assert results.run["settings"]["flags"]["limit"] == results.run["done"] == 2
    least, speed, most = (results.value(SPEED + end) for end in (", least", "", ", most"))
    assert 0 < least <= speed <= most
    assert len(results.run["rounds"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert f"prefix sharing {results.run['rounds'][1]['prefix_sharing']:.2f}x" in shown
    assert results.run["start"]["device"] in shown
    monkeypatch.setattr(benchmark, "TIMED", 1)
    main([*command, "--layers", "--rounds", "1", "--output", str(file)])
    results = read_results(file)
    times = {each.group: each for each in results if each.group}
    assert len(times) == 3 * tiny.LAYERS + 2
    assert min(each.value for each in times.values()) > 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"layer 4 {times['layer 4'].text}" in shown
    assert "1 of 1 questions, for" in shown
    digest = read_metadata(tiny_checkpoint)["digest"]
    read = read_layer_costs(file, tiny.LAYERS, digest)
    assert read.total == pytest.approx(times["sum of layers"].value)
    assert read.of_layer[4] == times["layer 4"].value
    assert read.of_parts[4] == (times["attention 4"].value, times["mlp 4"].value)
    with pytest.raises(InputError, match="its model is"):
        read_layer_costs(file, tiny.LAYERS, "another")
    assert "rounds must be at least 1" in refused(*command, "--rounds", "0")
    assert "in one prompt: leave out --prompts" in refused(*command, "--prompts", "2")
    assert ". is a directory: give a file." in refused(*command, "--output", ".")

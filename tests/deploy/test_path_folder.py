"""Folders of a path: what its search is said to be, and what is left of one that fails."""

import json

import pytest

from cola_jax.checkpoint import read_metadata
from cola_jax.deploy.path_folder import export_path, found_with
from cola_jax.errors import InputError
from tests.runs.test_earlier import EARLIER
from tests.small_runs import evaluated_run  # noqa: F401

USED = {"path": "0-2", "task": "arc-easy", "wordings": [{"shots": 1}], "budget": {"max_layers": 3}}


def test_found_with_reads_the_file_of_the_path_or_what_chose_it(evaluated_run, tmp_path):  # noqa: F811
    used = {name: USED[name] for name in ("task", "wordings", "budget")}
    (tmp_path / "static.json").write_text(json.dumps(USED))
    (tmp_path / "menu.json").write_text(json.dumps({"paths": ["0-2"]}))
    run = str(evaluated_run.directory)
    for given, sources in (
        (str(tmp_path / "static.json"), [run]),
        ("0-2", [str(tmp_path), run]),
        ("0-2", [str(tmp_path / "menu.json"), str(tmp_path / "static.json")]),
    ):
        assert found_with(given, sources, {}) == used
    assert found_with(str(tmp_path / "static.json"), (), {"cost": "x"})["budget"] == {
        "max_layers": 3,
        "cost": "x",
    }
    assert found_with("0-2", ["unknown"], {"cost": "x"}) == {"budget": {"cost": "x"}}
    evaluated = found_with("0-2", [run], {})
    paths = evaluated_run.facts().settings["paths"]
    assert evaluated["budget"]["paths"] == len(paths)
    assert evaluated["wordings"][0]["format"] == "plain"
    searched = found_with("0-2", [str(EARLIER / "search")], {})  # of an earlier version
    assert searched["budget"]["simulations"] > 0


def test_export_path_leaves_nothing_of_an_export_that_fails(tiny_checkpoint, tmp_path, monkeypatch):
    metadata = read_metadata(tiny_checkpoint)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(InputError, match="taken exists already and is not empty"):
        export_path(metadata, (0, 1), taken, "vllm")
    monkeypatch.setattr("cola_jax.deploy.path_folder.write_eval_results", None)
    with pytest.raises(TypeError):
        export_path(metadata, (0, 1), tmp_path / "new", "vllm")
    assert [*tmp_path.iterdir()] == [taken]

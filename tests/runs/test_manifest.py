"""What `run.json` and the files of starts may hold, and the one line that says what is wrong."""

import json
from typing import Any

import pytest

from cola_jax.errors import InputError
from cola_jax.runs.directory import RunDirectory

START = {"num_layers": 4, "model": "m", "origin": {"kind": "hub", "name": "a/b", "revision": None}}
SETTINGS = {"command": "evaluate", "questions": 2, "paths": [[0, 1, 2, 3], [0, 3]]}


def written(folder: Any, settings: dict[str, Any], start: dict[str, Any]) -> RunDirectory:
    run = RunDirectory(folder / "run")
    (folder / "run" / "starts").mkdir(parents=True)
    (folder / "run" / "run.json").write_text(json.dumps({"settings": SETTINGS}))
    start = START | {"settings": SETTINGS | settings} | start
    (folder / "run" / "starts" / "0000-a.json").write_text(json.dumps(start))
    return run


def test_manifest_keeps_what_it_does_not_know(tmp_path: Any) -> None:
    manifest = written(tmp_path, {"later": 1}, {"other": [2]}).manifest()
    assert manifest["settings"] == SETTINGS | {"later": 1}  # those of the last start
    assert manifest["starts"] == [START | {"other": [2]}]


@pytest.mark.parametrize(
    ("settings", "start", "message"),
    [
        ({"paths": [[0, 4]]}, {}, "it has a path of layer 4, but the model has 4 layers"),
        ({"paths": [[]]}, {}, "settings.paths.0: List should have at least 1 item"),
        ({"paths": [[0, True]]}, {}, "settings.paths.0.1: Input should be a valid integer"),
        ({"paths": None}, {}, "it names no paths"),
        ({"questions": "2"}, {}, "settings.questions: Input should be a valid integer, got '2'"),
        ({"questions": None}, {}, "does not say how many layers"),
        ({"prompt": {"shots": []}}, {}, "settings.prompt.format: Field required"),
        ({}, {"num_layers": None}, "does not say how many layers"),
        ({}, {"num_layers": 10**6}, "0000-a.json .*num_layers: Input should be less than"),
        ({}, {"origin": ["a"]}, "0000-a.json .*origin: Input should be"),
        ({}, {"versions": {"jax": 1}}, "0000-a.json .*versions.jax: Input should be a valid"),
    ],
)
def test_manifest_refuses_other_values(
    tmp_path: Any, settings: Any, start: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        written(tmp_path, settings, start).manifest()
    assert "\n" not in str(error.value)

"""The manifest of a run: what it may hold, and the one line that says what is wrong."""

import json
from typing import Any

import pytest

from cola_jax.runs.manifest import parse_manifest

START = {"num_layers": 4, "model": "m", "origin": {"kind": "hub", "name": "a/b", "revision": None}}
SETTINGS = {"command": "evaluate", "questions": 2, "paths": [[0, 1, 2, 3], [0, 3]]}


def written(settings: dict[str, Any], start: dict[str, Any]) -> bytes:
    return json.dumps({"settings": SETTINGS | settings, "starts": [START | start]}).encode()


def test_manifest_keeps_what_it_does_not_know() -> None:
    manifest = parse_manifest(written({"later": 1}, {"other": [2]}))
    assert manifest["settings"]["later"] == 1
    assert manifest["starts"][0]["other"] == [2]


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
        ({}, {"num_layers": 10**6}, "starts.0.num_layers: Input should be less than"),
        ({}, {"origin": ["a"]}, "starts.0.origin: Input should be"),
        ({}, {"versions": {"jax": 1}}, "starts.0.versions.jax: Input should be a valid string"),
    ],
)
def test_manifest_refuses_other_values(settings: Any, start: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_manifest(written(settings, start))
    assert "\n" not in str(error.value)


def test_manifest_needs_a_start() -> None:
    with pytest.raises(ValueError, match="starts: List should have at least 1 item"):
        parse_manifest(b'{"settings": {}, "starts": []}')

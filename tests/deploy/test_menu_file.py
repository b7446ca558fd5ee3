"""Menus on disk: what is written is read back, and what is no menu is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cola_jax.deploy.menu_file import load_menu
from cola_jax.deploy.rules import Selector, Signals
from cola_jax.errors import InputError

CONTENT: dict[str, Any] = {
    "paths": ["0-4", "0,2-4"],
    "rule": "entropy",
    "sign": -1,
    "state_layer": 2,
    "model": "digest",
}


def write(folder: Path, **changed: Any) -> str:
    (folder / "menu.json").write_text(json.dumps(CONTENT | changed))
    return str(folder)


def test_menu_chooses_by_its_rule(tmp_path: Path) -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0]])
    told = Signals(np.array([["a", "b"], ["b", "b"]], object), -values, values, values)
    menu = load_menu(write(tmp_path), "digest", 5)
    assert menu.paths == ((0, 1, 2, 3, 4), (0, 2, 3, 4))
    assert menu.choose(told).tolist() == [0, 1]  # the lowest entropy
    assert load_menu(write(tmp_path, rule="vote"), "digest", 5).choose(told).tolist() == [0, 0]
    single = load_menu(write(tmp_path, rule="single", single=1), "digest", 5)
    assert single.paths == ((0, 2, 3, 4),)
    certain = load_menu(write(tmp_path, rule="certainty", sign=1), "digest", 5)
    assert certain.choose(told).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"model": "other"},
            "this model: its model is other, here it is digest",
        ),
        ({"rule": "guess"}, "rule: Input should be 'single', 'vote'.*got 'guess'"),
        ({"sign": 2}, "sign: Input should be 1 or -1, got 2"),
        ({"single": 2}, "single is 2 of 2 paths"),
        ({"state_layer": True}, "state_layer: Input should be a valid integer, got True"),
        ({"paths": ["0-9", "0"]}, "names layer 9"),
        ({"paths": ["0-4"]}, "paths: List should have at least 2 items"),
        ({"paths": "0-4"}, "paths: Input should be a valid list, got '0-4'"),
        ({"rule": "selector"}, "selector.npz is damaged"),
    ],
)
def test_what_is_no_menu_is_refused(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_menu(write(tmp_path, **changed), "digest", 5)


def test_files_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no menu\.json"):
        load_menu(str(tmp_path), "digest", 5)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "a JSON object belongs here"),
        ('{"paths": []}', "menu.json cannot be read \\(model: Field required\\)"),
    ):
        (tmp_path / "menu.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_menu(str(tmp_path), "digest", 5)


def test_selectors_of_another_menu_are_refused(tmp_path: Path) -> None:
    shapes = {"mean": 3, "scale": 3, "weights": (3, 4), "bias": 4}
    np.savez(tmp_path / "selector.npz", **{name: np.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(ValueError, match="other arrays than those of its menu"):
        load_menu(write(tmp_path, rule="selector"), "digest", 5)


def test_load_menu_refuses_a_selector_that_changed(tmp_path: Path) -> None:
    arrays = {"mean": np.zeros(3), "scale": np.ones(3), "weights": np.ones((3, 2))}
    selector = Selector(**arrays, bias=np.zeros(2))
    np.savez(tmp_path / "selector.npz", **selector._asdict())
    folder = write(tmp_path, rule="selector", selector=selector.digest)
    menu = load_menu(folder, "digest", 5)
    np.savez(tmp_path / "selector.npz", **selector._replace(bias=np.ones(2))._asdict())
    with pytest.raises(InputError, match=r"menu\.json does not belong to .*selector\.npz"):
        load_menu(folder, "digest", 5)
    single = write(tmp_path, rule="single", single=1)
    assert load_menu(single, "digest", 5).digest != menu.digest

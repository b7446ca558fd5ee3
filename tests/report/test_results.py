"""The content and tables of static.json and menu.json."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cola_jax.deploy.menu import MenuChoice, TaskMenu
from cola_jax.deploy.static import Measured, TaskPath
from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.report import results as documents
from tests.small_runs import printed


def written_and_read(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    deployed = documents.read_deployed(folder)
    assert deployed
    return deployed[0]


def test_static_content_has_what_its_table_shows(tmp_path):
    right = np.arange(10) % 2 == 0
    plain, other, dropped = (
        Measured(path, right, right[:4], on_front, held_out)
        for path, on_front, held_out in (
            ((0, 1, 2, 3), True, right), ((0, 1, 3), True, ~right), ((0, 3), False, right),
        )
    )  # fmt: skip
    chosen = TaskPath((plain, other, dropped), 1, 7, LayerCosts(4))
    content = documents.static_content(chosen, "sums", {"model": "m"})
    assert (content["path"], content["layers"], content["model"]) == ("0-1,3", 3, "m")
    assert [entry["path"] for entry in content["front"]] == ["0-3", "0-1,3"]
    assert content["effect"]["n"] == 10
    text = " ".join(printed(documents.static_table(content)).split())
    assert "7 paths were evaluated on all of 10 training questions; the best on 4" in text
    assert "0-1,3 (chosen) 3 50.0 % 50.0 % 50.0 % +0.0" in text
    costs = LayerCosts(4, (1.0, 2.0, 100.25, 1.0))
    measured = documents.static_content(dataclasses.replace(chosen, costs=costs), "sums", {})
    assert [entry["milliseconds"] for entry in measured["front"]] == [104.25, 4.0]
    text = printed(documents.static_table(measured))
    assert all(word in text for word in ("104.2 ms", "100.0 %", " 4 ms", " 3.8 %", "and cost"))
    assert written_and_read(tmp_path, "static.json", content) == content
    (tmp_path / "static.json").write_text("{}")
    with pytest.raises(InputError, match=r"static.json cannot be read .*Run `cola static` again"):
        documents.read_deployed(tmp_path)


def test_menu_content_has_what_its_table_shows(tmp_path):
    right = np.arange(10) % 2 == 0

    def choice(rule, sign, right):
        return MenuChoice(rule, sign, right[:5], right, 4.5)

    choices = choice("single", None, right), choice("entropy", -1, right | (np.arange(10) == 1))
    selector: Any = SimpleNamespace(digest="abc")
    paths = ((0, 1, 2, 3), (0, 3))
    plain, oracle = choice("plain", None, right), choice("oracle", None, right | ~right)
    menu = TaskMenu(paths, plain, choices, oracle, 1, selector, 2)
    content = documents.menu_content(menu, {"model": "m"})
    assert (content["rule"], content["sign"], content["single"]) == ("entropy", -1, 1)
    text = " ".join(printed(documents.menu_table(content), 120).split())
    assert "Menu: 0-3; 0,3. " in text
    assert "5 training questions" in text
    assert "entropy, lowest 4.5 80.0 % 60.0 % +10.0" in text
    assert written_and_read(tmp_path, "menu.json", content) == content
    (tmp_path / "menu.json").write_text("{}")
    with pytest.raises(InputError, match=r"menu.json cannot be read .*Run `cola menu` again"):
        documents.read_deployed(tmp_path)
    assert documents.read_deployed(tmp_path / "none") is None

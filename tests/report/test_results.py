"""`results.json`: what lm-evaluation-harness's own table makes of it; static.json and menu.json."""

import dataclasses
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lm_eval.utils import make_table

from cola_jax.deploy.menu import MenuChoice, TaskMenu
from cola_jax.deploy.static import Measured, TaskPath
from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.report import results as documents
from cola_jax.report.terminal import TerminalTable
from tests.report.conftest import WHOLE, letters, make_run, part, printed


def test_results_of_a_search(tmp_path):
    run = make_run(tmp_path, part("q1"), part("q2"), model="one")
    results = documents.write_results(run)
    ((task, entry),) = results["results"].items()
    assert entry["acc,none"] == 0.5
    assert entry["acc_stderr,none"] == math.sqrt(0.5 * 0.5 / 1)
    assert results["n-samples"][task]["effective"] == 2
    upper = "found_among_paths_upper_bound"
    assert f"{upper},none" in entry
    assert results["higher_is_better"][task] == {"acc": True}  # one question tells no net effect
    effects = results["cola_jax"]["effects"]
    assert effects["net"]["once"]["n"] == 1  # q2
    assert effects["net"]["once"]["interval"] == [None, None]
    assert effects["net"]["once"]["p_holm"] == effects["net"]["once"]["p"] == 1
    assert effects["layers_kept"]["once"]["n_right"] == 1
    assert effects["preference"].keys() == {"tau", "error"}
    assert "|acc" in make_table(results).replace(" ", "")
    assert json.loads((run.directory / "results.json").read_text()) == results
    preference = documents.read_preference(run.directory / "results.json", run.settings())
    assert preference._asdict() == pytest.approx(effects["preference"])
    with pytest.raises(InputError, match="its model is one, here it is another"):
        documents.read_preference(run.directory / "results.json", {"model": "another"})


def rows_of(results):
    """Return the metrics of lm-evaluation-harness's table with their cells."""
    lines = [[c.strip() for c in line.split("|")] for line in make_table(results).splitlines()[2:]]
    return {line[5]: line[6:10] for line in lines}


def test_harness_shows_the_net_effect_of_a_search(tmp_path):
    scores = [[-2.0, -1.0, -2.0]]  # the model has no preference between gold and the control
    names = [f"q{i}" for i in range(12)]
    fields = {"best": (0, 2), "control": 2, "baseline_scores": scores}
    rows = [(WHOLE, 1, False), ((0, 2), 0, True)]
    run = make_run(tmp_path, *(letters(name, rows, **fields) for name in names), questions=12)
    arrow, value, _, error = rows_of(documents.results_json(run))["net"]
    assert (arrow, float(value)) == ("↑", 1)
    low, high = documents.summarise(run).net.interval
    assert float(error) == pytest.approx((high - low) / 2 / 1.96, abs=1e-4)


def test_harness_shows_the_difference_of_a_path(evaluated):
    rows = rows_of(documents.results_json(evaluated))
    arrow, value, _, error = rows["difference"]
    assert (arrow, float(value)) == ("↑", 0.5)
    assert 0 < float(error) < 1


def test_tasks_table_has_a_row_for_each_metric(tmp_path):
    results = documents.results_json(make_run(tmp_path, part("q1"), part("q2")))
    name = "\x1b[31mred"  # an escape code is not shown
    entry = {"acc,none": 0.5, "acc_stderr,none": 0.1}
    other = {"results": {name: entry}, "n-samples": {name: {"effective": 4}}}
    text = printed(TerminalTable(documents.tasks_table([results, results, other])))
    assert text.count("found_among_paths") == 2
    assert "0.5000" in text
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text


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

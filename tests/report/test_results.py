"""`results.json`: what lm-evaluation-harness's own table makes of it."""

import math

from lm_eval.utils import make_table

from cola_jax.report.results import results_json, tasks_table, write_results
from cola_jax.report.tables import terminal_table
from tests.report.conftest import E1, E2, Q1, Q2, make_run, printed


def test_results_of_a_search(tmp_path):
    run = make_run(tmp_path, (E1, [Q1]), (E2, [Q2]))
    results = write_results(run)
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
    assert (run.directory / "results.json").exists()


def test_tasks_table_has_a_row_for_each_metric(tmp_path):
    run = make_run(tmp_path, (E1, [Q1]), (E2, [Q2]))
    results = results_json(run)
    text = printed(terminal_table(tasks_table([results, results])))
    assert text.count("found_among_paths") == 2
    assert "0.5000" in text


def test_tasks_table_shows_no_escape_codes_of_a_name():
    name = "\x1b[31mred"
    entry = {"acc,none": 0.5, "acc_stderr,none": 0.1}
    results = {"results": {name: entry}, "n-samples": {name: {"effective": 4}}}
    text = printed(terminal_table(tasks_table([results])))
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text

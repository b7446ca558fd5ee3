"""Results as lm-evaluation-harness's own table shows them."""

import math

import pytest
from lm_eval.utils import make_table

from cola_jax.report.harness import harness_json
from cola_jax.runs.search_results import NET
from tests.small_runs import WHOLE, letters, make_run, part


def rows_of(run):
    """Return the metrics of lm-evaluation-harness's table with their cells."""
    lines = make_table(harness_json(run.summary())).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {line[5]: line[6:10] for line in cells}


def test_harness_json_of_a_search(tmp_path):
    run = make_run(tmp_path, part("q1"), part("q2"), model="one")
    content = harness_json(run.summary())
    ((task, entry),) = content["results"].items()
    assert entry["acc,none"] == 0.5
    assert entry["acc_stderr,none"] == math.sqrt(0.5 * 0.5 / 1)
    assert content["n-samples"][task]["effective"] == 2
    assert "found_among_paths_upper_bound,none" in entry
    assert content["higher_is_better"][task] == {"acc": True}


def test_harness_shows_the_net_effect_of_a_search(tmp_path):
    scores = [[-2.0, -1.0, -2.0]]  # the model has no preference between gold and the control
    fields = {"best": (0, 2), "control": 2, "baseline_scores": scores}
    rows = [(WHOLE, 1, False), ((0, 2), 0, True)]
    run = make_run(tmp_path, *(letters(f"q{i}", rows, **fields) for i in range(12)), questions=12)
    _, value, _, error = rows_of(run)["net"]
    net = run.summary().find(NET)
    assert net is not None
    assert float(value) == 1
    assert float(error) == pytest.approx((net.high - net.low) / 2 / 1.96, abs=1e-4)


def test_harness_shows_the_difference_of_a_path(evaluated_run):
    _, value, _, error = rows_of(evaluated_run)["difference"]
    assert float(value) == 0.5
    assert 0 < float(error) < 1

"""The series of the figures, against numbers worked out by hand from the runs of conftest."""

import json
from pathlib import Path
from typing import Any

import pytest

from cola_jax.deploy.scan import scan_paths
from cola_jax.report.figures import scan_figures, search_figures
from cola_jax.runs.estimates import CHANGE, EXPECTED, REACHED
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share
from tests.deploy.test_scan import DEPTH, random_scan
from tests.small_runs import ONE_EVALUATION, PARTS, UNGRADED, make_run, part


def series_of(*runs: Run) -> dict[tuple[str, str, str], Any]:
    """Return the rows of each series, by figure, title of the panel without n, and name."""
    named = {run.directory.parent.name: run for run in runs}
    figures = search_figures(named, {name: run.summary() for name, run in named.items()})
    json.dumps(figures, allow_nan=False)
    return {
        (figure["id"], panel["title"].partition(" (")[0], series["name"]): series["rows"]
        for figure in figures
        for panel in figure["panels"]
        for series in panel["series"]
    }


@pytest.fixture(scope="module")
def series(run: Run) -> dict[tuple[str, str, str], Any]:
    return series_of(run)


def shares(rows: list[Any]) -> list[tuple[Any, ...]]:
    """Return x, the share and n of each row."""
    return [(x, pytest.approx(share, abs=1e-5), n) for x, share, *_, n in rows]


def test_strip_has_reached_and_expected_shares(series: dict[Any, Any], run: Run):
    # q2 reached gold alone, q3 the control alone; q5 has no control
    [[reached, expected, low, high, n]] = series["expected", "", REACHED]
    assert (reached, n) == (0.5, 2)
    assert expected == pytest.approx(run.summary().value(EXPECTED), abs=1e-5)
    assert 0 <= low <= expected <= high <= 1


def test_corrected_beside_expected_by_evaluations(tmp_path: Path):
    rows, questions = part("q3")
    own = [row | {"control": True, "target": 1, "verdict": True} for row in rows]  # kept answers
    control = [row | {"control": True, "target": 2, "verdict": row["node"] == 2} for row in rows]
    series = series_of(make_run(tmp_path, (rows + control + own, questions)))
    reached = shares(series["corrected", "By evaluations", "reached"])
    assert reached == [(0, 0, 1), (2, 0, 1), (2, 0, 1)]
    expected = series["corrected", "By evaluations", "expected"]
    assert [row[1] for row in expected] == pytest.approx([0, expected[-1][1], expected[-1][1]])
    assert 0 < expected[-1][1] < 1  # the control is one of two targets


def test_corrected_and_kept_by_layers(series: dict[Any, Any]):
    # of q2 and q3, the first reaches gold on five layers, the other one its control on two
    reached = shares(series["corrected", "By layers", "reached"])
    assert [row[:2] for row in reached] == [(1, 0), (2, 0), (5, 0.5), (5, 0.5)]
    expected = [row[1] for row in series["corrected", "By layers", "expected"]]
    assert expected[0] == 0 < expected[1] < expected[2]
    right = series["kept", "Kept", "right answers"]
    assert shares(right) == [(2, 0, 2), (3, 1 / 2, 2), (4, 1, 2), (5, 1, 2)]
    for _, share, low, high, n in right:
        assert (low, high) == pytest.approx(Share(round(share * n), n).interval, abs=1e-5)


def test_layers_have_mean_runs_with_intervals(series: dict[Any, Any]):
    rows = series["layers", "Wrong before", "correct answer"]
    assert [(x, value, n) for x, value, *_, n in rows] == [
        (0, 0.5, 2), (1, 1.5, 2), (2, 1.0, 2), (3, 1.0, 2),
    ]  # fmt: skip
    assert all(low <= value <= high for _, value, low, high, _ in rows)
    assert series["layers", "Wrong before", "all paths tried"][0][-1] == 13


def test_figures_of_few_questions_have_only_filled_series(tmp_path: Path):
    for number, few in enumerate((part("q3"), ONE_EVALUATION, UNGRADED)):
        series = series_of(make_run(tmp_path / str(number), few))
        assert all(rows and {len(row) for row in rows} == {5} for rows in series.values())


def test_series_of_several_runs_name_each(tmp_path: Path):
    series = series_of(*(make_run(tmp_path / name, *PARTS) for name in "ab"))
    names = {name for figure, _, name in series if figure == "layers"}
    assert names == {"a, correct answer", "b, correct answer"}


@pytest.mark.parametrize(("longest", "kind"), [(1, "bars"), (4, "map")])
def test_scan_of_single_layers_has_bars(longest: int, kind: str):
    results = random_scan(scan_paths(DEPTH, longest))
    [figure] = scan_figures(results)
    assert [panel["kind"] for panel in figure["panels"]] == [kind] * 2
    panel = figure["panels"][0]
    rows = [row for series in panel["series"] for row in series["rows"]]
    assert len(rows) == len(results.groups) - 1
    best = max(rows, key=lambda row: row[panel["columns"].index("value")])
    assert panel["best"] == ["repeat", 1, 1]
    assert best[0] == 1
    value = best[panel["columns"].index("value")]
    assert value == pytest.approx(100 * results.value(CHANGE, "repeat 1"), abs=1e-4)


def test_scan_of_parts_has_bars_beside_its_maps():
    results = random_scan(scan_paths(DEPTH, parts=True))
    [figure] = scan_figures(results)
    assert [panel["kind"] for panel in figure["panels"]] == ["map", "map", "bars", "bars"]
    panel = figure["panels"][2]
    assert [series["name"] for series in panel["series"]] == ["skip attention", "skip mlp"]
    for series in panel["series"]:
        assert [row[0] for row in series["rows"]] == list(range(DEPTH))
    assert "The attention and the MLP of each layer skipped" in figure["caption"]

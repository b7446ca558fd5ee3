"""The series of the figures, against numbers worked out by hand from the runs of conftest."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import summarise
from cola_jax.report.figures import scan_figures, search_figures
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share
from tests.report.conftest import ONE_EVALUATION, PARTS, UNGRADED, make_run, part
from tests.report.test_scan import PATHS, random_scan


def series_of(*runs: Run) -> dict[tuple[str, str, str], Any]:
    """Return the rows of each series, by figure, start of the panel's title, and name."""
    named = [(run.directory.parent.name, run, summarise(run)) for run in runs]
    figures = search_figures(named)
    json.dumps(figures, allow_nan=False)
    return {
        (figure["id"], panel["title"].partition(":")[0], series["name"]): series["rows"]
        for figure in figures
        for panel in figure["panels"]
        for series in panel["series"]
    }


@pytest.fixture(scope="module")
def series(run: Run) -> dict[tuple[str, str, str], Any]:
    return series_of(run)


def shares(rows: list[Any]) -> list[tuple[Any, ...]]:
    """Return x, the share and n of each row, whose intervals must be Wilson's."""
    for _, share, low, high, n in rows:
        assert (low, high) == pytest.approx(Share(round(share * n), n).interval, abs=1e-5)
    return [(x, pytest.approx(share, abs=1e-5), n) for x, share, *_, n in rows]


def test_evaluations_until_the_first_correct_path(series: dict[Any, Any]):
    # q1 and q4 are correct before, q2 and q5 on their first path, q3 on none
    every = shares(series["evaluations", "All questions", "search"])
    assert every == [(0, 2 / 5, 5), (1, 4 / 5, 5), (2, 4 / 5, 5)]
    wrong = shares(series["evaluations", "Wrong before", "search"])
    assert wrong == [(0, 0, 3), (1, 2 / 3, 3), (2, 2 / 3, 3)]
    assert ("evaluations", "Wrong before", "control") not in series


def test_evaluations_of_control_searches(tmp_path: Path):
    rows, questions = part("q3")
    own = [row | {"control": True, "target": 1, "verdict": True} for row in rows]  # kept answers
    control = [row | {"control": True, "target": 2, "verdict": row["node"] == 2} for row in rows]
    series = series_of(make_run(tmp_path, (rows + control + own, questions)))
    assert shares(series["evaluations", "Wrong before", "control"]) == [(0, 0, 1), (2, 1, 1)]
    assert shares(series["evaluations", "Wrong before", "search"]) == [(0, 0, 1), (2, 0, 1)]


def test_depth_counts_paths_of_at_most_so_many_positions(series: dict[Any, Any]):
    right = shares(series["depth", "Correct before", "search"])
    assert right == [(2, 0, 2), (3, 1 / 2, 2), (4, 1, 2), (5, 1, 2)]
    # of the two control searches of questions that were wrong, that of q3 has two positions
    assert shares(series["depth", "Wrong before", "control"])[-1] == (5, 1 / 2, 2)


def test_layers_have_mean_runs_with_intervals(series: dict[Any, Any]):
    rows = series["layers", "Wrong before", "search"]
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
    assert names == {"a, search", "b, search"}


@pytest.mark.parametrize(("longest", "kind"), [(1, "bars"), (4, "map")])
def test_scan_of_single_layers_has_bars(longest: int, kind: str):
    summary = random_scan(PATHS)
    cells = [cell for cell in summary.cells if cell.block.stop - cell.block.start <= longest]
    summary = dataclasses.replace(summary, cells=tuple(cells))
    [figure] = scan_figures(summary)
    assert [panel["kind"] for panel in figure["panels"]] == [kind] * 2
    panel = figure["panels"][0]
    rows = [row for series in panel["series"] for row in series["rows"]]
    assert len(rows) == len(cells)
    best = max(row[panel["columns"].index("value")] for row in rows)
    assert best == pytest.approx(100 * summary.best.difference.value, abs=1e-4)

"""The tables of the figures, against numbers worked out by hand from the runs of conftest."""

from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import summarise
from cola_jax.report.page_data import (
    CONTROL,
    EVERY,
    FIGURES,
    GOLD,
    PLAIN,
    RIGHT,
    SHORTEST,
    WRONG,
    figures_of,
    rounded,
    run_figures,
)
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share
from tests.report.conftest import (
    E3,
    ONE_EVALUATION,
    ONLY_WRONG,
    PARTS,
    Q3,
    UNGRADED,
    WHOLE,
    evaluation,
    make_run,
)


@pytest.fixture(scope="module")
def figures(run: Run, summary: Summary) -> dict[str, Any]:
    return run_figures(run, summary)


def shares(rows: list[Any], questions: str, search: str) -> list[tuple[Any, ...]]:
    """Returns x, the share and n of one line, whose intervals must be Wilson's."""
    own = [row[2:] for row in rows if row[:2] == (questions, search)]
    for _, share, low, high, n in own:
        assert (low, high) == Share(round(share * n), n).interval
    return [(x, share, n) for x, share, *_, n in own]


def test_evaluations_until_the_first_correct_path(figures: dict[str, Any]):
    rows = figures["evaluations"]
    # q1 and q4 are correct before, q2 and q5 on their first path, q3 on none
    assert shares(rows, EVERY, GOLD) == [(0, 2 / 5, 5), (1, 4 / 5, 5), (2, 4 / 5, 5)]
    assert shares(rows, WRONG, GOLD) == [(0, 0, 3), (1, 2 / 3, 3), (2, 2 / 3, 3)]
    assert not shares(rows, WRONG, CONTROL)


def test_evaluations_of_control_searches(tmp_path: Path):
    control = [evaluation("q3", n, e["path"], e["answer"], n == 2) for n, e in enumerate(E3)]
    control = [row | {"control": True, "target": 2} for row in control]
    run = make_run(tmp_path, (E3 + control, [Q3]))
    figures = run_figures(run, summarise(run))
    assert shares(figures["evaluations"], WRONG, CONTROL) == [(0, 0, 1), (2, 1, 1)]
    assert shares(figures["evaluations"], WRONG, GOLD) == [(0, 0, 1), (2, 0, 1)]
    # the shortest path has three layers, the one that reaches the target five
    assert shares(figures["front"], WRONG, CONTROL) == [(3, 0, 1), (5, 1, 1)]
    [tried] = [row for row in figures["transitions"] if row[:2] == ("all paths tried", "W→W")]
    assert tried[2] == 2  # those of the control are not among them


def test_transitions_count_questions_and_paths(figures: dict[str, Any]):
    counts = {(paths, name): (count, n) for paths, name, count, _, n in figures["transitions"]}
    assert counts == {
        ("shortest correct path", "C→C"): (2, 5),
        ("shortest correct path", "W→C"): (2, 5),
        ("shortest correct path", "C→W"): (0, 5),
        ("shortest correct path", "W→W"): (1, 5),
        ("all paths tried", "C→C"): (1, 8),
        ("all paths tried", "W→C"): (2, 8),
        ("all paths tried", "C→W"): (2, 8),
        ("all paths tried", "W→W"): (3, 8),
    }


def test_depth_counts_paths_of_at_most_so_many_layers(figures: dict[str, Any]):
    rows = figures["depth"]
    assert shares(rows, EVERY, GOLD) == [(1, 0, 5), (3, 2 / 5, 5), (4, 3 / 5, 5), (5, 4 / 5, 5)]
    assert shares(rows, RIGHT, GOLD) == [(1, 0, 2), (3, 1 / 2, 2), (4, 1, 2), (5, 1, 2)]
    # of the two control searches of questions that were wrong, that of q3 runs two layers
    assert shares(rows, WRONG, CONTROL)[-1] == (5, 1 / 2, 2)


def test_front_adds_the_cheapest_questions_first(figures: dict[str, Any]):
    rows = figures["front"]
    # shortest paths of 2, 2, 3, 3 and 3 layers, which only q5 answers; q1 and q4 need one layer
    # more, q2 three, q3 is not answered
    assert shares(rows, EVERY, GOLD) == [(13 / 5, 1 / 5, 5), (15 / 5, 3 / 5, 5), (18 / 5, 4 / 5, 5)]
    assert shares(rows, EVERY, PLAIN) == [(4.0, 2 / 5, 5)]
    assert shares(rows, EVERY, SHORTEST) == [(19 / 5, 4 / 5, 5)]


def test_lengths_and_use(figures: dict[str, Any]):
    *shortest, three, four, five = figures["lengths"]
    assert shortest == [("C→C", 3, 1), ("C→C", 4, 1), ("W→C", 3, 1), ("W→C", 5, 1)]
    assert (three, four, five) == tuple(
        ("correct evaluations", n, c) for n, c in ((3, 2), (4, 2), (5, 1))
    )
    use = {(paths, layer): cells for paths, layer, *cells in figures["use"]}
    assert use["C→C", 2] == [0.5, 0.0, 0.0, 2]
    assert use["W→C", 1] == [0.0, 0.5, 0.0, 2]


@pytest.mark.parametrize("part", [ONLY_WRONG, ONE_EVALUATION, UNGRADED])
def test_figures_of_few_questions_are_json(tmp_path: Path, part: Any):
    run = make_run(tmp_path, part)
    tables = figures_of([("name", run, summarise(run))])
    assert tables.keys() == FIGURES.keys()
    for table in tables.values():
        for row in table["rows"]:
            assert len(row) == len(table["columns"])
            assert all(cell is None or cell == cell for cell in row)  # no NaN


def test_figures_of_several_runs_name_each(tmp_path: Path):
    runs = [make_run(tmp_path / name, *PARTS) for name in "ab"]
    tables = figures_of([(run.directory.parent.name, run, summarise(run)) for run in runs])
    for table in tables.values():
        assert {row[0] for row in table["rows"]} == {"a", "b"}


def test_rounded_has_no_value_for_nan():
    assert [rounded(x) for x in (1 / 3, float("nan"), 7, "a")] == [0.33333, None, 7, "a"]
    assert rounded(float(len(WHOLE))) == 4.0

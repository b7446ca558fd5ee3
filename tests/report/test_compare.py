import json
from pathlib import Path
from typing import Any

import pytest

from cola_jax.errors import InputError
from cola_jax.report import check_runs, run_names, summarise
from cola_jax.report.compare import MAX_RUNS, compare_runs, compared_report
from cola_jax.runs.run import Run
from tests.report.conftest import E1, E2, E5, PARTS, Q1, Q2, Q5, START, WHOLE, make_run


def test_check_runs_refuses_runs_of_different_models(tmp_path: Path):
    one = make_run(tmp_path / "a", *PARTS, model="1234567890abcdef")
    other = make_run(tmp_path / "b", *PARTS, model="fedcba", start=START | {"origin": {}})
    with pytest.raises(InputError, match="its model is 1234567890abcdef, here it is fedcba"):
        check_runs([one, other])


def test_check_runs_refuses_what_is_no_search(run: Run, evaluated: Run):
    check_runs([run])
    with pytest.raises(ValueError, match="evaluation of given paths"):
        check_runs([run, evaluated])
    with pytest.raises(ValueError, match="given twice"):
        check_runs([run, Run(run.directory)])
    with pytest.raises(ValueError, match=f"at most {MAX_RUNS} runs"):
        check_runs([run] * (MAX_RUNS + 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"robust": True}, "--robust: False and True"),
        ({"variants": {"chat": "1"}}, "--variants: ['shots'] and ['chat']"),
    ],
)
def test_check_runs_refuses_another_way_of_counting(
    tmp_path: Path, settings: dict[str, Any], message: str
):
    one = make_run(tmp_path / "a", *PARTS, variants={"shots": "1"})
    other = make_run(tmp_path / "b", *PARTS, **settings)
    with pytest.raises(ValueError, match="are not comparable") as error:
        check_runs([one, other])
    assert message in str(error.value)


def test_run_names_tell_runs_apart():
    def names(*directories: str) -> list[str]:
        return run_names([Run(directory) for directory in directories])

    assert names("runs/a", "runs/b") == ["a", "b"]
    assert names("x/run", "y/run", "y/other") == ["x/run", "y/run", "y/other"]
    assert names("runs/a") == ["a"]
    # what would turn or end the lines of numbers is not shown, and tells no runs apart
    assert names("x/\u202ea\nb") == ["\ufffda\ufffdb"]
    assert names("x/\u202e", "y/\u202d") == ["x/\ufffd", "y/\ufffd"]
    assert names("\u202e", "\u202d") == ["1: \ufffd", "2: \ufffd"]


def test_changes_are_paired_over_common_questions(tmp_path: Path):
    lost = Q2 | {"best": None, "confirmed": None}
    longer = Q1 | {"best": WHOLE}
    first = make_run(tmp_path / "a", (E1 + E2, [Q1, Q2]))
    second = make_run(tmp_path / "b", (E1 + E2 + E5, [longer, lost, Q5]))
    [change] = compare_runs([first, second], 4)
    assert (change.after.first_only, change.after.second_only, change.after.n) == (0, 1, 2)
    assert (change.shortened.first_only, change.shortened.second_only) == (0, 1)
    assert compare_runs([first], 4) == []


def test_changes_of_what_is_beyond_control(tmp_path: Path):
    """The second run reaches gold of one question more, and no control."""
    alike = Q2 | {"baseline_scores": [[-2.0, -1.0, -2.0]]}  # gold and its control
    lost = alike | {"best": None, "confirmed": None}
    first = make_run(tmp_path / "a", (E1 + E2, [Q1, lost]))
    second = make_run(tmp_path / "b", (E1 + E2 + E5, [Q1, alike, Q5]))
    [change] = compare_runs([first, second], 4)
    net = change.nets["once"]
    assert (net.value, net.n, net.informative) == (1.0, 1, 1)
    assert change.p["once"] == net.p
    row = next(
        row for row in change.rows("b") if row.label == "b: now correct, beyond control (W→C)"
    )
    assert row.cells == ("+100.0", "too few differ", "1.000", "1")
    assert change.verdict().startswith("Nothing shown: too few")
    interval = net._replace(interval=(0.1, 1.0))
    assert change._replace(nets={"once": interval}).verdict().startswith("Nothing shown: +100.0")
    shown = change._replace(nets={"once": interval}, p={"once": 0.01})
    assert shown.verdict().startswith("Shown: +100.0 points of questions now correct")
    json.dumps(change.to_json(), allow_nan=False)


def test_runs_stand_side_by_side(tmp_path: Path):
    """A search in all variants at once has no row of what is found once."""
    search = {"target": 2, "best": None, "evaluations": 2, "shared": 1, "robust": None}
    again = [{"node": 0, "path": WHOLE, "holds": [False]}]
    asked = Q2 | {
        "controls": [search | {"again": again}], "again": again, "variant_answers": [1],
        "baseline_scores": [[-2.0, -1.0, -3.0]] * 2,
    }  # fmt: skip
    runs = [
        make_run(tmp_path / name, (E2, [asked]), **settings)
        for name, settings in (("once", {}), ("all", {"robust": True}))
    ]
    summaries = list(map(summarise, runs))
    report = compared_report(runs, summaries, compare_runs(runs, 4))
    assert [text.partition(":")[0] for text in report.verdicts] == [
        "once/run", "all/run", "all/run against once/run",
    ]  # fmt: skip
    rows = {row.label: row.cells for row in report.main.rows}
    assert rows["now correct, beyond control (W→C)"] == ("1 reached\n0.7 expected", "")
    assert rows["robust, beyond control (W→C)"][0] == ""
    assert rows["robust, beyond control (W→C)"][1].startswith("0 reached\n")
    tables = {table.heading: table for table in report.rest}
    labels = [row.label for row in tables["Asked again in other variants"].rows]
    assert len(labels) == len(set(labels))
    assert "Against once/run, on the questions of both" in tables

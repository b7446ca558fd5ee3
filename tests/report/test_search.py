"""The report of searches: verdicts, first rows, all others, and runs side by side."""

import re
from pathlib import Path

from cola_jax.report import changes_table, compare_runs, run_names, search_report, summarise
from cola_jax.report.search import change_verdict, compared_report
from cola_jax.report.tables import RunReport
from cola_jax.runs.run import Run
from tests.report.conftest import ONE_EVALUATION, UNGRADED, WHOLE, make_run, part, text_of, words_of

ALIKE = {"baseline_scores": [[-2.0, -1.0, -2.0]]}  # of gold and the control of q2 or q3


def report_of(run: Run) -> RunReport:
    return search_report(run, summarise(run))


def test_report_begins_with_a_verdict_and_ten_rows(run: Run):
    report = report_of(run)
    assert report.verdicts[0].startswith("Nothing shown: ")
    assert len(report.main.rows) <= 10
    text = text_of(report, whole=False)
    assert text.startswith("Nothing shown: ")
    sizes = "15 evaluations (2 by control searches) on 5 of 6 questions (unfinished)"
    assert sizes in " ".join(text.split())
    # of q2, q3 and q5, the last one has no control
    assert re.search(r"W→C: wrong before, right on some path +50\.0 % +9\.5 to 90\.5 +2", text)
    assert re.search(r"expected by chance and preference +50\.0 % +\S+ to \S+ +2", text)
    assert re.search(r"difference in points +[+−]0\.0 +too few for one +2", text)
    assert "Cost" not in text
    text = words_of(report)
    assert "right before (pretrained model) 40.0 %" in text
    assert "paths tried, right before: wrong (C→W) 66.7 %" in text
    assert "wrong options that searches reached 50.0 %" in text
    assert "added by control searches 2 " in text
    finished = make_run(Path(run.directory).parent / "finished", part("q4"), questions=1)
    assert "unfinished" not in text_of(report_of(finished))


def test_cost_stands_beside_positions(tmp_path: Path):
    run = make_run(tmp_path, part("q1"), part("q2"), part("q3"), layer_costs=[1.0, 2.0, 3.0, 4.0])
    # q1: 0, 1 and 3; q2: 0, 1, 1, 2 and 3; q3: all
    assert "mean layers of the best paths, of 4 4.0 9.67 ms, 96.7 %" in words_of(report_of(run))


def test_missing_values_are_dashes(tmp_path: Path):
    text = text_of(report_of(make_run(tmp_path / "retained", part("q4"))))
    assert re.search(r"W→C: wrong before, right on some path +– +0\b", text)
    text_of(report_of(make_run(tmp_path / "wrong", part("q3"))))
    text_of(report_of(make_run(tmp_path / "one", ONE_EVALUATION)))
    text_of(report_of(make_run(tmp_path / "ungraded", UNGRADED, scorer="generation")))


def test_rows_of_completions(open_run: Run):
    text = words_of(report_of(open_run))
    assert "wrong answers that searches reached" in text
    assert "option" not in text
    assert "questions excluded, ungraded before 1" in text
    assert re.search(r"evaluations for gold, ungraded 27\.3 % \S+ to \S+ 11 ", text)
    assert "counts neither as correct nor as wrong" in text
    assert re.search(r"evaluations for gold, truncated 9\.1 % \S+ to \S+ 11 ", text)
    assert "tokens decoded per evaluation 4.7 " in text
    assert "best path decodes the same in float32 66.7 %" in text


def test_rows_that_do_not_apply_are_omitted(tmp_path: Path):
    words = {"in float32", "ngraded", "token", "own wrong"}
    for scorer, dtype, name, shown in (
        ("letter", "bfloat16", "q1", {"in float32"}),
        ("letter", "float32", "q1", set()),
        ("exact", "float32", "q1", set()),
        ("generation", "float32", "g2", {"token"}),
    ):
        run = make_run(tmp_path / scorer / dtype, part(name), scorer=scorer, dtype=dtype)
        text = text_of(report_of(run))
        assert {each for each in words if each in text} == shown


def test_run_names_tell_runs_apart():
    for directories, names in (
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run", "y/other"], ["x/run", "y/run", "y/other"]),
        (["runs/a"], ["a"]),
        # what would turn or end the lines of numbers is not shown, and tells no runs apart
        (["x/\u202ea\nb"], ["\ufffda\ufffdb"]),
        (["\u202e", "\u202d"], ["1: \ufffd", "2: \ufffd"]),
    ):
        assert run_names(list(map(Run, directories))) == names


def test_verdict_of_a_change_needs_p_and_interval(tmp_path: Path):
    lost = part("q2", best=None, confirmed=None, **ALIKE)
    runs = [make_run(tmp_path / "a", lost), make_run(tmp_path / "b", part("q2", **ALIKE))]
    [change] = compare_runs(runs, 4)
    rows = {row.label: row.cells for row in changes_table(["a", "b"], [change]).rows}
    cells = ("+50.0", "too few differ", "1.000", "1")  # one of two targets
    assert rows["b: W→C: wrong before, right on some path, beyond the expected"] == cells
    assert change_verdict(change).startswith("Nothing shown: too few")
    net = change.nets["once"]._replace(interval=(0.1, 1.0))
    wide = change._replace(nets={"once": net})
    assert change_verdict(wide).startswith("Nothing shown: +50.0")
    shown = wide._replace(p={"once": 0.01})
    assert change_verdict(shown).startswith("Shown: +50.0 points of the wrong questions")


def test_runs_stand_side_by_side(tmp_path: Path):
    """One of an earlier version in all wordings at once has no row of what is found once."""
    search = {"target": 2, "best": None, "evaluations": 2, "shared": 1}
    again = [{"node": 0, "path": WHOLE, "holds": [False]}]
    asked = part(
        "q2", controls=[search | {"again": again}], again=again, again_answers=[1],
        baseline_scores=[[-2.0, -1.0, -3.0]] * 2,
    )  # fmt: skip
    runs = [make_run(tmp_path / "once", asked), make_run(tmp_path / "all", asked, robust=True)]
    reports = list(map(report_of, runs))
    report = compared_report(run_names(runs), reports, compare_runs(runs, 4))
    names = [text.partition(":")[0] for text in report.verdicts]
    assert names == ["once/run", "all/run", "all/run against once/run"]
    rows = {row.label: row.cells for row in report.main.rows}
    assert rows["W→C: wrong before, right on some path"] == ("100.0 %\n20.7 to 100.0", "")
    held = rows["W→C: its best path right in all wordings"]
    assert held[0] == ""
    assert held[1].startswith("0.0 %\n")
    tables = {table.heading: table for table in report.rest}
    labels = [row.label for row in tables["Asked again in other wordings"].rows]
    assert len(labels) == len(set(labels))
    assert "Against once/run, on the questions of both" in tables

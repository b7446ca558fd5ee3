"""The report of searches: verdicts, first rows, all others, and runs side by side."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import (
    changes_table,
    compare_runs,
    run_names,
    search_report,
    summarise,
)
from cola_jax.report.search import change_verdict, compared_report, search_verdict
from cola_jax.report.summary import Summary
from cola_jax.report.tables import terminal_report
from cola_jax.runs.run import Run
from tests.report.conftest import (
    E1,
    E2,
    E3,
    F2,
    G2,
    ONE_EVALUATION,
    ONLY_RETAINED,
    ONLY_WRONG,
    Q1,
    Q2,
    Q3,
    UNGRADED,
    WHOLE,
    make_run,
    printed,
)


def text_of(run: Run, *, whole: bool = True) -> str:
    """Print the report of a run in 80 columns."""
    text = printed(terminal_report(search_report(run, summarise(run)), whole=whole))
    assert max(map(len, text.splitlines())) <= 80
    assert "nan" not in text
    return text


def words_of(run: Run) -> str:
    return " ".join(text_of(run).split())


def test_report_begins_with_a_verdict_and_ten_rows(run: Run):
    report = search_report(run, summarise(run))
    assert report.verdicts[0].startswith("Nothing shown: ")
    assert len(report.main.rows) <= 10
    text = text_of(run, whole=False)
    assert text.startswith("Nothing shown: ")
    assert "13 evaluations on 5 of 6 questions (unfinished)" in text
    assert re.search(r"wrong, then correct \(W→C\) +66\.7 % +20\.8 to 93\.9 +3", text)
    assert re.search(r"control: reached a wrong option +50\.0 % +9\.5 to 90\.5 +2", text)
    assert re.search(r"beyond control \(W→C\) +1 reached +1\.0 expected +2", text)
    assert "Cost" not in text
    text = words_of(run)
    assert "correct before (pretrained model) 40.0 %" in text
    assert "paths tried, correct before: wrong (C→W) 66.7 %" in text
    assert "control: added evaluations 2 " in text
    finished = make_run(Path(run.directory).parent / "finished", ONLY_RETAINED, questions=1)
    assert "unfinished" not in text_of(finished)


def test_float32_runs_are_not_confirmed_in_float32(tmp_path: Path):
    for dtype in ("float32", "bfloat16"):
        run = make_run(tmp_path / dtype, (E1, [Q1]), dtype=dtype)
        assert ("in float32" in text_of(run)) == (dtype == "bfloat16")


@pytest.mark.parametrize(
    ("part", "scorer"),
    [(ONLY_RETAINED, None), (ONLY_WRONG, None), (ONE_EVALUATION, None), (UNGRADED, "generation")],
)
def test_missing_values_are_dashes(tmp_path: Path, part: Any, scorer: Any):
    text = text_of(make_run(tmp_path, part, scorer=scorer))
    if part is ONLY_RETAINED:
        assert re.search(r"wrong, then correct \(W→C\) +– +0\b", text)


def test_rows_of_completions(open_run: Run):
    text = words_of(open_run)
    assert "control: reached a wrong answer" in text
    assert "option" not in text
    assert "questions excluded, ungraded before 1" in text
    assert re.search(r"evaluations ungraded 27\.3 % \S+ to \S+ 11 ", text)
    assert "counts neither as correct nor as wrong" in text
    assert re.search(r"evaluations truncated 9\.1 % \S+ to \S+ 11 ", text)
    assert "tokens decoded per evaluation 4.7 " in text
    assert "best path decodes the same in float32 66.7 %" in text


def test_rows_that_do_not_apply_are_omitted(tmp_path: Path):
    exact = make_run(tmp_path / "1", (E1, [Q1]), scorer="exact")
    graded = make_run(tmp_path / "2", (F2, [G2]), scorer="generation")
    choice = make_run(tmp_path / "3", (E1, [Q1]), scorer="letter")
    texts = list(map(text_of, (exact, graded, choice)))
    assert all("ngraded" not in text for text in texts)
    assert ["token" in text for text in texts] == [False, True, False]
    assert ["a wrong answer" in text for text in texts] == [True, True, False]


@pytest.mark.parametrize(
    ("questions", "verdict"),
    [
        ([(E1, [Q1])], "no question that was wrong before has a control search"),
        ([(E2, [Q2]), (E3, [Q3])], "reached on 1 of 2 wrong questions, with 1.0 expected"),
        ([(E2, [Q2 | {"baseline_scores": None}])], "scores, which the comparison needs, are not"),
    ],
)
def test_verdict_of_few_questions(tmp_path: Path, questions: Any, verdict: str):
    text = search_verdict(summarise(make_run(tmp_path, *questions)))
    assert text.startswith("Nothing shown: ")
    assert verdict in text


def one_sided(folder: Path, reached: bool) -> Summary:
    """Summarise twelve questions whose searches all reach gold, or all a wrong option."""
    question, rows = (Q3, E3) if reached else (Q2, E2)
    alike = {"baseline_scores": [[-2.0, -1.0, -2.0]]}  # of gold and the control
    parts = [
        ([e | {"question": f"q{i}"} for e in rows], [question | {"question": f"q{i}"} | alike])
        for i in range(12)
    ]
    return summarise(make_run(folder, *parts))


def test_verdict_needs_p_and_interval(tmp_path: Path):
    better, worse = (one_sided(tmp_path / str(reached), reached) for reached in (False, True))
    assert search_verdict(better).startswith("Shown: the search reaches the correct option more")
    assert "a wrong option is reached more often" in search_verdict(worse)
    for field, value in (("p", 0.06), ("interval", (-0.1, 0.9))):
        net = better.net._replace(**{field: value})
        text = search_verdict(dataclasses.replace(better, nets={"once": net}))
        assert text.startswith("Nothing shown: ")
    undecided = better.net._replace(effective=1.0)
    text = search_verdict(dataclasses.replace(better, nets={"once": undecided}))
    assert "preference alone nearly decides" in text


def test_run_names_tell_runs_apart():
    def names(*directories: str) -> list[str]:
        return run_names([Run(directory) for directory in directories])

    assert names("runs/a", "runs/b") == ["a", "b"]
    assert names("x/run", "y/run", "y/other") == ["x/run", "y/run", "y/other"]
    assert names("runs/a") == ["a"]
    # what would turn or end the lines of numbers is not shown, and tells no runs apart
    assert names("x/\u202ea\nb") == ["\ufffda\ufffdb"]
    assert names("\u202e", "\u202d") == ["1: \ufffd", "2: \ufffd"]


def test_verdict_of_a_change_needs_p_and_interval(tmp_path: Path):
    alike = Q2 | {"baseline_scores": [[-2.0, -1.0, -2.0]]}
    lost = alike | {"best": None, "confirmed": None}
    runs = [make_run(tmp_path / name, (E2, [q])) for name, q in (("a", lost), ("b", alike))]
    [change] = compare_runs(runs, 4)
    rows = {row.label: row.cells for row in changes_table(["a", "b"], [change]).rows}
    cells = ("+100.0", "too few differ", "1.000", "1")
    assert rows["b: now correct, beyond control (W→C)"] == cells
    assert change_verdict(change).startswith("Nothing shown: too few")
    net = change.nets["once"]._replace(interval=(0.1, 1.0))
    wide = change._replace(nets={"once": net})
    assert change_verdict(wide).startswith("Nothing shown: +100.0")
    shown = wide._replace(p={"once": 0.01})
    assert change_verdict(shown).startswith("Shown: +100.0 points of questions now correct")


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
    reports = [search_report(run, summarise(run)) for run in runs]
    report = compared_report(run_names(runs), reports, compare_runs(runs, 4))
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

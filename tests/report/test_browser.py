from pathlib import Path

import pytest

from cola_jax.report import browser
from cola_jax.report.browser import (
    MAX_PATHS,
    MAX_TEXT,
    MIN_TEXT,
    browser_questions,
    shorten,
    text_limit,
)
from cola_jax.runs.directory import RunDirectory
from tests.report.conftest import (
    E2,
    G1,
    Q2,
    WHOLE,
    decoded,
    evaluation,
    make_run,
    open_question,
    question,
)


def test_browser_questions_of_options(run: RunDirectory):
    shown = browser_questions(run)
    assert [q["id"] for q in shown] == ["q1", "q2", "q3", "q4", "q5"]
    assert [q["kind"] for q in shown] == ["C→C", "W→C", "W→W", "C→C", "W→C"]
    assert [q["best"] for q in shown] == [3, 5, None, 4, 3]
    assert [q["control_reached"] for q in shown] == [True, False, True, None, None]
    # text, verdict, margin, answer, node, parent, edit, shortest correct, on the front
    assert shown[0]["paths"] == [
        ["0-3", 1, 1.0, 0, 0, None, None, 0, 0],
        ["0-1,3", 1, 1.0, 0, 1, 0, "edit 1", 1, 1],
        ["0,3", 0, -1.0, 2, 2, 1, "edit 2", 0, 1],
    ]
    assert shown[1]["paths"][2][:4] == ["0,2", 0, None, -1]  # JSON has no infinity


def test_browser_questions_of_completions(open_run: RunDirectory):
    shown = browser_questions(open_run)
    assert [q["kind"] for q in shown] == ["C→C", "W→C", "?→C", "W→W"]
    # text, verdict, margin, answer, node, parent, edit, shortest correct, on the front, completion
    assert shown[0]["paths"] == [
        ["0-3", 1, 1.0, 0, 0, None, None, 0, 0, 0],
        ["0-1,3", 1, 1.0, 0, 1, 0, "edit 1", 1, 1, 0],
        ["0,3", 0, -1.0, 1, 2, 0, "edit 2", 0, 0, 1],
        ["0", None, -0.1, -1, 3, 0, "edit 3", 0, 1, 2],
    ]
    # a completion that two paths share is stored once
    assert shown[0]["completions"] == [
        ["7", " so 7\n", "stop", 0, 4],
        ["9", " so 9\n", "stop", 0, 4],
        ["seven!", " so seven!\n", "stop", 0, 4],
    ]
    assert shown[1]["completions"][0] == [None, " no no", "length", 1, 12]


def test_browser_questions_of_older_run(old_run: RunDirectory):
    assert [q["kind"] for q in browser_questions(old_run)] == ["C→C", "W→C", "W→W"]


def test_select_rows_by_outcome(tmp_path: Path):
    """Of 41: identity, shortest correct, shortest wrong, control, more correct, near misses."""
    right = [(0,) * n for n in range(30, 10, -1)]  # nodes 1 to 20, the shortest is node 20
    wrong = [(1,) * n for n in range(30, 10, -1)]  # nodes 21 to 40
    rows = [evaluation("q1", 0, WHOLE, 1, False)]
    rows += [evaluation("q1", 1 + i, path, 0, True) for i, path in enumerate(right)]
    rows += [
        evaluation("q1", 21 + i, path, 2 if i == 5 else 1, False, margin=-10.0 - i)
        for i, path in enumerate(wrong)
    ]
    q1 = question("q1", best=right[-1], control=2, control_reached=True)
    run = make_run(tmp_path, (E2, [Q2]), (rows, [q1]))
    nodes = [path[4] for path in browser_questions(run)[1]["paths"]]
    assert len(nodes) == MAX_PATHS
    # 40 the shortest wrong, 26 the control; 19 to 13 correct by length; 21 to 23 the least wrong
    assert nodes == [0, 20, 40, 26, 19, 18, 17, 16, 15, 14, 13, 21, 22, 23]


def test_select_rows_fills_up_with_correct_paths(tmp_path: Path):
    rows = [evaluation("q1", i, (0,) * (i + 1), 0, True) for i in range(41)]
    q1 = question("q1", baseline=True, baseline_answer=0, best=(0,))
    [shown] = browser_questions(make_run(tmp_path, (rows, [q1])))
    assert [path[4] for path in shown["paths"]] == list(range(MAX_PATHS))


def test_select_rows_does_not_take_ungraded_as_wrong(tmp_path: Path):
    rows = [decoded("g1", 0, WHOLE, "8", False)]
    rows += [decoded("g1", i, (0,) * (31 - i), "8", False, margin=-i) for i in range(1, 21)]
    rows += [decoded("g1", i, (1,) * (42 - i), "x", None, margin=0.0) for i in range(21, 41)]
    g1 = open_question("g1", 1)
    [shown] = browser_questions(make_run(tmp_path, (rows, [g1]), scorer="generation"))
    nodes = [path[4] for path in shown["paths"]]
    # the shortest wrong is node 20; one that is ungraded is shown; the rest are the least wrong
    assert nodes == [0, 20, 40, *range(1, 12)]


def test_read_rows_from_several_parts(tmp_path: Path):
    """The texts are read part by part, for the selected rows only."""
    parts = [
        (
            [decoded(f"q{i}", n, (n,) * (9 - n), f"{i} {n}", n == 3) for n in range(8)],
            [open_question(f"q{i}", 1)],
        )
        for i in range(3)
    ]
    for shown in browser_questions(make_run(tmp_path, *parts, scorer="generation")):
        paths = shown["paths"]
        assert len(paths) == 8
        answers = [shown["completions"][path[9]][0] for path in paths]
        assert answers == [f"{shown['id'][1:]} {path[4]}" for path in paths]


def test_shorten_removes_the_middle():
    assert shorten("a" * 9, 9) == "a" * 9
    assert shorten("abc" + "-" * 1000 + "defghi", 9) == "abc […1,000 characters left out…] defghi"


def test_text_limit_keeps_to_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert text_limit(0) == text_limit(10) == MAX_TEXT
    assert text_limit(1 << 30) == MIN_TEXT
    monkeypatch.setattr(browser, "TEXT_BUDGET", 600)
    long = [decoded("g1", n, (n,), "7" * 5000, False, text=f"{n}" * 5000) for n in range(2)]
    [shown] = browser_questions(make_run(tmp_path, (long, [G1]), scorer="generation"))
    assert len(shown["completions"]) == 2
    for answer, text, *_ in shown["completions"]:
        assert "4,700 characters left out" in text
        assert "4,800 characters left out" in answer

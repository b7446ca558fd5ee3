"""Reports of small runs written by hand, against numbers worked out by hand."""

import html
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cola_jax.report import paths_table, summarise, summary_table, write_page
from cola_jax.report.browser import MOST_PATHS, browse
from cola_jax.report.figures import INK, layer_heatmap, length_histogram
from cola_jax.report.share import Difference, Share, between, percent, points
from cola_jax.report.summary import ALL, CORRECTED, RIGHT
from cola_jax.report.table import path_lines
from cola_jax.runs.directory import RunDirectory

WHOLE = (0, 1, 2, 3)  # the identity path of a model of four layers
SETTINGS = {"command": "search", "questions": 6, "simulations": 2, "leaves": 1, "seed": 0}
START = {"num_layers": 4, "model": "there", "origin": {"kind": "hub", "name": "someone/model"}}


def evaluation(
    question: str, node: int, path: tuple[int, ...], answer: int, verdict: bool, **more: Any
) -> dict[str, Any]:
    return {
        "question": question,
        "path": path,
        "length": len(path),
        "verdict": verdict,
        "margin": 1.0 if verdict else -1.0,
        "answer": answer,
        "finite": True,
        "node": node,
        "wave": node,
        "parent": 0 if node else None,
        "edit": f"edit {node}" if node else None,
        **more,
    }


def question(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "question": name,
        "text": f"What is {name}?",
        "options": ["a", "b", "c"],
        "gold": 0,
        "baseline": False,
        "baseline_answer": 1,
        "best": None,
        "confirmed": None,
        "front": [],
        "control": None,
        "control_reached": None,
        "answers": 2,
        "tokens": 5,
        "prompt_hash": "0",
        "evaluations": 0,
        **fields,
    }


# C→C on three layers, its control reached
Q1 = question(
    "q1", baseline=True, baseline_answer=0, best=(0, 1, 3), confirmed=True, control=2,
    control_reached=True, front=[(0, 1, 3), (0, 3)],
)  # fmt: skip
E1 = [
    evaluation("q1", 0, WHOLE, 0, True),
    evaluation("q1", 1, (0, 1, 3), 0, True),
    evaluation("q1", 2, (0, 3), 2, False, parent=1),
]
# W→C on five layers, not confirmed, its control not reached; one path is not finite
Q2 = question("q2", best=(0, 1, 1, 2, 3), confirmed=False, control=2, control_reached=False)
E2 = [
    evaluation("q2", 0, WHOLE, 1, False),
    evaluation("q2", 1, (0, 1, 1, 2, 3), 0, True),
    evaluation("q2", 2, (0, 2), -1, False, margin=-math.inf, finite=False),
]
# W→W, its control reached
Q3 = question("q3", control=2, control_reached=True, answers=3)
E3 = [
    evaluation("q3", 0, WHOLE, 1, False),
    evaluation("q3", 1, (0, 1, 3), 1, False),
    evaluation("q3", 2, (0, 1, 3, 3, 3), 2, False, parent=1),
]
# C→C that no fewer layers answer, of two options and so without a control
Q4 = question(
    "q4", options=["a", "b"], baseline=True, baseline_answer=0, best=WHOLE, confirmed=True
)  # fmt: skip
E4 = [evaluation("q4", 0, WHOLE, 0, True), evaluation("q4", 1, (0, 1, 2), 1, False)]
# W→C on three layers, without a control
Q5 = question("q5", options=["a", "b"], best=(1, 2, 3), confirmed=True)
E5 = [evaluation("q5", 0, WHOLE, 1, False), evaluation("q5", 1, (1, 2, 3), 0, True)]


def make(
    directory: Path, *parts: tuple[list[Any], list[Any]], start: Any = START, **settings: Any
) -> RunDirectory:
    run = RunDirectory(directory / "run")
    run.open(SETTINGS | settings, start)
    for evaluations, questions in parts:
        run.write_part(evaluations, questions)
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Five of six questions, in two parts."""
    return make(tmp_path, (E1 + E2, [Q1, Q2]), (E3 + E4 + E5, [Q3, Q4, Q5]))


def printed(table: Any, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


# The numbers


def test_shares(run: RunDirectory):
    summary = summarise(run)
    assert summary.before == Share(2, 5)
    assert summary.after == Share(4, 5)
    assert summary.shortened == Share(1, 2)  # q1 of q1 and q4
    assert summary.corrected == Share(2, 3)  # q2 and q5 of q2, q3 and q5
    assert summary.control == Share(2, 3)  # q1 and q3 of q1, q2 and q3
    assert summary.control_wrong == Share(1, 2)  # q3 of q2 and q3
    assert summary.net == Difference(1, 1, 2)  # q2 has right alone, q3 the control alone
    assert summary.confirmed == Share(3, 4)
    assert summary.not_finite == Share(1, 13)
    assert summary.duplicates == Share(0, 13)


def test_counts_and_means(run: RunDirectory):
    summary = summarise(run)
    assert (summary.done, summary.planned, summary.num_layers) == (5, 6, 4)
    assert (summary.evaluations, summary.per_question) == (13, 2.6)
    assert summary.length == pytest.approx((3 + 5 + 4 + 4 + 3) / 5)
    assert summary.length_right == pytest.approx((3 + 4) / 2)
    assert summary.length_corrected == pytest.approx((5 + 3) / 2)
    assert summary.answers == pytest.approx((2 + 2 + 3 + 2 + 2) / 5)
    assert summary.options == pytest.approx((3 + 3 + 3 + 2 + 2) / 5)


def test_shape_of_the_trees(run: RunDirectory):
    shape = summarise(run).shape
    assert shape.root_children == pytest.approx((1 + 2 + 1 + 1 + 1) / 5)
    assert shape.children == pytest.approx(8 / 7)  # five roots, and one node each of q1 and q3
    assert shape.depth == pytest.approx((1 + 2 + 1 + 1 + 1 + 2 + 1 + 1) / 8)
    assert shape.max_depth == 2


def test_lengths(run: RunDirectory):
    summary = summarise(run)
    assert summary.best_lengths[RIGHT].tolist() == [0, 0, 0, 1, 1]
    assert summary.best_lengths[CORRECTED].tolist() == [0, 0, 0, 1, 0, 1]
    assert summary.correct_lengths.tolist() == [0, 0, 0, 2, 2, 1]


def test_use_of_layers(run: RunDirectory):
    layers = summarise(run).layers
    assert [layers[name].paths for name in (RIGHT, CORRECTED, ALL)] == [2, 2, 13]
    np.testing.assert_allclose(layers[RIGHT].skipped, [0, 0, 0.5, 0])
    np.testing.assert_allclose(layers[RIGHT].repeats, [0, 0, 0, 0])
    np.testing.assert_allclose(layers[CORRECTED].skipped, [0.5, 0, 0, 0])
    np.testing.assert_allclose(layers[CORRECTED].repeats, [0, 0.5, 0, 0])
    np.testing.assert_allclose(layers[ALL].skipped, np.array([1, 2, 4, 2]) / 13)
    np.testing.assert_allclose(layers[ALL].repeats, np.array([0, 1, 0, 2]) / 13)


def test_duplicates_are_counted_from_the_rows(tmp_path: Path):
    again = [evaluation("q1", 3, (0, 1, 3), 0, True), evaluation("q1", 4, WHOLE, 0, True)]
    run = make(tmp_path, (E1 + again, [Q1]), (E2, [Q2]))  # q2 has WHOLE too, which is none
    assert summarise(run).duplicates == Share(2, 8)


def test_intervals():
    # Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = 2/5, z = 1.95996
    assert Share(2, 5).interval == pytest.approx((0.117621, 0.769276), abs=1e-6)
    assert Share(0, 5).interval == pytest.approx((0, 0.434482), abs=1e-6)
    # Bonett and Price: 1/11 ± z sqrt((5/11 - 1/121) / 11)
    assert Difference(2, 1, 9).value == pytest.approx(1 / 9)
    assert Difference(2, 1, 9).interval == pytest.approx((-0.303872, 0.485690), abs=1e-5)
    assert all(math.isnan(x) for x in (Share(0, 0).value, *Share(0, 0).interval))
    assert all(math.isnan(x) for x in (Difference(0, 0, 0).value, *Difference(0, 0, 0).interval))


def test_difference_is_paired():
    first = np.array([True, True, False, False])
    second = np.array([True, False, True, False])
    assert Difference.of(first, second) == Difference(1, 1, 4)
    assert Difference.of(first, ~first) == Difference(2, 2, 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 %"),
        (1 / 3, "33.3 %"),
        (0.0625, "6.2 %"),
        (1.0, "100.0 %"),
        (0.0004, "<0.1 %"),  # some, so not none
        (0.9996, ">99.9 %"),
        (math.nan, "–"),
    ],
)
def test_format_of_shares(value: float, text: str):
    assert percent(value) == text


def test_format_of_differences_and_intervals():
    assert [points(x) for x in (0.111, -0.25, 0.0, math.nan)] == ["+11.1", "−25.0", "+0.0", "–"]
    assert between((0.117, 0.7693)) == "11.7 to 76.9"
    assert between((-0.304, 0.486), signed=True) == "−30.4 to +48.6"
    assert between((math.nan, math.nan)) == ""


# Runs with little in them

ONLY_RIGHT = (E4, [Q4])
ONLY_WRONG = (E3, [Q3])


def test_run_without_wrong_questions_or_controls(tmp_path: Path):
    summary = summarise(make(tmp_path, ONLY_RIGHT))
    assert (summary.before, summary.corrected) == (Share(1, 1), Share(0, 0))
    assert (summary.control, summary.net) == (Share(0, 0), Difference(0, 0, 0))
    assert math.isnan(summary.length_corrected)
    text = printed(summary_table(summary))
    assert re.search(r"W→C: wrong before, right after +– +0\b", text)
    assert "nan" not in text


def test_run_where_nothing_is_right(tmp_path: Path):
    summary = summarise(make(tmp_path, ONLY_WRONG))
    assert (summary.after, summary.confirmed) == (Share(0, 1), Share(0, 0))
    assert summary.length == 4  # the identity, where no path is right
    assert summary.layers[CORRECTED].paths == 0
    assert summary.correct_lengths.sum() == 0
    assert "nan" not in printed(summary_table(summary))


def test_run_of_single_evaluations(tmp_path: Path):
    summary = summarise(make(tmp_path, (E4[:1], [Q4])))
    assert summary.shape.root_children == 0
    assert math.isnan(summary.shape.children)
    assert math.isnan(summary.shape.depth)
    assert "nan" not in printed(summary_table(summary))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": "evaluate"}, "use paths_table"),
        ({"command": "generate"}, "made by 'generate'"),
        ({}, "has no question done yet"),
    ],
)
def test_what_cannot_be_summed_up(tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        summarise(make(tmp_path, **settings))


# Tables


def test_summary_table(run: RunDirectory):
    lines = printed(summary_table(summarise(run))).splitlines()
    assert max(map(len, lines)) <= 80
    at = next(i for i, line in enumerate(lines) if "W→C: wrong before" in line)
    assert re.search(r"66\.7 % +20\.8 to 93\.9 +3$", lines[at].rstrip())
    assert re.search(r"control.* 50\.0 % +9\.5 to 90\.5 +2$", lines[at + 1].rstrip())
    assert re.search(r"minus control.* \+0\.0 ", lines[at + 2])
    text = " ".join(" ".join(lines).split())
    assert "13 evaluations on 5 of 6 questions (unfinished)" in text
    assert "right before (identity path) 40.0 %" in text
    assert "distinct options answered, mean 2.2 of 2.6" in text


def test_finished_run_is_not_called_unfinished(tmp_path: Path):
    assert "unfinished" not in printed(
        summary_table(summarise(make(tmp_path, ONLY_RIGHT, questions=1)))
    )


@pytest.fixture
def evaluated(tmp_path: Path) -> RunDirectory:
    """Three paths on two questions: the last two equally right, the last one shorter."""
    paths = [WHOLE, (0, 1, 2, 2, 3), (0, 3)]
    rows = [
        ("q1", True, True, True, [2.0, 1.0, 4.0]),
        ("q2", False, True, True, [-1.0, 3.0, -math.inf]),
    ]
    evaluations = [
        evaluation(
            name, node, paths[node], 0, right[node], margin=margins[node], parent=None,
            finite=math.isfinite(margins[node]),
        )
        for name, *right, margins in rows
        for node in range(3)
    ]  # fmt: skip
    parts = [([e for e in evaluations if e["question"] == q], [question(q)]) for q in ("q1", "q2")]
    return make(tmp_path, *parts, command="evaluate", questions=2, paths=[list(p) for p in paths])


def test_paths_are_sorted_and_counted(evaluated: RunDirectory):
    lines = path_lines(evaluated)
    assert [line.path for line in lines] == [(0, 3), (0, 1, 2, 2, 3), WHOLE]
    assert [line.right for line in lines] == [Share(2, 2), Share(2, 2), Share(1, 2)]
    assert [line.margin for line in lines] == [4.0, 2.0, 0.5]  # the infinite one is left out
    assert [line.not_finite for line in lines] == [Share(1, 2), Share(0, 2), Share(0, 2)]


def test_paths_table(evaluated: RunDirectory):
    text = printed(paths_table(evaluated))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"0,3 +2 +100\.0 % +34\.2 to 100\.0 +4\.00 +50\.0 %", text)
    assert re.search(r"0-1,2,2,3 +5 +100\.0 % +34\.2 to 100\.0 +2\.00 +0\.0 %", text)
    assert re.search(r"0-3 \(identity\) +4 +50\.0 % +9\.5 to 90\.5 +0\.50 +0\.0 %", text)
    assert text.count("(identity)") == 1
    assert "6 evaluations on 2 of 2 questions" in " ".join(text.split())


def test_path_that_is_never_finite_has_no_margin(tmp_path: Path):
    rows = [evaluation("q1", 0, WHOLE, -1, False, margin=-math.inf, finite=False)]
    run = make(tmp_path, (rows, [question("q1")]), command="evaluate", paths=[list(WHOLE)])
    assert math.isnan(path_lines(run)[0].margin)
    assert "nan" not in printed(paths_table(run))


def test_what_has_no_table_of_paths(run: RunDirectory, tmp_path: Path):
    with pytest.raises(ValueError, match="use summarise for a search"):
        paths_table(run)
    empty = make(tmp_path / "empty", command="evaluate", paths=[list(WHOLE)])
    with pytest.raises(ValueError, match="no question done yet"):
        paths_table(empty)


# Figures


def test_figures_stand_in_any_page(run: RunDirectory):
    summary = summarise(run)
    for svg in (length_histogram(summary), layer_heatmap(summary)):
        assert svg.startswith('<svg role="img" aria-label=')
        assert "currentColor" in svg
        assert INK not in svg
        assert "<style" not in svg  # it would apply to the whole page
        assert "all evaluated" in svg
    assert ">L = 4<" in length_histogram(summary)
    assert ">W→C (2)<" in layer_heatmap(summary)
    ids = re.findall(r' id="([^"]+)"', length_histogram(summary) + layer_heatmap(summary))
    assert len(ids) == len(set(ids))


def test_figures_without_matplotlib(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    summary = summarise(run)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'cola-jax\[report\]'"):
        length_histogram(summary)
    with pytest.raises(ValueError, match=r"pip install 'cola-jax\[report\]'"):
        layer_heatmap(summary)


# The page


def page_of(run: RunDirectory, directory: Path) -> str:
    write_page(run, summarise(run), directory / "pages" / "report.html")
    return (directory / "pages" / "report.html").read_text()


def embedded(page: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block
    return json.loads(block[1])


def test_page_shows_the_table_and_the_settings(run: RunDirectory, tmp_path: Path):
    page = page_of(run, tmp_path)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    cells = [html.unescape(re.sub(r"<[^>]+>", "|", row)) for row in rows]
    at = next(i for i, row in enumerate(cells) if "W→C: wrong before" in row)
    assert "66.7 %" in cells[at]
    assert "20.8 to 93.9" in cells[at]
    assert "control" in cells[at + 1]
    assert "50.0 %" in cells[at + 1]
    assert "someone/model" in page
    assert "<dt>simulations</dt><dd>2 per question</dd>" in page
    assert "5 of 6 questions done" in page
    assert "Those with a control:\n2; some path gave the fixed wrong option on\n1." in page
    assert page.count('<svg role="img"') == 2
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().split()


def test_page_needs_nothing_from_elsewhere(run: RunDirectory, tmp_path: Path):
    page = page_of(run, tmp_path)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"url\(\s*[\"']?\s*(https?:)?//|@import", page)
    assert not re.search(r"<(link|iframe|object|embed|script[^>]*\ssrc)\b", page)
    assert "default-src 'none'" in page


NASTY = """<script>alert(1)</script>&"'</script><!-- {{ 7 * 7 }}"""


def test_page_escapes_whatever_a_run_holds(tmp_path: Path):
    rows = [e | {"question": NASTY, "edit": NASTY} for e in E2]
    asked = Q2 | {"question": NASTY, "text": NASTY, "options": [NASTY, "b", "c"]}
    start = START | {
        "origin": {"kind": "hub", "name": NASTY},
        "model": NASTY,
        "task": NASTY,
        "device": NASTY,
        "versions": {NASTY: NASTY},
    }
    run = make(tmp_path, (rows, [asked]), start=start, scorer=NASTY, preset={NASTY: NASTY})
    page = page_of(run, tmp_path)
    assert "<script>alert" not in page
    assert "</script>&" not in page
    assert "<!--" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "49" not in re.sub(r"<svg.*?</svg>", "", page.split("<main>")[0], flags=re.DOTALL)
    [shown] = embedded(page)["questions"]
    assert (shown["id"], shown["text"], shown["options"][0]) == (NASTY, NASTY, NASTY)
    assert shown["paths"][1][6] == NASTY


@pytest.mark.parametrize("part", [ONLY_RIGHT, ONLY_WRONG, (E2, [Q2]), (E4[:1], [Q4])])
def test_page_of_one_question(tmp_path: Path, part: Any):
    page = page_of(make(tmp_path, part), tmp_path)
    assert len(embedded(page)["questions"]) == 1
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().split()


def test_page_does_not_depend_on_the_working_directory(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert page_of(run, tmp_path).startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([(E1, [Q1])], "nothing to compare"),
        ([(E2, [Q2]), (E3, [Q3])], "contains 0"),
    ],
)
def test_page_says_what_the_control_leaves(tmp_path: Path, questions: Any, words: str):
    assert words in page_of(make(tmp_path, *questions), tmp_path)


@pytest.mark.parametrize(("reached", "words"), [(False, "lies above 0"), (True, "lies below 0")])
def test_page_says_when_the_control_is_clearly_passed(tmp_path: Path, reached: bool, words: str):
    sort, rows = (Q3, E3) if reached else (Q2, E2)
    parts = [
        ([e | {"question": f"q{i}"} for e in rows], [sort | {"question": f"q{i}"}])
        for i in range(12)
    ]
    assert words in page_of(make(tmp_path, *parts), tmp_path)


# The browser of questions


def test_questions_as_the_page_shows_them(run: RunDirectory):
    shown = browse(run)
    assert [q["id"] for q in shown] == ["q1", "q2", "q3", "q4", "q5"]
    assert [q["kind"] for q in shown] == ["C→C", "W→C", "W→W", "C→C", "W→C"]
    assert [q["best"] for q in shown] == [3, 5, None, 4, 3]
    assert [q["reached"] for q in shown] == [True, False, True, None, None]
    # text, verdict, margin, answer, node, parent, edit, shortest right, on the front
    assert shown[0]["paths"] == [
        ["0-3", 1, 1.0, 0, 0, None, None, 0, 0],
        ["0-1,3", 1, 1.0, 0, 1, 0, "edit 1", 1, 1],
        ["0,3", 0, -1.0, 2, 2, 1, "edit 2", 0, 1],
    ]
    assert shown[1]["paths"][2][:4] == ["0,2", 0, None, -1]  # infinity is no JSON


def test_choice_of_paths(tmp_path: Path):
    """Of 41: identity, shortest right, shortest wrong, control, more right ones, near misses."""
    right = [(0,) * n for n in range(30, 10, -1)]  # nodes 1 to 20, the shortest is node 20
    wrong = [(1,) * n for n in range(30, 10, -1)]  # nodes 21 to 40
    rows = [evaluation("q1", 0, WHOLE, 1, False)]
    rows += [evaluation("q1", 1 + i, path, 0, True) for i, path in enumerate(right)]
    rows += [
        evaluation("q1", 21 + i, path, 2 if i == 5 else 1, False, margin=-10.0 - i)
        for i, path in enumerate(wrong)
    ]
    asked = question("q1", best=right[-1], control=2, control_reached=True)
    run = make(tmp_path, (E2, [Q2]), (rows, [asked]))
    nodes = [path[4] for path in browse(run)[1]["paths"]]
    assert len(nodes) == MOST_PATHS
    # 40 the shortest wrong, 26 the control; 19 to 13 right by length; 21 to 23 the least wrong
    assert nodes == [0, 20, 40, 26, 19, 18, 17, 16, 15, 14, 13, 21, 22, 23]


def test_paths_fill_up_with_right_ones_where_none_is_wrong(tmp_path: Path):
    rows = [evaluation("q1", i, (0,) * (i + 1), 0, True) for i in range(41)]
    asked = question("q1", baseline=True, baseline_answer=0, best=(0,))
    nodes = [path[4] for path in browse(make(tmp_path, (rows, [asked])))[0]["paths"]]
    assert nodes == list(range(MOST_PATHS))

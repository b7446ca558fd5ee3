"""Reports of runs on open questions: ungraded answers, decoded texts, levels, and older runs."""

import html
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cola_jax.report import browser as browser_module
from cola_jax.report import paths_table, summarise, summary_table, write_page
from cola_jax.report.browser import LONGEST, SHORTEST, browse, shorten, text_limit
from cola_jax.report.page import facts
from cola_jax.report.share import Difference, Share
from cola_jax.report.summary import ALL, CORRECTED, RIGHT
from cola_jax.report.table import path_lines
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.schema import EVALUATIONS, QUESTIONS
from tests.report.test_report import (
    E1,
    E2,
    E3,
    NASTY,
    Q1,
    Q2,
    Q3,
    SETTINGS,
    START,
    WHOLE,
    embedded,
    evaluation,
    make,
    page_of,
    printed,
    question,
)

OLD_EVALUATIONS = EVALUATIONS.names[: EVALUATIONS.names.index("text")]
OLD_QUESTIONS = [name for name in QUESTIONS.names if name != "metadata"]


def decoded(
    name: str, node: int, path: tuple[int, ...], said: str | None, verdict: bool | None, **more: Any
) -> dict[str, Any]:
    """One evaluation of the scorer `generate`; a verdict of None is ungraded."""
    grade = {True: "right", False: "wrong", None: "ungraded"}[verdict]
    row = evaluation(name, node, path, 0 if verdict else -1, bool(verdict))
    reply = {"text": f" so {said}\n", "said": said, "finish": "stop", "cut": False, "decoded": 4}
    return row | reply | {"verdict": verdict, "grade": grade, "logprob": -1.0} | more


def asked(name: str, level: int, **fields: Any) -> dict[str, Any]:
    known = {"math_level": str(level), "source": "there"}
    return question(name, options=["7", "9"], baseline_answer=-1, metadata=known) | fields


def limit(said: str) -> dict[str, Any]:
    return {"text": f" {said}", "finish": "length", "cut": True, "decoded": 12}


# C→C on three layers; its control reached
G1 = asked("g1", 2, baseline=True, baseline_answer=0, best=(0, 1, 3), confirmed=True,
           control=1, control_reached=True, front=[(0, 1, 3), (0,)])  # fmt: skip
F1 = [
    decoded("g1", 0, WHOLE, "7", True),
    decoded("g1", 1, (0, 1, 3), "7", True),
    decoded("g1", 2, (0, 3), "9", False, answer=1),
    decoded("g1", 3, (0,), "seven!", None, margin=-0.1),  # the front holds it: not known as right
]
# W→C
G2 = asked("g2", 10, best=(0, 1, 1, 2, 3), confirmed=False, control=1, control_reached=False)
F2 = [
    decoded("g2", 0, WHOLE, None, False, **limit("no no")),
    decoded("g2", 1, (0, 1, 1, 2, 3), "7", True),
]
# ungraded before, and right on some path: neither W→C nor C→C
G3 = asked("g3", 2, baseline=None, best=(0, 2), confirmed=True, control=1, control_reached=True)
F3 = [
    decoded("g3", 0, WHOLE, "x", None),
    decoded("g3", 1, (0, 2), "7", True),
    decoded("g3", 2, (0, 1), "9", False, answer=1),
]
# W→W, as far as it is known
G4 = asked("g4", 10, control=1, control_reached=False)
F4 = [decoded("g4", 0, WHOLE, "8", False), decoded("g4", 1, (1, 2), "7.0000", None)]
PARTS = [(F1 + F2, [G1, G2]), (F3 + F4, [G3, G4])]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make(tmp_path, *PARTS, scorer="generate", questions=4)


# The numbers


def test_ungraded_is_neither_right_nor_wrong(run: RunDirectory):
    summary = summarise(run)
    assert (summary.done, summary.left_out) == (4, 1)
    assert summary.before == Share(1, 3)
    assert summary.after == Share(2, 3)
    assert summary.corrected == Share(1, 2)  # g2 of g2 and g4
    assert summary.shortened == Share(1, 1)
    assert summary.control == Share(1, 3)  # not g3's
    assert summary.control_wrong == Share(0, 2)
    assert summary.net == Difference(1, 0, 2)
    assert summary.confirmed == Share(2, 3)
    assert summary.ungraded == Share(3, 11)
    assert summary.length == pytest.approx((3 + 5 + 4) / 3)
    assert summary.best_lengths[RIGHT].tolist() == [0, 0, 0, 1]
    assert summary.best_lengths[CORRECTED].tolist() == [0, 0, 0, 0, 0, 1]
    assert [summary.layers[name].paths for name in (RIGHT, CORRECTED, ALL)] == [1, 1, 11]
    assert summary.correct_lengths.tolist() == [0, 0, 1, 1, 1, 1]


def test_what_was_decoded(run: RunDirectory):
    summary = summarise(run)
    assert summary.cut == Share(1, 11)
    assert summary.decoded == pytest.approx((10 * 4 + 12) / 11)
    assert summary.answers == pytest.approx((3 + 1 + 3 + 2) / 4)  # None is no answer


def test_levels_are_in_order_and_leave_out_the_ungraded(run: RunDirectory):
    levels = summarise(run).levels
    assert [level[:2] for level in levels] == [("math_level", "2"), ("math_level", "10")]
    assert [level.before for level in levels] == [Share(1, 1), Share(0, 2)]
    assert [level.after for level in levels] == [Share(1, 1), Share(1, 2)]


def test_every_fact_that_is_a_level_is_shown_by_itself(tmp_path: Path):
    both = [{"math_level": "1", "fail_rate_level": "4"}, {"math_level": "1"}, None]
    more = [{"math_level": "1", "fail_rate_level": "2"}]
    parts = [
        ([decoded(f"q{i}", 0, WHOLE, "8", False)], [asked(f"q{i}", 0, metadata=known)])
        for i, known in enumerate([*both, *more])
    ]
    summary = summarise(make(tmp_path, *parts, scorer="generate"))
    # all are of one math level; two have no other level, or none at all
    assert [level[:2] for level in summary.levels] == [
        ("fail_rate_level", "2"),
        ("fail_rate_level", "4"),
    ]
    assert "fail rate level 4: right after" in printed(summary_table(summary))


# The table


def test_summary_table_of_decoded_answers(run: RunDirectory):
    text = printed(summary_table(summarise(run)))
    assert max(map(len, text.splitlines())) <= 80
    text = " ".join(text.split())
    assert "control: reached a wrong answer" in text
    assert "option" not in text
    assert "questions left out, ungraded before 1" in text
    assert re.search(r"evaluations ungraded 27\.3 % \S+ to \S+ 11 ", text)
    assert "counts neither as right nor as wrong" in text
    assert re.search(r"cut by the token limit 9\.1 % \S+ to \S+ 11 ", text)
    assert "tokens decoded per evaluation, mean 4.7 " in text
    assert "distinct answers, mean 2.2 " in text
    assert "best path decodes the same in float32 66.7 %" in text
    assert re.search(r"math level 2: right before 100\.0 % \S+ to 100\.0 1 ", text)
    assert re.search(r"math level 10: right after 50\.0 % \S+ to \S+ 2 ", text)
    assert "nan" not in text


def test_lines_that_say_nothing_are_left_out(tmp_path: Path):
    exact = make(tmp_path / "1", (E1, [Q1]), scorer="exact")
    graded = make(tmp_path / "2", (F2, [G2]), scorer="generate")
    choice = make(tmp_path / "3", (E1, [Q1]), scorer="letter")
    texts = [printed(summary_table(summarise(run))) for run in (exact, graded, choice)]
    assert all("ngraded" not in text and "level" not in text for text in texts)
    assert ["token" in text for text in texts] == [False, True, False]
    assert ["float32 too" in text for text in texts] == [True, False, True]
    assert ["a wrong answer" in text for text in texts] == [True, True, False]
    assert ["distinct" in text for text in texts] == [False, True, True]


def test_run_where_nothing_is_graded(tmp_path: Path):
    rows = [decoded("g3", 0, WHOLE, "x", None)]
    run = make(tmp_path, (rows, [G3 | {"best": None, "confirmed": None}]), scorer="generate")
    summary = summarise(run)
    assert (summary.before, summary.after, summary.corrected) == (Share(0, 0),) * 3
    assert math.isnan(summary.length)
    assert "nan" not in printed(summary_table(summary))
    page = page_of(run, tmp_path)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().split()


# The table of paths


@pytest.fixture
def evaluated(tmp_path: Path) -> RunDirectory:
    """Three paths on two questions; the last one was never graded."""
    paths = [WHOLE, (0, 1, 2, 2, 3), (0, 3)]
    verdicts = {"q1": [True, True, None], "q2": [False, None, None]}
    rows = [
        decoded(name, node, paths[node], "7", verdict, margin=-50.0 if verdict is None else 2.0)
        for name, column in verdicts.items()
        for node, verdict in enumerate(column)
    ]
    rows[3] |= limit("7")
    empty = dict.fromkeys(["baseline", "baseline_answer", "front", "answers"])
    asked = [question(name, options=["7", "9"]) | empty for name in verdicts]
    settings = {"command": "evaluate", "scorer": "generate", "questions": 2}
    return make(tmp_path, (rows, asked), **settings, paths=[list(p) for p in paths])


def test_paths_are_counted_over_graded_evaluations(evaluated: RunDirectory):
    lines = path_lines(evaluated)
    assert [line.path for line in lines] == [(0, 1, 2, 2, 3), WHOLE, (0, 3)]
    assert [line.right for line in lines] == [Share(1, 1), Share(1, 2), Share(0, 0)]
    assert [line.margin for line in lines[:2]] == [2.0, 2.0]  # an ungraded one has none
    assert math.isnan(lines[2].margin)
    assert [line.cut for line in lines] == [Share(0, 2), Share(1, 2), Share(0, 2)]
    assert [line.decoded for line in lines] == [4.0, 8.0, 4.0]


def test_paths_table_of_decoded_answers(evaluated: RunDirectory):
    text = printed(paths_table(evaluated))
    assert max(map(len, text.splitlines())) <= 80
    assert "tokens" in text
    assert re.search(r"0-1,2,2,3 +5 +100\.0 % +20\.7 to 100\.0 +0\.0 % +0\.0 % +4\.0", text)
    assert re.search(r"4 +50\.0 % +9\.5 to 90\.5 +0\.0 % +50\.0 % +8\.0", text)
    assert re.search(r"0,3 +2 +– +0\.0 % +0\.0 % +4\.0", text)
    text = " ".join(text.split())
    assert "6 evaluations on 2 of 2 questions. 3 of them ungraded" in text
    assert "Cut by the token limit: 16.7 %; tokens decoded: 5.3 on average." in text


def test_paths_table_of_exact_answers_has_nothing_of_tokens(tmp_path: Path):
    rows = [evaluation("q1", 0, WHOLE, 0, True)]
    settings = {"command": "evaluate", "scorer": "exact", "paths": [list(WHOLE)]}
    text = printed(paths_table(make(tmp_path, (rows, [question("q1")]), **settings)))
    assert "margin" in text
    assert not re.search("token|cut|ngraded", text)


# The page


def test_questions_as_the_page_shows_them(run: RunDirectory):
    shown = browse(run)
    assert [q["kind"] for q in shown] == ["C→C", "W→C", "?→C", "W→W"]
    # text, verdict, margin, answer, node, parent, edit, shortest right, on the front, reply
    assert shown[0]["paths"] == [
        ["0-3", 1, 1.0, 0, 0, None, None, 0, 0, 0],
        ["0-1,3", 1, 1.0, 0, 1, 0, "edit 1", 1, 1, 0],
        ["0,3", 0, -1.0, 1, 2, 0, "edit 2", 0, 0, 1],
        ["0", None, -0.1, -1, 3, 0, "edit 3", 0, 1, 2],
    ]
    # what two paths say alike stands there once
    assert shown[0]["replies"] == [
        ["7", " so 7\n", "stop", 0, 4],
        ["9", " so 9\n", "stop", 0, 4],
        ["seven!", " so seven!\n", "stop", 0, 4],
    ]
    assert shown[1]["replies"][0] == [None, " no no", "length", 1, 12]


def test_rows_are_read_from_the_parts_they_are_in(tmp_path: Path):
    """The texts are read again, part by part, for the rows that were chosen."""
    parts = [
        (
            [decoded(f"q{i}", n, (n,) * (9 - n), f"{i} {n}", n == 3) for n in range(8)],
            [asked(f"q{i}", 1)],
        )
        for i in range(3)
    ]
    for shown in browse(make(tmp_path, *parts, scorer="generate")):
        paths = shown["paths"]
        assert len(paths) == 8
        said = [shown["replies"][path[9]][0] for path in paths]
        assert said == [f"{shown['id'][1:]} {path[4]}" for path in paths]


def test_ungraded_paths_are_not_chosen_as_wrong(tmp_path: Path):
    rows = [decoded("g1", 0, WHOLE, "8", False)]
    rows += [decoded("g1", i, (0,) * (31 - i), "8", False, margin=-i) for i in range(1, 21)]
    rows += [decoded("g1", i, (1,) * (42 - i), "x", None, margin=0.0) for i in range(21, 41)]
    [shown] = browse(make(tmp_path, (rows, [asked("g1", 1)]), scorer="generate"))
    nodes = [path[4] for path in shown["paths"]]
    # the shortest wrong is node 20; one that is ungraded is shown; the rest are the least wrong
    assert nodes == [0, 20, 40, *range(1, 12)]


def test_long_texts_are_cut_as_the_budget_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert text_limit(0) == text_limit(10) == LONGEST
    assert text_limit(1 << 30) == SHORTEST
    assert shorten("a" * 9, 9) == "a" * 9
    assert shorten("abc" + "-" * 1000 + "defghi", 9) == "abc […1,000 characters left out…] defghi"
    monkeypatch.setattr(browser_module, "TEXT_BUDGET", 600)
    long = [decoded("g1", n, (n,), "7" * 5000, False, text=f"{n}" * 5000) for n in range(2)]
    [shown] = browse(make(tmp_path, (long, [G1]), scorer="generate"))
    for said, text, *_ in shown["replies"]:
        assert "4,700 characters left out" in text
        assert "4,800 characters left out" in said


@pytest.mark.parametrize("scorer", ["exact", "generate"])
def test_page_of_open_questions(tmp_path: Path, scorer: str):
    parts = PARTS if scorer == "generate" else [(E1 + E2, [Q1, Q2]), (E3, [Q3])]
    run = make(tmp_path, *parts, scorer=scorer)
    page = page_of(run, tmp_path)
    data = embedded(page)
    assert (data["open"], data["decodes"]) == (True, scorer == "generate")
    prose = html.unescape(re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
    assert "control: reached a wrong answer" in prose
    assert "some path gave the fixed wrong answer on" in prose
    assert not re.search(r"\boptions?\b", prose)
    replies = [bool(question["replies"]) for question in data["questions"]]
    assert set(replies) == {scorer == "generate"}


def test_page_of_options_is_not_open(tmp_path: Path):
    data = embedded(page_of(make(tmp_path, (E1, [Q1]), scorer="letter"), tmp_path))
    assert (data["open"], data["decodes"]) == (False, False)
    assert all(len(path) == 9 for path in data["questions"][0]["paths"])


def test_page_escapes_what_a_model_said(tmp_path: Path):
    nasty = f"{NASTY}\u202e\u2028\x00\\"
    rows = [e | {"text": nasty, "said": nasty} for e in F1]
    known = {"math_level": NASTY}
    parts = [(rows, [G1 | {"metadata": known}]), (F2, [G2])]
    page = page_of(make(tmp_path, *parts, scorer="generate"), tmp_path)
    assert "<script>alert" not in page
    assert "</script>&" not in page
    assert "<!--" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "\x00" not in page
    assert embedded(page)["questions"][0]["replies"] == [[nasty, nasty, "stop", 0, 4]]
    assert "math level &lt;script&gt;" in page


def test_settings_of_open_runs():
    prompt = {"format": {"name": "boxed"}, "shots": ["a"], "chat": True}
    more = {"prompt": prompt, "max_new_tokens": 64, "grader": "math-verify 0.9.0", "chat": None}
    named = dict(facts(SETTINGS | more, START, 1))
    assert named["prompt"] == "boxed, 1 shot"
    assert named["chat template"] == "yes"
    assert (named["token limit"], named["grader"]) == ("64", "math-verify 0.9.0")
    assert not {"prompt", "token limit", "grader"} & set(dict(facts(SETTINGS, START, 1)))


# Runs of before there were open questions


def write_old(run: RunDirectory, name: str, rows: list[Any], asked: list[Any]) -> None:
    """Writes a part that lacks the columns that came later."""
    old = (("evaluations", EVALUATIONS, OLD_EVALUATIONS, rows),)
    old += (("questions", QUESTIONS, OLD_QUESTIONS, asked),)
    for kind, schema, names, content in old:
        schema = pa.schema([schema.field(n) for n in names])
        table = pa.Table.from_pylist(content, schema=schema)
        pq.write_table(table, str(run.directory / kind / name))


def test_older_search_is_read(tmp_path: Path):
    run = make(tmp_path, scorer="letter")
    write_old(run, "part-00000.parquet", E1 + E2, [Q1, Q2])
    assert run.questions()["metadata"].null_count == 2
    assert run.evaluations(["text", "cut", "decoded"]).to_pylist() == [
        {"text": None, "cut": None, "decoded": None}
    ] * len(E1 + E2)
    run.write_part(E3, [Q3])  # continued since
    summary = summarise(run)
    assert (summary.before, summary.after, summary.left_out) == (Share(1, 3), Share(2, 3), 0)
    assert (summary.ungraded, summary.cut) == (Share(0, 9), Share(0, 0))
    assert summary.levels == ()
    assert [q["kind"] for q in browse(run)] == ["C→C", "W→C", "W→W"]
    write_page(run, summary, tmp_path / "report.html")


def test_older_evaluation_is_read(tmp_path: Path):
    run = make(tmp_path, command="evaluate", scorer="letter", paths=[list(WHOLE)])
    write_old(run, "part-00000.parquet", E1[:1] + E2[:1], [Q1, Q2])
    [line] = path_lines(run)
    assert (line.right, line.cut) == (Share(1, 2), Share(0, 0))
    assert math.isnan(line.decoded)
    assert "nan" not in printed(paths_table(run))

import math
import re
from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import summarise, summary_table
from cola_jax.report.summary import Summary
from cola_jax.report.table import format_interval, format_percent, format_points
from tests.report.conftest import (
    E1,
    F2,
    G2,
    ONE_EVALUATION,
    ONLY_RETAINED,
    ONLY_WRONG,
    Q1,
    UNGRADED,
    WHOLE,
    decoded,
    make_run,
    named,
    open_question,
    printed,
)


def test_summary_table_lists_shares_and_controls(summary: Summary):
    lines = printed(summary_table(summary)).splitlines()
    assert max(map(len, lines)) <= 80
    at = next(i for i, line in enumerate(lines) if "W→C: wrong before" in line)
    assert re.search(r"66\.7 % +20\.8 to 93\.9 +3$", lines[at].rstrip())
    assert re.search(r"control.* 50\.0 % +9\.5 to 90\.5 +2$", lines[at + 1].rstrip())
    assert re.search(r"minus control +1 +1\.0 expected +2 ", "\n".join(lines))
    text = " ".join(" ".join(lines).split())
    assert "13 evaluations on 5 of 6 questions (unfinished)" in text
    assert "correct before (identity path) 40.0 %" in text
    assert "distinct options answered, mean 2.2 of 2.6" in text


def test_summary_table_of_finished_run(tmp_path: Path):
    summary = summarise(make_run(tmp_path, ONLY_RETAINED, questions=1))
    assert "unfinished" not in printed(summary_table(summary))


@pytest.mark.parametrize(
    ("part", "scorer"),
    [
        (ONLY_RETAINED, None),
        (ONLY_WRONG, None),
        (ONE_EVALUATION, None),
        (UNGRADED, "generation"),
    ],
)
def test_summary_table_shows_missing_values_as_dashes(tmp_path: Path, part: Any, scorer: Any):
    text = printed(summary_table(summarise(make_run(tmp_path, part, scorer=scorer))))
    assert "nan" not in text
    if part is ONLY_RETAINED:
        assert re.search(r"W→C: wrong before, correct after +– +0\b", text)


def test_summary_table_of_completions(open_summary: Summary):
    text = printed(summary_table(open_summary))
    assert max(map(len, text.splitlines())) <= 80
    text = " ".join(text.split())
    assert "control: reached a wrong answer" in text
    assert "option" not in text
    assert "questions excluded, ungraded before 1" in text
    assert re.search(r"evaluations ungraded 27\.3 % \S+ to \S+ 11 ", text)
    assert "counts neither as correct nor as wrong" in text
    assert re.search(r"evaluations truncated 9\.1 % \S+ to \S+ 11 ", text)
    assert "Truncated: the token limit" in text
    assert "tokens decoded per evaluation, mean 4.7 " in text
    assert "distinct answers, mean 2.2 " in text
    assert "best path decodes the same in float32 66.7 %" in text
    assert re.search(r"math level 2: correct before 100\.0 % \S+ to 100\.0 1 ", text)
    assert re.search(r"math level 10: correct after 50\.0 % \S+ to \S+ 2 ", text)
    assert "nan" not in text


def test_summary_table_names_levels(tmp_path: Path):
    parts = [
        (
            [decoded(f"q{i}", 0, WHOLE, "8", False)],
            [open_question(f"q{i}", 0, metadata=named(fail_rate_level=str(i)))],
        )
        for i in (2, 4)
    ]
    summary = summarise(make_run(tmp_path, *parts, scorer="generation"))
    assert "fail rate level 4: correct after" in printed(summary_table(summary))


def test_summary_table_omits_rows_that_do_not_apply(tmp_path: Path):
    exact = make_run(tmp_path / "1", (E1, [Q1]), scorer="exact")
    graded = make_run(tmp_path / "2", (F2, [G2]), scorer="generation")
    choice = make_run(tmp_path / "3", (E1, [Q1]), scorer="letter")
    texts = [printed(summary_table(summarise(run))) for run in (exact, graded, choice)]
    assert all("ngraded" not in text and "level" not in text for text in texts)
    assert ["token" in text for text in texts] == [False, True, False]
    assert ["float32 too" in text for text in texts] == [True, False, True]
    assert ["a wrong answer" in text for text in texts] == [True, True, False]
    assert ["distinct" in text for text in texts] == [False, True, True]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 %"),
        (1 / 3, "33.3 %"),
        (0.0625, "6.2 %"),
        (1.0, "100.0 %"),
        (0.0004, "<0.1 %"),  # not none
        (0.9996, ">99.9 %"),
        (math.nan, "–"),
    ],
)
def test_format_percent(value: float, text: str):
    assert format_percent(value) == text


def test_format_points_is_signed():
    texts = [format_points(x) for x in (0.111, -0.25, 0.0, math.nan)]
    assert texts == ["+11.1", "−25.0", "+0.0", "–"]


def test_format_interval():
    assert format_interval((0.117, 0.7693)) == "11.7 to 76.9"
    assert format_interval((-0.304, 0.486), signed=True) == "−30.4 to +48.6"
    assert format_interval((math.nan, math.nan)) == ""

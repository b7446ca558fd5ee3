import dataclasses
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import page as page_module
from cola_jax.report import summarise, write_page
from cola_jax.report.page import run_details
from cola_jax.report.summary import Summary
from cola_jax.runs.directory import RunDirectory
from cola_jax.search.presets import PRESETS
from tests.report.conftest import (
    E1,
    E2,
    E3,
    F1,
    F2,
    G1,
    G2,
    NASTY,
    ONE_EVALUATION,
    ONLY_CORRECTED,
    ONLY_RETAINED,
    ONLY_WRONG,
    OPEN_PARTS,
    Q1,
    Q2,
    Q3,
    SETTINGS,
    START,
    UNGRADED,
    make_run,
    named,
)

PageOf = Callable[[RunDirectory], str]


@pytest.fixture(scope="module")
def page(run: RunDirectory, summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with its figures."""
    file = tmp_path_factory.mktemp("page") / "pages" / "report.html"
    write_page(run, summary, file)
    return file.read_text()


@pytest.fixture
def page_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PageOf:
    """Writes pages with empty figures, as drawing takes most of the time."""
    for name in ("length_histogram", "layer_heatmap"):
        monkeypatch.setattr(page_module, name, lambda summary: '<svg role="img"></svg>')

    def write(run: RunDirectory) -> str:
        write_page(run, summarise(run), tmp_path / "pages" / "report.html")
        return (tmp_path / "pages" / "report.html").read_text()

    return write


def embedded(page: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block
    return json.loads(block[1])


def words(page: str) -> list[str]:
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().split()


def test_page_shows_table_settings_and_figures(page: str):
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
    text = " ".join(page.split())
    assert "Of 2 control searches for the same questions, 1 reached their wrong option." in text
    assert page.count('<svg role="img"') == 3
    assert "nan" not in words(page)


def test_page_is_self_contained(page: str):
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"url\(\s*[\"']?\s*(https?:)?//|@import", page)
    assert not re.search(r"<(link|iframe|object|embed|script[^>]*\ssrc)\b", page)
    assert "default-src 'none'" in page


def test_page_escapes_all_text(tmp_path: Path, page_of: PageOf):
    rows = [e | {"question": NASTY, "edit": NASTY} for e in E2]
    question = Q2 | {"question": NASTY, "text": NASTY, "options": [NASTY, "b", "c"]}
    start = START | {
        "origin": {"kind": "hub", "name": NASTY},
        "model": NASTY,
        "task": NASTY,
        "device": NASTY,
        "versions": {NASTY: NASTY},
    }
    settings = {"scorer": NASTY, "preset": {NASTY: NASTY}}
    page = page_of(make_run(tmp_path, (rows, [question]), start=start, **settings))
    assert "<script>alert" not in page
    assert "</script>&" not in page
    assert "<!--" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "49" not in re.sub(r"<svg.*?</svg>", "", page.split("<main>")[0], flags=re.DOTALL)
    [shown] = embedded(page)["questions"]
    assert (shown["id"], shown["text"], shown["options"][0]) == (NASTY, NASTY, NASTY)
    assert shown["paths"][1][6] == NASTY


def test_page_escapes_completions(tmp_path: Path, page_of: PageOf):
    nasty = f"{NASTY}\u202e\u2028\x00\\"
    rows = [e | {"text": nasty, "answer_text": nasty} for e in F1]
    parts = [(rows, [G1 | {"metadata": named(math_level=NASTY)}]), (F2, [G2])]
    page = page_of(make_run(tmp_path, *parts, scorer="generation"))
    assert "<script>alert" not in page
    assert "</script>&" not in page
    assert "<!--" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "\x00" not in page
    assert embedded(page)["questions"][0]["completions"] == [[nasty, nasty, "stop", 0, 4]]
    assert "math level &lt;script&gt;" in page


@pytest.mark.parametrize(
    ("part", "scorer"),
    [
        (ONLY_RETAINED, None),
        (ONLY_WRONG, None),
        (ONLY_CORRECTED, None),
        (ONE_EVALUATION, None),
        (UNGRADED, "generation"),
    ],
)
def test_page_of_one_question(tmp_path: Path, page_of: PageOf, part: Any, scorer: str | None):
    page = page_of(make_run(tmp_path, part, scorer=scorer))
    assert len(embedded(page)["questions"]) == 1
    assert "nan" not in words(page)


def test_page_does_not_depend_on_the_working_directory(
    run: RunDirectory, page_of: PageOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    page_module.page_template.cache_clear()
    assert page_of(run).startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("questions", "conclusion"),
    [
        ([(E1, [Q1])], "nothing to compare"),
        ([(E2, [Q2]), (E3, [Q3])], "contains 0"),
    ],
)
def test_page_states_what_the_control_leaves(
    tmp_path: Path, page_of: PageOf, questions: Any, conclusion: str
):
    assert conclusion in page_of(make_run(tmp_path, *questions))


@pytest.mark.parametrize(
    ("reached", "conclusion"), [(False, "lies above 0"), (True, "lies below 0")]
)
def test_page_states_a_clear_difference_to_the_control(
    tmp_path: Path, page_of: PageOf, reached: bool, conclusion: str
):
    question, rows = (Q3, E3) if reached else (Q2, E2)
    parts = [
        ([e | {"question": f"q{i}"} for e in rows], [question | {"question": f"q{i}"}])
        for i in range(12)
    ]
    assert conclusion in page_of(make_run(tmp_path, *parts))


@pytest.mark.parametrize("scorer", ["exact", "generation"])
def test_page_of_open_questions(tmp_path: Path, page_of: PageOf, scorer: str):
    decodes = scorer == "generation"
    parts = OPEN_PARTS if decodes else [(E1 + E2, [Q1, Q2]), (E3, [Q3])]
    page = page_of(make_run(tmp_path, *parts, scorer=scorer))
    data = embedded(page)
    assert (data["open"], data["decodes"]) == (True, decodes)
    prose = html.unescape(re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
    assert "control: searched for a wrong answer" in prose
    assert re.search(r"reached\s+their\s+wrong\s+answer", prose)
    assert not re.search(r"\boptions?\b", prose)
    completions = [bool(question["completions"]) for question in data["questions"]]
    assert set(completions) == {decodes}


def test_page_of_options(tmp_path: Path, page_of: PageOf):
    data = embedded(page_of(make_run(tmp_path, (E1, [Q1]), scorer="letter")))
    assert (data["open"], data["decodes"]) == (False, False)
    assert all(len(path) == 9 for path in data["questions"][0]["paths"])


def test_page_of_older_run(old_run: RunDirectory, page_of: PageOf):
    assert len(embedded(page_of(old_run))["questions"]) == 3


def test_run_details_of_open_runs():
    prompt = {"format": {"name": "boxed"}, "shots": ["a"], "chat": True}
    more = {"prompt": prompt, "max_new_tokens": 64, "grader": "math-verify 0.9.0", "chat": None}
    details = dict(run_details(SETTINGS | more, START, 1))
    assert details["prompt"] == "boxed, 1 shot"
    assert details["chat template"] == "yes"
    assert (details["token limit"], details["grader"]) == ("64", "math-verify 0.9.0")
    assert not {"prompt", "token limit", "grader"} & set(dict(run_details(SETTINGS, START, 1)))


def test_run_details_name_preset_and_versions():
    name, preset = next(iter(PRESETS.items()))
    start = START | {"versions": {"jax": "0.10.2"}, "python": "3.11.7"}
    details = dict(run_details(SETTINGS | {"preset": dataclasses.asdict(preset)}, start, 2))
    assert (details["preset"], details["starts"]) == (name, "2")
    assert details["versions"] == "jax 0.10.2, python 3.11.7"
    assert dict(run_details(SETTINGS, START, 1))["preset"] == "custom"
    values = dataclasses.asdict(PRESETS["enumerate"])
    recorded = SETTINGS | {"strategy": "enumerate", "preset": values}
    assert dict(run_details(recorded, START, 1))["preset"] == "enumerate"

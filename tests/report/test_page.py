import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cola_jax.report import page as page_module
from cola_jax.report import scan_page, summarise, write_page
from cola_jax.report.compare import compare_runs
from cola_jax.report.page import SCRIPTS, asset
from cola_jax.runs.run import Run
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
    PARTS,
    Q1,
    Q2,
    Q3,
    START,
    UNGRADED,
    WHOLE,
    evaluation,
    make_run,
    named,
    question,
)
from tests.report.hostile import TEXTS, decoded_part, letters_part, settings_of, start_of

ASSETS = Path(page_module.__file__).parent / "assets"
PageOf = Callable[..., str]


@pytest.fixture
def page_of(tmp_path: Path) -> PageOf:
    """Writes a page about runs and returns it."""

    def write(*runs: Run) -> str:
        file = tmp_path / "pages" / "report.html"
        summaries = [summarise(run) for run in runs]
        write_page(runs, summaries, file, compare_runs(runs, summaries[0].num_layers))
        return file.read_text()

    return write


def embedded(page: str, name: str = "data") -> Any:
    block = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert block
    return json.loads(block[1])


def without_scripts(page: str) -> str:
    return html.unescape(re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))


def test_page_shows_table_settings_and_figures(run: Run, page_of: PageOf):
    page = page_of(run)
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
    figures = set(re.findall(r'<figure id="figure-(\w+)">', page))
    assert figures == embedded(page)["figures"].keys()
    assert page.count("<figcaption>") == len(figures)
    assert "nan" not in without_scripts(page).lower().split()


def test_page_allows_its_own_script_and_style_alone(run: Run, page_of: PageOf):
    page = page_of(run)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    rules = html.unescape(policy[1])
    assert rules.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in rules
    scripts, styles = (re.findall(rf"<{n}>(.*?)</{n}>", page, re.S) for n in ("script", "style"))
    assert len(scripts) == len(styles) == 1
    for content in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules
    assert not re.search(r" style=| on\w+=", without_scripts(page))  # the policy forbids both


def test_page_is_self_contained(run: Run, page_of: PageOf, tmp_path: Path):
    page = page_of(run)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"url\(\s*[\"']?\s*(https?:)?//|@import", page)
    assert not re.search(r"<(link|iframe|object|embed|script[^>]*\ssrc)\b", page)
    assert len(embedded(page, "chunk-0")) == 5
    assert [file.name for file in (tmp_path / "pages").iterdir()] == ["report.html"]


def test_scripts_never_set_markup():
    names = {*SCRIPTS, *scan_page.SCRIPTS}
    assert names == {file.name for file in ASSETS.glob("*.js")}
    ways = r"innerHTML|outerHTML|insertAdjacent|\.write\(|\beval\b|\bFunction\("
    ways += "|setHTML|srcdoc|DOMParser|createContextualFragment"
    for name in names:
        assert not re.search(ways, asset(name))


class Markup(HTMLParser):
    """Lists the elements of a page, with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.elements.append((tag, [name for name, _ in attrs]))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("make", [letters_part, decoded_part])
def test_no_text_adds_markup_to_a_page(tmp_path: Path, page_of: PageOf, make: Any, text: str):
    scorer = "letter" if make is letters_part else "generation"

    def page(text: str, name: str) -> str:
        settings = settings_of(text) | {"scorer": scorer}
        return page_of(make_run(tmp_path / name, make([text]), start=start_of(text), **settings))

    plain, hostile = Markup(page("plain", "a")), Markup(content := page(text, "b"))
    assert hostile.elements == plain.elements
    [listed] = embedded(content)["questions"]
    [details] = embedded(content, "chunk-0")
    assert listed["id"] == listed["text"] == details["id"] == details["text"] == text
    assert details["options"][0] == text


def test_page_escapes_all_text(tmp_path: Path, page_of: PageOf):
    nasty = f"{NASTY}\u2028\u2029"
    rows = [e | {"question": nasty, "edit": nasty} for e in E2]
    question = Q2 | {"question": nasty, "text": nasty, "options": [nasty, "b", "c"]}
    start = START | {
        "origin": {"kind": "hub", "name": nasty},
        "model": nasty,
        "task": nasty,
        "device": nasty,
        "versions": {nasty: nasty},
    }
    settings = {"scorer": nasty, "preset": {nasty: nasty}}
    page = page_of(make_run(tmp_path, (rows, [question]), start=start, **settings))
    assert "<script>alert" not in page
    assert "</script>&" not in page
    assert "<!--" not in page
    assert page.count("<script") == page.count("</script") == 3
    assert "49" not in page.split("<main>")[0].split("</style>")[1]
    [shown] = embedded(page)["questions"]
    assert (shown["id"], shown["text"]) == (nasty, nasty)
    [details] = embedded(page, "chunk-0")
    assert (details["id"], details["text"], details["options"][0]) == (nasty, nasty, nasty)
    assert details["paths"][1][6] == nasty


def test_page_escapes_completions(tmp_path: Path, page_of: PageOf):
    nasty = f"{NASTY}\u202e\u2028\x00\\"
    rows = [e | {"text": nasty, "answer_text": nasty} for e in F1]
    parts = [(rows, [G1 | {"metadata": named(math_level=NASTY)}]), (F2, [G2])]
    page = page_of(make_run(tmp_path, *parts, scorer="generation"))
    assert page.count("<script") == page.count("</script") == 3
    assert not {"\x00", "\u2028"} & set(page)
    assert embedded(page, "chunk-0")[0]["completions"] == [[nasty, nasty, "stop", 0, 4]]
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
    assert "nan" not in without_scripts(page).lower().split()


def test_page_of_several_runs(tmp_path: Path, page_of: PageOf):
    runs = [make_run(tmp_path / name, *PARTS[:count]) for name, count in (("a", 2), ("b", 1))]
    page = page_of(*runs)
    data = embedded(page)
    assert data["runs"] == ["a/run", "b/run"]
    assert [one["run"] for one in data["questions"]] == [0] * 5 + [1] * 2
    # a question's details are found by chunk and place
    for one in data["questions"]:
        chunk, place = one["at"]
        assert embedded(page, f"chunk-{chunk}")[place]["id"] == one["id"]
    text = " ".join(without_scripts(page).split())
    assert "b/run against a/run, on the 2 questions of both" in text
    [row] = re.findall(r"<tr><th scope=\"row\">correct after.*?</tr>", page)
    assert re.findall(r"[\d.]+ %", row) == ["80.0 %", "100.0 %"]
    assert page.count("<h3><span") == 2  # settings of each


def test_page_of_many_questions_has_files_beside_it(tmp_path: Path):
    names = [f"question {i} / 3000" for i in range(3000)]
    rows = [evaluation(n, i, tuple(range(4 - i % 2)), 0, i > 0) for n in names for i in range(5)]
    rows = [row | {"edit": "repeat 4 at 20 x1"} for row in rows]
    questions = [question(n, text="what " * 60, options=["a" * 80] * 4, best=(0, 1)) for n in names]
    run = make_run(tmp_path, (rows, questions))
    file = tmp_path / "pages" / "big.html"
    write_page([run], [summarise(run)], file)
    page = file.read_text()
    assert file.stat().st_size < 5_000_000
    data = embedded(page)
    assert [one["id"] for one in data["questions"]] == names
    assert 'id="chunk-' not in page
    assert data["files"] == [f"big_files/questions-{i:03d}.js" for i in range(len(data["files"]))]
    for number, name in enumerate(data["files"]):
        content = (file.parent / name).read_text()
        call = re.fullmatch(r'colaQuestions\("(\w+)",(\d+),(.*)\);\n', content, re.DOTALL)
        assert call
        assert (call[1], int(call[2])) == (data["token"], number)
        for place, one in enumerate(json.loads(call[3])):
            assert data["questions"][names.index(one["id"])]["at"] == [number, place]


def test_page_does_not_depend_on_the_working_directory(
    run: Run, page_of: PageOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    page_module.templates.cache_clear()
    assert page_of(run).startswith("<!DOCTYPE html>")


def test_rows_of_different_ways_stand_apart(tmp_path: Path):
    """A search in all variants at once has no row of what is found once."""
    search = {"target": 2, "best": None, "evaluations": 2, "shared": 1, "robust": None}
    again = [{"node": 0, "path": WHOLE, "holds": [False]}]
    asked = Q2 | {
        "controls": [search | {"again": again}], "again": again, "variant_answers": [1],
        "baseline_scores": [[-2.0, -1.0, -3.0]] * 2,
    }  # fmt: skip
    runs = [
        summarise(make_run(tmp_path / name, (E2, [asked]), **settings))
        for name, settings in (("once", {}), ("all", {"robust": True}))
    ]
    groups = dict(page_module.compared_rows(runs))
    labels = {one.label: (one.value, other.value) for one, other in groups["Beyond control"]}
    assert labels["p, two-sided: once"] == ("1.000", "")
    assert labels["p, two-sided: robust"][0] == labels["p, two-sided: robust"][1] != ""


@pytest.mark.parametrize(
    ("questions", "conclusion"),
    [
        ([(E1, [Q1])], "nothing to compare"),
        ([(E2, [Q2]), (E3, [Q3])], "1 of 2 correct answers were reached where 1.0"),
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
    one, rows = (Q3, E3) if reached else (Q2, E2)
    alike = {"baseline_scores": [[-2.0, -1.0, -2.0]]}  # of gold and the control
    parts = [
        ([e | {"question": f"q{i}"} for e in rows], [one | {"question": f"q{i}"} | alike])
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
    prose = without_scripts(page)
    assert "control: reached a wrong answer" in prose
    assert re.search(r"reached\s+their\s+wrong\s+answer", prose)
    assert not re.search(r"\boptions?\b", prose)
    completions = [bool(one["completions"]) for one in embedded(page, "chunk-0")]
    assert set(completions) == {decodes}


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_scripts_in_node():
    """The functions of the page that touch no document."""
    source = "".join(asset(name) for name in ("charts.js", "figure.js", "paths.js"))
    source += """
    const data = { layers: 4 };
    const use = usesOf(parsePath("0-1,3,2,2"));
    console.log(JSON.stringify([
      ticksOf(0, 1, 4), ticksOf(0, 33, 6, true), ticksOf(0, 1, 4, true), parsePath("0-2,1-3,7"),
      use.counts, [...use.moved], csvOf(["a", "b"], [["x,\\"y\\"", 0.5], ["=1+1", null]]),
      ["+1", "-1", "@x", "\\t=1", "＝1", "x", -1].map((one) => csvOf(["c"], [[one]])),
      fitted("W→C: 12 paths", 330), fitted("x".repeat(99) + "end", 75)]));
    """
    run = subprocess.run(["node", "-e", source], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [
        [0, 0.25, 0.5, 0.75, 1],
        [0, 10, 20, 30],
        [0, 1],
        [0, 1, 2, 1, 2, 3, 7],
        [1, 1, 2, 1],
        [2],
        'a,b\n"x,""y""",0.5\n\'=1+1,\n',
        [f"c\n{one}\n" for one in ("'+1", "'-1", "'@x", "'\t=1", "'＝1", "x", "-1")],
        "W→C: 12 paths",
        "xxx…xxxend",
    ]

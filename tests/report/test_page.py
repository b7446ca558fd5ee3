"""The page: its parts, its policy, its questions, and texts that are no markup in it."""

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

import pyarrow as pa
import pytest

from cola_jax.errors import InputError
from cola_jax.files import write_whole
from cola_jax.report import page as pages
from cola_jax.report.document import Document, run_names
from cola_jax.report.figures import scan_figures
from cola_jax.report.page import Picture, write_page, write_search_page
from cola_jax.runs.comparison import compare_runs
from cola_jax.runs.estimates import CHANGE, Estimate
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.schema import PICTURES, thumbnail_name
from tests.deploy.test_scan import PATHS, random_scan
from tests.report.hostile import TEXTS, decoded_part, letters_part, settings_of, start_of
from tests.small_runs import PARTS, answers, letters, make_run, merged, part

ASSETS = Path(pages.__file__).parent / "assets"
PageOf = Callable[..., str]


@pytest.fixture
def page_of(tmp_path: Path) -> PageOf:
    """Write a page about runs and return it."""

    def write(*runs: Run) -> str:
        file = tmp_path / "pages" / "report.html"
        names = run_names(runs)
        every = {name: run.summary() for name, run in zip(names, runs, strict=True)}
        changes = Results(compare_runs(runs, names)) if len(runs) > 1 else None
        write_search_page(runs, every, file, changes)
        page = file.read_text()
        assert "nan" not in without_scripts(page).lower().split()
        return page

    return write


def embedded(page: str, name: str = "data") -> Any:
    block = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert block
    return json.loads(block[1])


def without_scripts(page: str) -> str:
    return html.unescape(re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))


def test_page_has_a_verdict_contents_and_folded_numbers(run: Run, page_of: PageOf, tmp_path: Path):
    page = page_of(run)
    prose = without_scripts(page)
    order = [
        '<p class="verdict">Nothing shown: ', "5 of 6 questions", "<nav", '<section id="results">',
        "W→C: wrong before", '<section id="browser"', '<figure id="figure-kept">',
        '<div id="all">', "simulations",
    ]  # fmt: skip
    places = [prose.index(text) for text in order]
    assert places == sorted(places)
    links = re.findall(r'<a href="#([\w-]+)">', prose)
    assert set(links) <= set(re.findall(r' id="([\w-]+)"', prose))
    assert len(re.findall("<tr", prose[: prose.index('<section id="browser"')])) <= 11
    figures = set(re.findall(r'<figure id="figure-(\w+)">', page))
    assert figures == {figure["id"] for figure in embedded(page)["figures"]}
    assert len(page) < 200_000
    # it loads nothing
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"url\(\s*[\"']?\s*(https?:)?//|@import", page)
    assert not re.search(r"<(link|iframe|object|embed|script[^>]*\ssrc)\b", page)
    assert len(embedded(page, "chunk-0")) == 5
    assert [file.name for file in (tmp_path / "pages").iterdir()] == ["report.html"]


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


def test_scripts_never_set_markup():
    assert set(pages.SCRIPTS) == {file.name for file in ASSETS.glob("*.js")}
    ways = r"innerHTML|outerHTML|insertAdjacent|\.write\(|\beval\b|\bFunction\("
    ways += "|setHTML|srcdoc|DOMParser|createContextualFragment"
    for name in pages.SCRIPTS:
        assert not re.search(ways, pages.asset(name))


class Markup(HTMLParser):
    """Lists the elements of a page, with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.elements.append((tag, [name for name, _ in attrs]))


@pytest.mark.parametrize("make", [letters_part, decoded_part])
def test_no_text_adds_markup_to_a_page(tmp_path: Path, page_of: PageOf, make: Any):
    scorer = "letter" if make is letters_part else "generation"

    def page(texts: list[str], setting: str, name: str) -> str:
        settings = settings_of(setting) | {"scorer": scorer}
        return page_of(make_run(tmp_path / name, make(texts), start=start_of(setting), **settings))

    texts = list(TEXTS.values())
    content = page(texts, " ".join(texts), "hostile")
    plain = page([f"plain {i}" for i in range(len(texts))], "plain", "plain")
    assert Markup(content).elements == Markup(plain).elements
    assert html.escape(TEXTS["image"]) in content  # of a setting
    listed, details = embedded(content)["questions"], embedded(content, "chunk-0")
    for text, entry, detail in zip(texts, listed, details, strict=True):
        assert entry["id"] == entry["text"] == detail["id"] == detail["text"] == text
        assert detail["options"][0] == text
        assert all(answer == shown == text for answer, shown, *_ in detail["completions"])


def test_no_text_adds_markup_to_the_page_of_a_scan(tmp_path: Path):
    results = random_scan(PATHS)

    def elements(text: str, name: str) -> list[str]:
        facts = {"settings": settings_of(text) | {"questions": 60}, "start": start_of(text)}
        hostile = Results([*results, Estimate(CHANGE, text, 0.5)], results.run | facts)
        file = tmp_path / f"{name}.html"
        write_page(Document.of(hostile), file, {"figures": scan_figures(results)})
        page = file.read_text()
        assert text == "plain" or html.escape(TEXTS["image"]) in page
        return re.findall(r"<[a-z/!][^ >]*", page)

    assert elements(" ".join(TEXTS.values()), "hostile") == elements("plain", "plain")


def test_page_of_several_runs(tmp_path: Path, page_of: PageOf, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "CHUNK", 700)
    runs = [make_run(tmp_path / name, *PARTS[:count]) for name, count in (("a", 2), ("b", 1))]
    page = page_of(*runs)
    data = embedded(page)
    assert data["runs"] == ["a/run", "b/run"]
    assert [each["run"] for each in data["questions"]] == [0] * 5 + [1] * 2
    # a question's details are found by chunk and place
    for each in data["questions"]:
        chunk, place = each["at"]
        assert embedded(page, f"chunk-{chunk}")[place]["id"] == each["id"]
    assert data["questions"][-1]["at"][0] > 1
    assert "b/run: nothing shown: " in page
    [row] = re.findall(r"<tr><th scope=\"row\">right on some path that was.*?</tr>", page)
    assert re.findall(r"[\d.]+ %", row) == ["80.0 %", "100.0 %"]


def test_page_of_many_questions_has_files_beside_it(
    tmp_path: Path, page_of: PageOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages, "CHUNK", 4000)
    paths = [(tuple(range(4 - n % 2)), 0, n > 0) for n in range(5)]
    names = [f"question {i} / 30 {TEXTS['script end']}" for i in range(30)]
    run = make_run(tmp_path, merged(letters(name, paths, text="what " * 60) for name in names))
    with monkeypatch.context() as patch:
        patch.setattr(pages, "INLINE", 10_000)
        page = page_of(run)
    data, folder = embedded(page), tmp_path / "pages"
    assert 'id="chunk-' not in page
    assert len(data["files"]) > 2
    assert data["files"] == [
        f"report_files/questions-{i:03d}.js" for i in range(len(data["files"]))
    ]
    listed = {entry["id"]: entry["at"] for entry in data["questions"]}
    assert list(listed) == names
    for number, name in enumerate(data["files"]):
        content = (folder / name).read_text()
        assert "<" not in content
        call = re.fullmatch(r'colaQuestions\("(\w+)",(\d+),(.*)\);\n', content, re.DOTALL)
        assert call
        assert (call[1], int(call[2])) == (data["token"], number)
        for place, detail in enumerate(json.loads(call[3])):
            assert listed[detail["id"]] == [number, place]
    assert embedded(page_of(run))["files"] == []  # older files are removed
    assert [file.name for file in folder.iterdir()] == ["report.html"]


def test_page_shows_thumbnails_from_files_beside_it(run: Run, page_of: PageOf, tmp_path: Path):
    name, folder = thumbnail_name("q2"), tmp_path / "pages" / "report_files"
    write_whole(run.directory / PICTURES / name, b"thumbnail")
    page = page_of(run)
    details = {detail["id"]: detail["picture"] for detail in embedded(page, "chunk-0")}
    assert details.pop("q2") == f"report_files/picture-0-{name}"
    assert set(details.values()) == {None}
    assert (folder / f"picture-0-{name}").read_bytes() == b"thumbnail"
    assert "img-src 'self' file:;" in html.unescape(page)
    (run.directory / PICTURES / name).unlink()
    page_of(run)
    assert not list(folder.glob("*.jpg"))  # older files are removed


def test_page_follows_no_link_out_of_its_folder(run: Run, page_of: PageOf, tmp_path: Path):
    outside, name = tmp_path / "outside", thumbnail_name("q2")
    outside.mkdir()
    for file in ("picture-1.jpg", "questions-1.js", name):
        (outside / file).write_text("mine")
    thumbnails = Path(run.directory / PICTURES)
    thumbnails.mkdir(exist_ok=True)
    (thumbnails / name).symlink_to(outside / name)
    with pytest.raises(InputError, match=f"{name} is a link to"):  # it would be copied
        page_of(run)
    (thumbnails / name).unlink()
    page = tmp_path / "pages" / "report.html"
    page.parent.mkdir(exist_ok=True)
    (page.parent / "report_files").symlink_to(outside)
    with pytest.raises(InputError, match="report_files is a link to"):
        page_of(run)
    (page.parent / "report_files").unlink()
    page.symlink_to(outside / "questions-1.js")
    page_of(run)  # replaces the link
    assert {file.read_text() for file in outside.iterdir()} == {"mine"}
    assert len(list(outside.iterdir())) == 3


def test_page_of_an_evaluation(tmp_path: Path, evaluated_run: Run):
    file = tmp_path / "report.html"
    write_page(Document.of(evaluated_run.summary()), file)
    page = without_scripts(file.read_text())
    assert "0-1,2,2,3" in page
    assert "selected on these same questions" in page
    assert "figure" not in page
    assert 'id="browser"' not in page


def test_page_of_open_questions(open_run: Run, page_of: PageOf):
    page = page_of(open_run)
    data, prose = embedded(page), without_scripts(page)
    assert (data["open"], data["decodes"]) == (True, True)
    assert "expected by chance" in prose
    assert not re.search(r"\boptions?\b", prose)
    assert all(each["completions"] for each in embedded(page, "chunk-0"))


def entries(run: Run) -> tuple[list[Any], list[Any]]:
    listed, details = zip(*pages.question_entries(run), strict=True)
    return list(listed), list(details)


def test_question_entries_of_options(run: Run, tmp_path: Path):
    listed, details = entries(run)
    assert [q["id"] for q in listed] == ["q1", "q2", "q3", "q4", "q5"]
    assert [q["kind"] for q in listed] == ["C→C", "W→C", "W→W", "C→C", "W→C"]
    assert [q["best"] for q in listed] == [3, 5, None, 4, 3]
    assert [q["first"] for q in listed] == [0, 1, None, 0, 1]
    assert [q["controls"] for q in details] == [[], [[2, False]], [[2, True]], [], []]
    # text, verdict, margin, answer, node, parent, edit, target of a control search
    assert details[0]["paths"] == [
        ["0-3", 1, 1.0, 0, 0, None, None, None],
        ["0-1,3", 1, 1.0, 0, 1, 0, "skip 1 at position 2", None],
        ["0,3", 0, -1.0, 2, 2, 1, "edit 2", None],
    ]
    assert details[1]["paths"][2][:4] == ["0,2", 0, None, -1]  # JSON has no infinity
    rows, asked = part("q2")
    control = rows[1] | {"control": True, "target": 2}
    [shown] = entries(make_run(tmp_path, ([*rows, control], asked)))[1]
    assert [path[7] for path in shown["paths"]] == [None, None, None, 2]


def test_question_entries_of_completions(open_run: Run):
    listed, details = entries(open_run)
    assert [q["kind"] for q in listed] == ["C→C", "W→C", "?→C", "W→W"]
    assert [path[8] for path in details[0]["paths"]] == [0, 0, 1, 2]
    assert details[0]["paths"][3][:3] == ["0", None, -0.1]
    # a completion that two paths share is stored once
    assert details[0]["completions"] == [
        ["7", " so 7\n", "stop", 0, 4],
        ["9", " so 9\n", "stop", 0, 4],
        ["seven!", " so seven!\n", "stop", 0, 4],
    ]
    assert details[1]["completions"][0] == [None, " no no", "length", 1, 12]


def test_question_entries_have_the_prompt_if_the_run_kept_it(tmp_path: Path):
    asked = part("q1", prompt="Question: <b>q1</b>"), part("q2")
    _, details = entries(make_run(tmp_path, *asked))
    assert [each["prompt"] for each in details] == ["Question: <b>q1</b>", None]


def test_edit_text_names_the_position():
    assert pages.edit_text("repeat 1 at 13 x1") == "repeat 1 at position 13"
    assert pages.edit_text("repeat 1 at 13 x2") == "repeat 1 at position 13 x2"


def test_long_texts_are_shortened(tmp_path: Path):
    long = [((n,), "7" * 5000, False, {"text": f"{n}" * 5000}) for n in range(2)]
    run = make_run(tmp_path, answers("g1", long, text="x" * 500), scorer="generation")
    [entry], [shown] = entries(run)
    assert len(entry["text"]) == pages.MAX_LISTED
    assert shown["text"] == "x" * 500
    for answer, text, *_ in shown["completions"]:
        assert "3,000 characters left out" in text
        assert "4,800 characters left out" in answer


def test_path_texts_write_ids_and_ranges():
    assert not pages.is_moved([0, 1, 2, 1, 2, 3])  # but repeated
    assert pages.is_moved([0, 2, 1, 3])
    rows = [(0, 1, 2, 3), (0, 1, 1, 2), (2, 0), (), (3,), (4, 5)]
    column = pa.chunked_array([pa.array(rows, pa.list_(pa.int16())).slice(0)])
    assert pages.path_texts(column) == ["0-3", "0-1,1-2", "2,0", "", "3", "4-5"]
    assert pages.path_texts(column.slice(4)) == ["3", "4-5"]


def test_script_json_cannot_end_its_element_or_line():
    value = dict(zip(TEXTS.values(), reversed(TEXTS.values()), strict=True))
    text = pages.script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_scripts_in_node():
    checks, scripts = (
        Path(__file__).parent / "scripts.js",
        [ASSETS / name for name in pages.SCRIPTS],
    )
    run = subprocess.run(["node", checks, *scripts], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_page_shows_pictures_beside_it(evaluated_run: Run, tmp_path: Path):
    file = tmp_path / "report.html"
    picture = Picture("report_files/a.svg", "A <b>", "What it shows.")
    write_page(Document.of(evaluated_run.summary()), file, pictures=[picture])
    page = file.read_text()
    assert '<img class="picture" src="report_files/a.svg" alt="A &lt;b&gt;">' in page
    assert "<figcaption>What it shows.</figcaption>" in page
    assert "img-src 'self' file:" in html.unescape(page)

"""`cola report`: one run, several on one page, and what it refuses."""

import json
from pathlib import Path

import pytest

from cola_jax.cli.main import main
from tests.cli.conftest import Refused
from tests.report.conftest import PARTS, make_run


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    made = [make_run(tmp_path / name, *PARTS, model="one") for name in ("a", "b")]
    return [str(run.directory) for run in made]


def test_report_of_one_run(runs: list[str], capsys: pytest.CaptureFixture[str]):
    main(["report", runs[0]])
    assert {"report.html", "report.md", "results.json"} <= {x.name for x in Path(runs[0]).iterdir()}
    shown = capsys.readouterr().out
    assert shown.startswith("Nothing shown: ")
    assert "Cost" not in shown
    main(["report", runs[0], "--all"])
    shown = capsys.readouterr().out
    assert "Cost" in shown


def test_report_of_names_with_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = "[/b][bold]:smile:"
    runs = [str(make_run(tmp_path / one / name, *PARTS).directory) for one in "ab"]
    page = tmp_path / name / "report.html"
    main(["report", *runs, "--page", str(page)])
    shown = capsys.readouterr()
    assert f"a/{name}/run" in shown.out
    assert f"report: {page}, and" in shown.err


def test_report_of_several_runs(
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    main(["report", *runs])
    shown = capsys.readouterr().out
    assert shown.count("correct before (pretrained model)") == 2
    assert "Against a/run" in shown
    assert "b/run: now correct, beyond" in shown
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "report.md").read_text().count("## Settings") == 2
    assert not (Path(runs[0]) / "report.html").exists()
    main(["report", *runs, "--json", "--page", str(tmp_path / "x" / "page.html")])
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert (tmp_path / "x" / "page.html").exists()


def test_report_with_the_preference_of_another_run(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
):
    main(["report", runs[0]])
    file = Path(runs[0]) / "results.json"
    known = json.loads(file.read_text())
    known["cola_jax"]["effects"]["preference"] = {"tau": 1.25, "error": 0.5}
    file.write_text(json.dumps(known))
    capsys.readouterr()
    main(["report", runs[1], "--all", "--preference", str(file)])
    assert "1.25 ± 0.50" in capsys.readouterr().out
    (tmp_path / "other.json").write_text("{}")
    error = refused("report", runs[1], "--preference", str(tmp_path / "other.json"))
    assert "has no preference: give the results.json of a search" in error


def test_report_refuses_runs_before_any_work(runs: list[str], tmp_path: Path, refused: Refused):
    assert "for one run" in refused("report", *runs, "--polar", "x.json")
    other = str(make_run(tmp_path / "c", *PARTS, model="another").directory)
    assert "its model is one, here it is another" in refused("report", *runs, other)
    assert not (Path(runs[0]) / "results.json").exists()


@pytest.mark.parametrize("page", ["notes.md", "", "run.json", "questions.jsonl/page.html"])
def test_report_replaces_nothing_but_pages(
    runs: list[str], tmp_path: Path, page: str, refused: Refused
):
    (tmp_path / "questions.jsonl").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    error = refused("report", runs[0], "--page", str(tmp_path / page))
    assert any(why in error for why in ("ends in .html", "is not a directory", "is a directory"))
    assert sorted(tmp_path.rglob("*")) == before

"""`cola report`: one run, several on one page, and what it refuses."""

import json
from pathlib import Path

import datasets
import pytest

from cola_jax.cli.main import main
from cola_jax.cli.report import show_results
from tests.small_runs import PARTS, START, make_run


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    made = [make_run(tmp_path / name, *PARTS, model="one") for name in ("a", "b")]
    return [str(run.directory) for run in made]


def test_report_of_one_run(runs, tmp_path, capsys, refused):
    main(["report", runs[0]])
    assert {"report.html", "report.md", "results.json"} <= {x.name for x in Path(runs[0]).iterdir()}
    shown = capsys.readouterr().out
    assert shown.startswith("Nothing shown: ")
    assert "Cost" not in shown
    file = Path(runs[0]) / "results.json"
    known = json.loads(file.read_text())
    (preference,) = [each for each in known["estimates"] if "preference for gold" in each["name"]]
    preference |= {"value": 1.25, "low": 0.25, "high": 2.25}
    del known["run"]["digest"]  # as of earlier versions, as it would not fit
    file.write_text(json.dumps(known))
    main(["report", runs[1], "--all", "--preference", str(file)])
    shown = capsys.readouterr().out
    assert "Cost" in shown
    assert "1.25 0.25 to 2.25" in " ".join(shown.split())
    file.write_text("{}")
    assert "Give the results.json" in refused("report", runs[1], "--preference", file)


def test_report_writes_the_layout_of_lm_eval(runs, tmp_path):
    main(["report", runs[0], "--lm-eval", str(tmp_path / "harness.json")])
    assert "results" in json.loads((tmp_path / "harness.json").read_text())


def test_report_writes_records_for_every_eval_ever(tmp_path, capsys):
    start = START | {"versions": {"cola-jax": "1"}, "date": "2026-11-29"}
    run = make_run(tmp_path, *PARTS, start=start, scorer="letter")
    main(["report", str(run.directory), "--every-eval-ever", str(tmp_path / "out")])
    assert f"Every Eval Ever: 1 record in {tmp_path / 'out'}\n" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("data/*/someone/model/*"))) == 2


def test_report_uploads_a_run_as_a_data_set(runs, hub, tmp_path, capsys):
    main(["report", runs[0], "--push-to-hub", "me/run"])
    assert capsys.readouterr().err.endswith("/datasets/me/run\n")
    for name, content in hub.repositories["datasets/me/run"].items():
        file = tmp_path / "copy" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for name, rows in (("questions", 5), ("evaluations", 13)):
        cache = str(tmp_path / "cache")
        table = datasets.load_dataset(str(tmp_path / "copy"), name, split="train", cache_dir=cache)
        assert len(table) == rows
    card = tmp_path / "copy" / "README.md"
    assert "# someone/model on unknown task" in card.read_text()
    (Path(runs[0]) / "README.md").write_text("mine")
    main(["report", runs[0], "--push-to-hub", "me/run"])
    assert hub.repositories["datasets/me/run"]["README.md"] == b"mine"


def test_report_of_several_runs(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["report", *runs])
    shown = capsys.readouterr().out
    assert shown.count("right before (pretrained model)") == 1
    assert "b/run: nothing shown: " in " ".join(shown.split())
    assert "Against a/run, on the questions of both" in shown
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "report.md").read_text().count("## Settings") == 1
    assert not (Path(runs[0]) / "report.html").exists()
    main(["report", *runs, "--json", "--page", str(tmp_path / "x" / "page.html")])
    content = json.loads(capsys.readouterr().out)
    assert len(content["runs"]) == 2
    assert content["changes"]["estimates"]
    assert (tmp_path / "x" / "page.html").exists()


def test_report_of_names_with_markup(tmp_path, capsys):
    name = "[/b][bold]:smile:"
    runs = [str(make_run(tmp_path / one / name, *PARTS).directory) for one in "ab"]
    page = tmp_path / name / "report.html"
    main(["report", *runs, "--page", str(page)])
    shown = capsys.readouterr()
    assert f"a/{name}/run" in shown.out
    assert f"report: {page}, and" in shown.err


def test_report_refuses_bad_input_before_any_work(runs, tmp_path, refused):
    other = str(make_run(tmp_path / "c", *PARTS, model="another").directory)
    (tmp_path / "questions.jsonl").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ([*runs, "--polar", "x.json"], "for one run"),
        ([*runs, "--every-eval-ever", "x"], "for one run"),
        ([*runs, "--push-to-hub", "me/run"], "for one run"),
        ([*runs, other], "its model is one, here it is another"),
        ([runs[0], "--page", tmp_path / "notes.md"], "ends in .html"),
        ([runs[0], "--page", tmp_path], "is a directory"),
        ([runs[0], "--page", tmp_path / "questions.jsonl/page.html"], "is not a directory"),
    ):
        assert message in refused("report", *arguments)
    assert sorted(tmp_path.rglob("*")) == before


STORED = {
    "run": {"settings": {}, "start": {"num_layers": 4}, "held_out": 5},
    "estimates": [
        {"name": "correct", "group": "\x1b[31m[bold]", "value": 0.5, "n": 5},
        {"name": "seconds alone", "group": "0-1", "value": 0.5, "unit": "seconds"},
    ],
}


def test_report_of_stored_results(tmp_path, capsys, refused):
    (tmp_path / "static.json").write_text("{}")
    file = tmp_path / "results.json"
    file.write_text(json.dumps(STORED))
    main(["report", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31m[bold]" in shown
    assert "seconds alone" not in shown
    assert "seconds alone" in (tmp_path / "report.md").read_text()
    for flag in ("--lm-eval", "--preference"):
        assert f"{flag} is for runs" in refused("report", tmp_path, flag, tmp_path / "other.json")
    for run in ({}, STORED["run"] | {"start": []}, STORED["run"] | {"held_out": "five"}):
        file.write_text(json.dumps(STORED | {"run": run}))
        assert "results.json cannot be read" in refused("report", tmp_path)


def test_report_of_an_unfinished_static_search_names_the_command(tmp_path, refused):
    run = make_run(tmp_path, *PARTS, command="static")
    assert "no results yet: run the same `cola static` again" in refused("report", run.directory)


def test_json_of_several_tasks_is_kept_in_the_runs_too(runs, capsys):
    show_results(runs, as_json=True)
    every = json.loads(capsys.readouterr().out)
    for directory, content in zip(runs, every, strict=True):
        assert json.loads((Path(directory) / "results.json").read_text()) == content

"""Tables of estimates, the report of a run, and names and settings of runs."""

import dataclasses
import re
from pathlib import Path

from markdown_it import MarkdownIt

from cola_jax.report import document
from cola_jax.report.document import Document, compared, markdown_report, run_names
from cola_jax.report.tables import side_by_side, tables_of
from cola_jax.runs.comparison import compare_runs
from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL, TRIES, Estimate
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.strategies.rules import PRESETS
from tests.report.hostile import TEXTS, letters_part, settings_of, start_of
from tests.small_runs import PARTS, SETTINGS, START, make_run, part, text_of, words_of

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
KINDS = {"text", "text_special"}  # of all that is in a line


def test_earlier_tries_of_claims_are_in_the_table_of_the_protocol():
    estimates = [Estimate.count(TRIES, 1, group=group) for group in ("a claim", "")]
    assert tables_of(estimates[:1]) == []
    assert tables_of(estimates[1:])[0].rows[0].label == TRIES


def test_report_begins_with_a_verdict_and_ten_rows(run: Run):
    report = Document.of(run.summary())
    assert report.sentences[0].startswith("Nothing shown: ")
    assert len(report.tables[0].rows) <= 10
    text = text_of(run, whole=False)
    sizes = "15 evaluations on 5 of 6 questions (unfinished), for this prompt alone; 4 layers."
    assert sizes in " ".join(text.split())
    assert re.search(r"W→C: wrong before, right on some path +50\.0 % +9\.5 to 90\.5 +2", text)
    assert re.search(r"expected by chance and preference +50\.0 % +\S+ to \S+ +2", text)
    assert "Cost" not in text
    text = words_of(run)
    assert "right before (pretrained model) 40.0 %" in text
    assert "added by control searches 2 " in text


def test_report_of_paths_has_a_row_for_each(evaluated_run: Run):
    text = text_of(evaluated_run)
    assert re.search(r"0, 3 +2 +100\.0 % +\+50\.0 +1\.000 +4\.00", text)
    assert re.search(r"the model +4 +50\.0 % +0\.50", text)
    assert "evaluations, not finite" in text


def test_tables_put_groups_in_rows_and_single_figures_below():
    estimates = [
        Estimate("layers", "0,3", 2, unit="count"),
        Estimate(CORRECT, "0,3", 0.75, low=0.5, high=0.9, n=8),
        Estimate(CHANGE, "0,3", 0.25, unit="points", corrected=0.03, note="better"),
        Estimate(CORRECT, MODEL, 0.5, n=8),
        Estimate("prompt 1", "0,3", 0.5, unit="points"),
        Estimate.count("evaluations", 16),
    ]
    main, whole, prompts = tables_of(estimates)
    assert main.columns == ("", "layers", CORRECT, CHANGE, "p")
    path, model = main.rows
    assert path.cells == ("2", "75.0 %\n50.0 to 90.0", "+25.0\nbetter", "0.030")
    assert (model.label, model.bold, model.cells[2:]) == (MODEL, True, ("", ""))
    assert [row.label for row in whole.rows] == ["evaluations"]
    assert (prompts.heading, prompts.columns) == ("In each prompt", ("", "prompt 1"))


def test_lead_has_the_size_of_each_task():
    run = {"start": {"num_layers": 4}, "settings": {"questions": 20}, "done": 20, "prompts": 8}
    evaluations = Estimate.count("evaluations", 900)
    assert Document.of(Results([evaluations], run)).lead == (
        "900 evaluations on 20 of 20 questions, in 8 prompts; 4 layers."
    )
    several = run | {"sizes": {"arithmetic": [20, 8], "arc-easy": [1000, 1]}}
    assert Document.of(Results([evaluations], several)).lead == (
        "900 evaluations on 20 questions of arithmetic, in 8 prompts, and 1,000 questions of "
        "arc-easy, for this prompt alone; 4 layers."
    )


def test_paths_tried_by_a_search_for_one_path_are_no_answers():
    tried = Estimate.count("paths tried on all training questions", 7)
    [table] = tables_of([tried, Estimate.count("training questions", 8)])
    assert table.heading == ""


def test_long_tables_are_folded():
    estimates = [Estimate(CORRECT, str(i), i / 20, n=20) for i in range(13)]
    first, others = tables_of(estimates)
    assert (len(first.rows), len(others.rows), others.heading) == (10, 3, "All others")


def test_runs_stand_side_by_side(tmp_path: Path):
    asked = part("q2", baseline_scores=[[-2.0, -1.0, -3.0]])
    runs = [make_run(tmp_path / "once", asked), make_run(tmp_path / "more", asked, part("q1"))]
    names = run_names(runs)
    every = {name: run.summary() for name, run in zip(names, runs, strict=True)}
    report = compared(every, Results(compare_runs(runs, names)))
    assert [text.partition(":")[0] for text in report.sentences] == [*names, names[1]]
    rows = {row.label: row.cells for row in report.tables[0].rows}
    assert rows["right before (pretrained model)"] == ("0.0 %\n0.0 to 79.3", "50.0 %\n9.5 to 90.5")
    assert "Against once/run, on the questions of both" in [each.heading for each in report.tables]
    [table] = side_by_side(names, [[Estimate("x", value=0.5)], []])
    assert table.rows[0].cells == ("50.0 %", "")


def test_run_names_tell_runs_apart():
    for directories, names in (
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run", "y/other"], ["x/run", "y/run", "y/other"]),
        (["runs/a"], ["a"]),
        # what would turn or end the lines of numbers is not shown, and tells no runs apart
        (["x/\u202ea\nb"], ["\ufffda\ufffdb"]),
        (["\u202e", "\u202d"], ["1: \ufffd", "2: \ufffd"]),
    ):
        assert run_names(list(map(Run, directories))) == names


def markdown(folder: Path, texts: list[str], text: str) -> str:
    """Write the Markdown of a run of these texts whose settings are a text."""
    settings = settings_of(text) | {"scorer": "letter"}
    run = make_run(folder, letters_part(texts), start=start_of(text), **settings)
    return markdown_report(Document.of(run.summary()), whole=True)


def test_no_text_is_markup(tmp_path: Path):
    texts = list(TEXTS.values())
    plain = READER.parse(markdown(tmp_path / "plain", [f"{i}" for i in range(len(texts))], "plain"))
    hostile = READER.parse(markdown(tmp_path / "hostile", texts, " ".join(texts)))
    assert [token.type for token in hostile] == [token.type for token in plain]
    assert {part.type for token in hostile for part in token.children or ()} <= KINDS


def test_long_texts_are_shortened(tmp_path: Path):
    content = markdown(tmp_path, ["x" * 10**5, "y" * 10**5], "z" * 10**5)
    assert len(content) < 100_000
    assert max(map(len, content.splitlines())) < 5000


def test_markdown_title_keeps_its_line(tmp_path: Path):
    name = "a\u202e\n# b"
    run = make_run(tmp_path, *PARTS, start=START | {"origin": {}, "model": name, "task": name})
    report = Document.of(run.summary())
    first, _, verdict, *_ = markdown_report(report).splitlines()
    assert first.count("a\ufffd\ufffd\\# b") == 2
    assert verdict.startswith("Nothing shown: ")
    assert "## Cost" not in markdown_report(report)
    assert "## Cost" in markdown_report(report, whole=True)


def test_cut_middle_removes_the_middle():
    assert document.cut_middle("a" * 9, 9) == "a" * 9
    text = document.cut_middle("abc" + "-" * 1000 + "defghi", 9)
    assert text == "abc […1,000 characters left out…] defghi"


def test_title_is_short_and_printable():
    for text in (*TEXTS.values(), "W" * 10**6, "<\n" * 10**6, "\u202e字" * 10**6):
        name = document.title(text)
        assert name.isprintable()
        assert len(name) <= document.MAX_NAME
        if text.isprintable() and len(text) <= document.MAX_NAME:
            assert name == text
        else:
            assert "\ufffd" in name or "…" in name


def test_run_settings_are_flat_and_name_the_preset():
    name, preset = next(iter(PRESETS.items()))
    prompt = {"format": {"name": "boxed"}, "shots": ["a", "b"], "chat": None}
    settings = SETTINGS | {"preset": dataclasses.asdict(preset), "prompt": prompt}
    start = START | {"versions": {"jax": "0.10.2"}}
    values = dict(document.run_settings(settings, start))
    assert values["preset name"] == name
    assert values["prompt: format: name"] == "boxed"
    assert values["prompt: shots"] == '["a", "b"]'
    assert values["start: versions: jax"] == "0.10.2"
    assert values["start: origin: name"] == "someone/model"
    assert "prompt: chat" not in values
    earlier = settings | {"preset": dataclasses.asdict(preset) | {"exits": 0}}
    assert document.preset_name(earlier) == name
    assert document.preset_name(settings | {"preset": earlier["preset"] | {"exits": 2}}) == "custom"
    unknown = document.run_settings(SETTINGS, START)
    assert dict(unknown)["preset name"] == "custom"

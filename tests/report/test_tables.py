"""Tables: formats, the terminal, Markdown, and names and settings of runs."""

import dataclasses
from pathlib import Path

from markdown_it import MarkdownIt

from cola_jax.report import search_report, summarise, tables
from cola_jax.strategies.rules import PRESETS
from tests.report.conftest import PARTS, SETTINGS, START, make_run
from tests.report.hostile import TEXTS, letters_part, settings_of, start_of

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
KINDS = {"text", "text_special"}  # of all that is in a line


def markdown(folder: Path, texts: list[str], text: str) -> str:
    """Write the Markdown of a run of these texts whose settings are a text."""
    settings = settings_of(text) | {"scorer": "letter"}
    run = make_run(folder, letters_part(texts), start=start_of(text), **settings)
    return tables.markdown_report(search_report(run, summarise(run)), whole=True)


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
    report = search_report(run, summarise(run))
    first, _, verdict, *_ = tables.markdown_report(report).splitlines()
    assert first.count("a\ufffd\ufffd\\# b") == 2
    assert verdict.startswith("Nothing shown: ")
    assert "## Cost" not in tables.markdown_report(report)
    assert "## Cost" in tables.markdown_report(report, whole=True)


def test_cut_middle_removes_the_middle():
    assert tables.cut_middle("a" * 9, 9) == "a" * 9
    text = tables.cut_middle("abc" + "-" * 1000 + "defghi", 9)
    assert text == "abc […1,000 characters left out…] defghi"


def test_title_is_short_and_printable():
    for text in (*TEXTS.values(), "W" * 10**6, "<\n" * 10**6, "\u202e字" * 10**6):
        name = tables.title(text)
        assert name.isprintable()
        assert len(name) <= tables.MAX_NAME
        if text.isprintable() and len(text) <= tables.MAX_NAME:
            assert name == text
        else:
            assert "\ufffd" in name or "…" in name


def test_run_settings_are_flat_and_name_the_preset():
    name, preset = next(iter(PRESETS.items()))
    prompt = {"format": {"name": "boxed"}, "shots": ["a", "b"], "chat": None}
    settings = SETTINGS | {"preset": dataclasses.asdict(preset), "prompt": prompt}
    start = START | {"versions": {"jax": "0.10.2"}}
    values = dict(tables.run_settings({"settings": settings, "starts": [{}, start]}))
    assert values["preset name"] == name
    assert values["prompt: format: name"] == "boxed"
    assert values["prompt: shots"] == '["a", "b"]'
    assert values["start 2: versions: jax"] == "0.10.2"
    assert values["start 2: origin: name"] == "someone/model"
    assert "prompt: chat" not in values
    unknown = tables.run_settings({"settings": SETTINGS, "starts": [START]})
    assert dict(unknown)["preset name"] == "custom"

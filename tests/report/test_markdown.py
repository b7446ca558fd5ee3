"""The Markdown of a run: its tables, and texts that are no markup in it."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from cola_jax.report import summarise, write_markdown
from tests.report.conftest import PARTS, START, make_run
from tests.report.hostile import TEXTS, letters_part, settings_of, start_of

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
KINDS = {"text", "text_special"}  # of all that is in a line


def markdown(folder: Path, texts: list[str], text: str) -> str:
    """Writes the Markdown of a run of these texts whose settings are a text."""
    settings = settings_of(text) | {"scorer": "letter"}
    run = make_run(folder, letters_part(texts), start=start_of(text), **settings)
    write_markdown([run], [summarise(run)], folder / "report.md")
    return (folder / "report.md").read_text()


def test_no_text_is_markup(tmp_path: Path):
    texts = list(TEXTS.values())
    plain = READER.parse(markdown(tmp_path / "plain", [f"{i}" for i in range(len(texts))], "plain"))
    hostile = READER.parse(markdown(tmp_path / "hostile", texts, " ".join(texts)))
    assert [token.type for token in hostile] == [token.type for token in plain]
    assert {one.type for token in hostile for one in token.children or ()} <= KINDS


def test_long_texts_are_shortened(tmp_path: Path):
    content = markdown(tmp_path, ["x" * 10**5, "y" * 10**5], "z" * 10**5)
    assert len(content) < 100_000
    assert max(map(len, content.splitlines())) < 5000


@pytest.mark.parametrize("name", ["model", "task"])
def test_title_keeps_its_line(tmp_path: Path, name: str):
    start = START | {"origin": {}, name: "a\u202e\n# b"}
    run = make_run(tmp_path, *PARTS, start=start)
    write_markdown([run], [summarise(run)], tmp_path / "report.md")
    title = (tmp_path / "report.md").read_text().splitlines()[0]
    assert "a\ufffd\ufffd\\# b" in title
